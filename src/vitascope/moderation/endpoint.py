"""An OpenAI-compatible moderation endpoint."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from vitascope.outbound import OwnService, Unanswered

PATH = "/moderations"

MAX_REASONS = 20
MAX_REASON_CHARS = 60


class ModerationEndpoint:
    """Asks an endpoint.

    Args:
        service: where it is.
        model: its name there; None leaves that to the endpoint.
        categories: what counts, by the endpoint's names; empty for all that it flags.
        seconds: what an answer may take.
    """

    def __init__(
        self,
        service: OwnService,
        *,
        model: str | None = None,
        categories: Collection[str] = (),
        seconds: float = 10.0,
    ) -> None:
        self._service = service
        self._model = model
        self._categories = frozenset(categories)
        self._seconds = seconds

    async def reasons(self, texts: Sequence[str]) -> list[tuple[str, ...] | None]:
        """Ask about some texts.

        Returns:
            For each of them why it is flagged, or None if it is not.

        Raises:
            Unanswered: there is no answer, or none that can be understood.
        """
        body: dict[str, Any] = {"input": list(texts)}
        if self._model is not None:
            body["model"] = self._model
        answer = await self._service.post(PATH, body, seconds=self._seconds)
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list) or len(results) != len(texts):
            raise Unanswered("answered in a form that is not a moderation's")
        return [self._reasons_of(result) for result in results]

    def _reasons_of(self, result: Any) -> tuple[str, ...] | None:
        if not isinstance(result, dict) or not isinstance(result.get("flagged"), bool):
            raise Unanswered("answered in a form that is not a moderation's")
        given = result.get("categories")
        named = (
            [str(name) for name, is_on in given.items() if is_on is True] if isinstance(given, dict) else []
        )
        if self._categories:
            if result["flagged"] and not isinstance(given, dict):  # for one of them, or not: nobody knows
                raise Unanswered("answered without categories")
            named = [name for name in named if name in self._categories]
            return tuple(named) or None
        shown = tuple(name[:MAX_REASON_CHARS] for name in named[:MAX_REASONS])
        return (shown or ("flagged",)) if result["flagged"] else None

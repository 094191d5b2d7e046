"""Whether what a client wants to see, in its own words, is what the operator allows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from vitascope.domain.errors import ContentRejected, ModerationUnavailable
from vitascope.outbound import Unanswered

from .endpoint import ModerationEndpoint
from .words import WordList

logger = logging.getLogger(__name__)

LONG_CHARS = 2000
"""Longer texts are looked through in a thread: 32,000 characters would hold an event loop for tens of milliseconds."""

LONG_ENTRIES = 2000
"""So are all texts for longer lists: 100,000 entries that begin with a wildcard take 0.1 to 0.3 s for 2,000 characters."""


class PromptCheck:
    """The list first, which costs nothing, then the endpoint.

    Args:
        words: None for no list.
        endpoint: None for no endpoint.
        passes_when_away: what becomes of texts that the endpoint does not answer about.
    """

    def __init__(
        self,
        words: WordList | None = None,
        endpoint: ModerationEndpoint | None = None,
        *,
        passes_when_away: bool = False,
    ) -> None:
        self._words = words
        self._endpoint = endpoint
        self._passes_when_away = passes_when_away

    async def check(self, texts: Mapping[str, str]) -> None:
        """Look through texts, by the names of their parameters.

        Raises:
            ContentRejected: one of them is not allowed.
            ModerationUnavailable: the endpoint does not answer, and then nothing passes.
        """
        texts = {name: text for name, text in texts.items() if text.strip()}
        if self._words is not None:
            if sum(map(len, texts.values())) > LONG_CHARS or self._words.num_entries > LONG_ENTRIES:
                await asyncio.to_thread(self._look_through, self._words, texts)
            else:
                self._look_through(self._words, texts)
        if self._endpoint is not None and texts:
            await self._ask(self._endpoint, texts)

    def check_now(self, text: str) -> None:
        """Do the same with a prompt, in a thread without an event loop; raises the same."""
        asyncio.run(self.check({"prompt": text}))

    def _look_through(self, words: WordList, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            entry = words.found(text)
            if entry is not None:
                raise ContentRejected(
                    name, text, f"it holds {entry!r}, which this server does not take", reasons=("words",)
                )

    async def _ask(self, endpoint: ModerationEndpoint, texts: Mapping[str, str]) -> None:
        try:
            found = await endpoint.reasons(list(texts.values()))
        except Unanswered as error:
            logger.warning("texts not checked: the moderation endpoint %s", error.reason)
            if self._passes_when_away:
                return
            raise ModerationUnavailable from error
        for (name, text), reasons in zip(texts.items(), found, strict=True):
            if reasons is not None:
                rule = f"the content check found in it what this server does not take ({', '.join(reasons)})"
                raise ContentRejected(name, text, rule, reasons=reasons)

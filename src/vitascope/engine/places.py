"""How many generations may be open at the same time. Knows nothing of torch, nor of memory."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator


class EngineBusy(RuntimeError):
    """More was asked of the engine than `Engine.capacity` allows: a mistake of the caller, of which no client hears."""


class Places:
    """The places for open generations, of whatever models.

    Args:
        number: how many there are.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._taken: Counter[str] = Counter()

    @property
    def free(self) -> int:
        """How many more generations may be opened now."""
        return self._number - self.num_taken

    def open(self, model_id: str) -> int:
        """How many generations of a model are open."""
        return self._taken[model_id]

    @property
    def num_taken(self) -> int:
        """How many generations are open, of whatever model."""
        return self._taken.total()

    @contextlib.contextmanager
    def take(self, model_id: str) -> Iterator[None]:
        """Hold a place.

        Raises:
            EngineBusy: all are taken.
        """
        if not self.free:
            self.require_idle(f"generate with model `{model_id}`")
        self._taken[model_id] += 1
        try:
            yield
        finally:
            self._taken -= Counter([model_id])

    def require_idle(self, wish: str) -> None:
        """Make sure that no generation is open.

        Raises:
            EngineBusy: one is.
        """
        if self._taken:
            models = ", ".join(f"`{model_id}`" for model_id in sorted(self._taken))
            message = f"cannot {wish}: {self.num_taken} of {self._number} places run {models}"
            raise EngineBusy(message)

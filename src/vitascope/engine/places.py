"""How many generations may be open at the same time. Knows nothing of torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from vitascope.domain.model_spec import ModelSpec


class EngineBusy(RuntimeError):
    """More was asked of the engine than `Engine.capacity` allows: a mistake of the caller, of which no client hears."""


class Places:
    """The places for open generations: all of one model, since another one would have to unload it.

    Args:
        number: how many there are.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._taken = 0
        self._spec: ModelSpec | None = None

    def free(self, spec: ModelSpec) -> int:
        """How many more generations of this model may be opened now."""
        return 0 if self._taken and self._spec != spec else self._number - self._taken

    @contextlib.contextmanager
    def take(self, spec: ModelSpec) -> Iterator[None]:
        """Hold a place.

        Raises:
            EngineBusy: all are taken, or another model runs.
        """
        if not self.free(spec):
            self.require_idle(f"generate with model `{spec.id}`")
        self._spec = spec
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    def require_idle(self, wish: str) -> None:
        """Make sure that no generation is open.

        Raises:
            EngineBusy: one is.
        """
        if self._taken:
            assert self._spec is not None
            raise EngineBusy(f"cannot {wish}: {self._taken} of {self._number} places run `{self._spec.id}`")

"""Which models' files this worker has: told to the store when that has changed."""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_SECONDS = 30.0
"""So often files are looked at; what the worker itself downloads or removes it looks for at once."""


class Available:
    """What there is, and whether the store knows it. Safe to use from several threads.

    Args:
        look: names the models whose files are here; looks at files.
        clock: monotonic seconds.
    """

    def __init__(
        self, look: Callable[[], frozenset[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._clock = clock
        self._look_at = float("-inf")
        self._found: frozenset[str] = frozenset()
        self._told: frozenset[str] | None = None

    def news(self) -> frozenset[str] | None:
        """Return what is to be told; None if nothing has changed since that was."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._found = self._look()
        return None if self._found == self._told else self._found

    def was_told(self, told: frozenset[str] | None) -> None:
        """Note that the store knows it."""
        self._told = self._told if told is None else told

    def look_soon(self) -> None:
        """Look at the files the next time: they have changed."""
        self._look_at = float("-inf")

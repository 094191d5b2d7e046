"""Which models' files are anywhere in this deployment: on a worker that has told, or on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from vitascope.domain.errors import StoreUnavailable
from vitascope.domain.model_spec import ModelSpec

FRESH_SECONDS = 2.0
"""How long a look at the workers is good for: requests that name another model than the default ask often."""


class Availability:
    """Safe to use from several threads.

    Args:
        look: returns what each worker has, by id; None of one that has not told.
        is_here: whether this machine has a model; looks at files.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        look: Callable[[], Sequence[frozenset[str] | None]],
        is_here: Callable[[ModelSpec], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._is_here = is_here
        self._clock = clock
        self._lock = threading.Lock()
        self._good_until = float("-inf")
        self._told: Sequence[frozenset[str] | None] = ()
        self._missing: set[str] = set()

    def has(self, spec: ModelSpec) -> bool:
        """Whether jobs of a model can be made. Where a worker has not told, or the store does not answer, it is believed."""
        with self._lock:
            if self._clock() > self._good_until:
                try:
                    self._told = self._look()
                except StoreUnavailable:
                    return True
                self._missing.clear()
                self._good_until = self._clock() + FRESH_SECONDS
            if any(models is None or spec.id in models for models in self._told):
                return True
            if spec.id not in self._missing and self._is_here(spec):
                return True
            self._missing.add(spec.id)
            return False

    def forget(self) -> None:
        """Look anew at the next question: something has changed here."""
        self._good_until = float("-inf")

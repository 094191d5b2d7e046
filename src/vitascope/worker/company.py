"""What the making of one job and whoever drives it beside others know of each other. Knows nothing of jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

from vitascope.domain.step import Step
from vitascope.engine import Sharing

T = TypeVar("T")

LOOK_SECONDS = 0.1
"""How often what needs no device says how far it is, and can be cancelled."""

STOOD_STILL = "stand_still"
"""Where a video's seconds tell how long it could have gone on, and others had the device."""


@dataclass(slots=True, kw_only=True)
class Company:
    """Others that are made at the same time.

    Without `wake` there are none: where there is nothing to do but to wait, the making does that itself. With it, it says
    so by a step that `is_waiting`, and wants to be looked at again soon, or as soon as `wake` was called.
    """

    #: Called from any thread when there is something to do again.
    wake: Callable[[], None] | None = None
    #: Told by who drives: seconds for which it could have gone on, and others had the device.
    stood_seconds: float = 0.0
    #: Of the generation that is open, with those of others.
    sharing: Sharing | None = None
    #: Whether it has a place in the engine now.
    is_generating: bool = False

    def now(self) -> float:
        """Seconds on a clock that stands still with the making."""
        return time.monotonic() - self.stood_seconds


class Aside(threading.Thread, Generic[T]):
    """Work that needs no device, in a thread.

    Args:
        work: what is done; given up where nobody waits for it.
        name: of the thread.
    """

    def __init__(self, work: Callable[[], T], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._wake: Callable[[], None] | None = None
        self._result: T | None = None
        self._error: BaseException | None = None
        self._is_over = threading.Event()

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            self._error = error
        self._is_over.set()
        if self._wake is not None:
            self._wake()

    def over(self, company: Company, step: Callable[[], Step]) -> Generator[Step, None, T]:
        """Do the work, saying how far it is; returns what it returns, and raises what it raises."""
        self._wake = company.wake
        self.start()
        while not self._is_over.is_set():
            shown = step()
            yield Step(shown.stage, shown.index, shown.of, is_waiting=True)
            if company.wake is None:
                self._is_over.wait(LOOK_SECONDS)
        return self.result()

    def result(self) -> T:
        """Wait for the work; returns what it returns, and raises what it raises."""
        self.join()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback holds this frame
        return self._result  # type: ignore[return-value]  # there is no error: it is there

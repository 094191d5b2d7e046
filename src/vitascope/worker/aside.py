"""Work that needs no device, beside what does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from vitascope.domain.step import Step

from .reins import LOOK_SECONDS, Reins

T = TypeVar("T")


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

    def over(self, reins: Reins, step: Callable[[], Step]) -> Generator[Step, None, T]:
        """Do the work, saying how far it is; returns what it returns, and raises what it raises."""
        self._wake = reins.wake
        self.start()
        while not self._is_over.is_set():
            shown = step()
            yield Step(shown.stage, shown.index, shown.of, is_waiting=True)
            if reins.wake is None:
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

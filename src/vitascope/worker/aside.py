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
        stop: asks the work to come to its end soon, where it may not be given up: it leaves something behind.
    """

    def __init__(self, work: Callable[[], T], name: str, stop: Callable[[], None] | None = None) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._stop_soon = stop
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
        reins.halt = self._halt
        self.start()
        try:
            while not self._is_over.is_set():
                shown = step()
                yield Step(shown.stage, shown.index, shown.of, is_waiting=True)
                if reins.wake is None:
                    self._is_over.wait(LOOK_SECONDS)
        finally:
            reins.halt = None
            self._halt()
            if self._stop_soon is not None:
                self.join()
        return self.result()

    def _halt(self) -> bool:
        if self._stop_soon is None:
            return True
        self._stop_soon()
        return self._is_over.is_set()

    def result(self) -> T:
        """Wait for the work; returns what it returns, and raises what it raises."""
        self.join()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback holds this frame
        return self._result  # type: ignore[return-value]  # there is no error: it is there

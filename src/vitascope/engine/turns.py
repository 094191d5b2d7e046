"""A call that stands still at points of its choosing, while whoever runs it goes on.

It has a thread of its own, and only one of both works at any time. A thread and not a greenlet: torch takes a backtrace of
the C stack for each of its errors, and from a greenlet, whose stack is copied to and fro, that walk ends in frames that
are not there any more and takes the process with it (docs/experiments.md).
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol


class Cancelled(BaseException):
    """Raised inside a call that shall end where it stands. Not an Exception: no `except` of a library may catch it."""


class Surroundings(Protocol):
    """What of its process or thread a call needs as its own while it works."""

    def enter(self) -> None: ...

    def leave(self) -> None: ...


class Pausing:
    """One call.

    Args:
        call: what is called.
        surroundings: entered where the call works, and left where it stands still.
    """

    def __init__(self, call: Callable[[], Any], surroundings: Surroundings) -> None:
        self._call: Callable[[], Any] | None = call
        self._surroundings = surroundings
        self._turns: SimpleQueue[None] = SimpleQueue()
        self._outcomes: SimpleQueue[tuple[bool, Any, BaseException | None]] = SimpleQueue()
        self._is_begun = self._is_cancelled = False
        self.is_over = False
        #: When the call last got its turn, on the monotonic clock.
        self.resumed_at = 0.0

    def resume(self) -> Any:
        """Let the call go on to its next pause or to its end.

        Returns:
            What it paused with; or, if then `is_over`, its result.
        """
        if self._is_begun:
            self._turns.put(None)
        else:
            self._is_begun = True
            _open.add(self)
            _run_in_thread(self._work)
        return self._hear()

    def cancel(self) -> None:
        """End the call where it stands, or at its next pause if it works because `resume` was interrupted.

        Raises what the call raises on its way out, but `Cancelled`.
        """
        self._is_cancelled = True
        while self._is_begun and not self.is_over:
            self._turns.put(None)
            self._hear()

    def _hear(self) -> Any:
        self.is_over, value, error = self._outcomes.get()
        if self.is_over:
            _open.discard(self)
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        return value

    # in the thread of the call

    def pause(self, value: object) -> None:
        """Hand a value over and wait for the next turn.

        Raises:
            Cancelled: there will be none.
        """
        if self._is_cancelled:
            raise Cancelled
        self._surroundings.leave()
        self._outcomes.put((False, value, None))
        self._turns.get()
        self._surroundings.enter()
        self.resumed_at = time.monotonic()
        if self._is_cancelled:
            raise Cancelled

    def _work(self) -> None:
        outcome: tuple[bool, Any, BaseException | None] = (True, None, None)
        _here.call = self
        try:
            outcome = (True, self._called(), None)
        except Cancelled:
            pass
        except BaseException as error:  # noqa: BLE001  raised again where the call is resumed
            outcome = (True, None, error)
        finally:
            _here.call = self._call = None
        self._outcomes.put(outcome)
        del outcome  # an error's traceback holds this frame, and all that the call had

    def _called(self) -> Any:
        """Call it in its surroundings; a device that is lost may refuse these, which must be heard of like any other error."""
        assert self._call is not None
        self._surroundings.enter()
        self.resumed_at = time.monotonic()
        try:
            result = self._call()
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is told
                self._surroundings.leave()
            raise
        self._surroundings.leave()
        return result


def current() -> Pausing | None:
    """The call that this code runs in; None elsewhere."""
    return getattr(_here, "call", None)


_here = threading.local()
_open: weakref.WeakSet[Pausing] = weakref.WeakSet()
_idle: list[SimpleQueue[Callable[[], None]]] = []
"""Threads wait for work: one that has computed something has its helpers for the processor's other cores, which are dear."""


def _run_in_thread(work: Callable[[], None]) -> None:
    try:
        orders = _idle.pop()
    except IndexError:
        orders = SimpleQueue()
        threading.Thread(target=_serve, args=(orders,), name="pipeline", daemon=True).start()
    orders.put(work)


def _serve(orders: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        orders.get()()
        _idle.append(orders)


@atexit.register
def _end_all() -> None:
    """End what is open: once the interpreter ends no thread gets a turn, and a wait for one would never end."""
    for call in list(_open):
        call.cancel()

"""What a thread waits at that is woken by other threads, by signal handlers, and by whatever can be read from."""

from __future__ import annotations

import contextlib
import os
import select
import weakref


class Waker:
    """One thread waits; any may wake it."""

    def __init__(self) -> None:
        self._awake, self._wake = os.pipe()
        for end in (self._awake, self._wake):
            os.set_blocking(end, False)
            weakref.finalize(
                self, os.close, end
            )  # not before: who wakes it late must not write to another's file

    def wake(self) -> None:
        """End the wait that is, or the next one. Takes no lock: a signal may have come while this very thread waits."""
        with contextlib.suppress(BlockingIOError):  # full: it is awake
            os.write(self._wake, b"\0")

    def wait(self, seconds: float, fd: int | None) -> bool:
        """Wait until woken, or something can be read from `fd`, but not longer; returns whether it was woken."""
        poll = select.poll()
        for each in (self._awake, fd):
            if each is not None:
                poll.register(each, select.POLLIN)
        found = {each for each, _ in poll.poll(1000 * seconds)}
        if self._awake in found:
            os.read(self._awake, 4096)
        return self._awake in found

"""A thread that waits is woken by others, by signals and by what it can read."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from vitascope.worker.waker import Waker

LONG = 600.0
"""Seconds: a test that waits so long has failed."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_who_was_woken_before_does_not_wait() -> None:
    waker = Waker()
    for _ in range(100_000):  # more than the system keeps
        waker.wake()
    assert waker.wait(LONG, None)
    while waker.wait(0.0, None):
        pass
    assert not waker.wait(0.0, None)


def test_another_thread_wakes_it() -> None:
    waker = Waker()
    thread = threading.Thread(target=waker.wake)
    thread.start()
    assert waker.wait(LONG, None)
    thread.join()


def test_a_signals_handler_wakes_it() -> None:
    waker = Waker()
    before = signal.signal(signal.SIGALRM, lambda *_: waker.wake())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert waker.wait(LONG, None)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_what_can_be_read_ends_the_wait(pipe: tuple[int, int]) -> None:
    waker = Waker()
    os.write(pipe[1], b"x")
    assert not waker.wait(LONG, pipe[0]), "it was not woken, but it does not wait either"
    waker.wake()
    assert waker.wait(LONG, pipe[0])

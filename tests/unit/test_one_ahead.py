"""Frames are made one ahead of what uses them, and no more."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from vitascope.media.ahead import one_ahead

SECONDS = 60


def test_the_next_is_made_while_one_is_used_and_no_more() -> None:
    begun = [threading.Event() for _ in range(4)]

    def make() -> Iterator[int]:
        for index, event in enumerate(begun):
            event.set()
            yield index

    items = one_ahead(make())
    for index in range(4):
        assert next(items) == index
        if index < 3:
            assert begun[index + 1].wait(SECONDS)
        assert not any(event.is_set() for event in begun[index + 2 :])
    assert next(items, None) is None


def test_an_error_comes_after_what_was_made_before_it() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise MemoryError("no more")

    items = one_ahead(make())
    assert next(items) == 1
    with pytest.raises(MemoryError, match="no more"):
        next(items)


def test_closing_it_waits_for_the_one_that_is_being_made() -> None:
    """Else whoever closes what makes them would find it at work."""
    is_made, may_go_on = threading.Event(), threading.Event()

    def make() -> Iterator[int]:
        yield 1
        assert may_go_on.wait(SECONDS)
        is_made.set()
        yield 2

    items, making = one_ahead(source := make()), threading.Timer(0, may_go_on.set)
    assert next(items) == 1
    making.start()
    items.close()
    assert is_made.is_set()
    source.close()  # type: ignore[attr-defined]  # a generator; raises if it is at work

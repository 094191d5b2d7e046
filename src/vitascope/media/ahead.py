"""Frames are made while others are used."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def one_ahead(made: Iterable[T]) -> Generator[T, None, None]:
    """Have each made, in a thread, while the one before is used. Closing it waits for the one that is being made."""
    end = object()
    items = iter(made)
    with ThreadPoolExecutor(1, "one-ahead") as maker:
        coming = maker.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = maker.submit(next, items, end)
            yield item  # type: ignore[misc]  # the end is none of them

"""Writes that share a transaction: each has its own outcome, and none is told before the commit."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import pytest

from vitascope.dialects._http.writer import GroupWriter
from vitascope.domain.errors import JobNotFound, StoreUnavailable


class Disk:
    """Counts transactions; commits when it is let."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.calls = 0
        self.was_called = threading.Event()
        self.may_commit = threading.Event()
        self.may_commit.set()
        self.breaks = False

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        before = self.calls
        yield
        self.may_commit.wait()
        if self.breaks:
            raise StoreUnavailable
        self.sizes.append(self.calls - before)

    def call(self, result: object = None) -> object:
        self.calls += 1
        self.was_called.set()
        if isinstance(result, Exception):
            raise result
        return result


def test_what_comes_during_a_commit_shares_the_next() -> None:
    disk = Disk()
    writer = GroupWriter(disk.together)

    async def run() -> list[object]:
        disk.may_commit.clear()
        first = asyncio.ensure_future(writer.run(lambda: disk.call(0)))
        await asyncio.to_thread(disk.was_called.wait)
        others = [asyncio.ensure_future(writer.run(lambda n=n: disk.call(n))) for n in range(1, 251)]  # type: ignore[misc]
        await asyncio.sleep(0)
        assert not first.done(), "it is not committed yet"
        disk.may_commit.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(run()) == list(range(251))
    assert disk.sizes == [1, 100, 100, 50]
    asyncio.run(writer.close())


def test_one_that_fails_leaves_the_others_alone() -> None:
    disk = Disk()
    writer = GroupWriter(disk.together)

    async def run() -> list[object]:
        results: list[object] = [1, JobNotFound(), 3]
        calls = [writer.run(lambda r=result: disk.call(r)) for result in results]  # type: ignore[misc]
        return await asyncio.gather(*calls, return_exceptions=True)

    one, missing, three = asyncio.run(run())
    assert (one, three) == (1, 3)
    assert isinstance(missing, JobNotFound)
    asyncio.run(writer.close())


@pytest.mark.parametrize("where", ["call", "commit"])
def test_a_database_that_is_away_fails_all_of_a_transaction(where: str) -> None:
    disk = Disk()
    disk.breaks = where == "commit"
    writer = GroupWriter(disk.together)

    async def run() -> list[object]:
        results = [1, StoreUnavailable() if where == "call" else 2, 3]
        calls = [writer.run(lambda r=result: disk.call(r)) for result in results]  # type: ignore[misc]
        outcomes: list[object] = await asyncio.gather(*calls, return_exceptions=True)
        disk.breaks = False
        assert await writer.run(lambda: disk.call("again")) == "again"
        return outcomes

    assert all(isinstance(outcome, StoreUnavailable) for outcome in asyncio.run(run()))
    asyncio.run(writer.close())


def test_what_was_asked_before_the_end_is_done(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk()
    writer = GroupWriter(disk.together)

    async def run() -> list[object]:
        disk.may_commit.clear()
        calls = [asyncio.ensure_future(writer.run(lambda: disk.call(1)))]
        await asyncio.to_thread(disk.was_called.wait)
        calls.append(asyncio.ensure_future(writer.run(lambda: disk.call(2))))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(writer.close())
        disk.may_commit.set()
        await closing
        with pytest.raises(StoreUnavailable):
            await writer.run(lambda: disk.call(3))
        return await asyncio.gather(*calls)

    assert asyncio.run(run()) == [1, 2]
    assert caplog.records == []


def test_who_leaves_does_not_disturb_the_others() -> None:
    disk = Disk()
    writer = GroupWriter(disk.together)

    async def run() -> object:
        disk.may_commit.clear()
        leaver = asyncio.ensure_future(writer.run(lambda: disk.call(1)))
        await asyncio.to_thread(disk.was_called.wait)
        stayer = asyncio.ensure_future(writer.run(lambda: disk.call(2)))
        leaver.cancel()
        disk.may_commit.set()
        return await stayer

    assert asyncio.run(run()) == 2
    asyncio.run(writer.close())

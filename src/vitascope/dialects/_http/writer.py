"""The one thread that writes to a database with one writer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from vitascope.domain.errors import StoreUnavailable

T = TypeVar("T")

MOST_TOGETHER = 100
"""Calls of one transaction, so that other processes' writes do not wait for long."""


@dataclass(slots=True)
class _Call:
    function: Callable[[], Any]
    future: asyncio.Future[Any]


class GroupWriter:
    """Runs calls in order, in a thread; what came while a transaction was committed shares the next one.

    Waiting for the disk is what a write costs, and it costs the same for a hundred.

    Args:
        together: makes one transaction of all that the thread writes in its block.
    """

    def __init__(self, together: Callable[[], AbstractContextManager[None]]) -> None:
        self._together = together
        self._thread = ThreadPoolExecutor(1, "store-writer")
        self._calls: list[_Call] = []
        self._runner: asyncio.Task[None] | None = None
        self._is_closed = False

    async def run(self, function: Callable[[], T]) -> T:
        """Call `function`, which only writes to the store; when this returns, that is durable.

        Raises:
            StoreUnavailable: the database does not answer, or the writer is closed.
        """
        if self._is_closed:
            raise StoreUnavailable("the server is stopping")
        loop = asyncio.get_running_loop()
        call = _Call(function, loop.create_future())
        self._calls.append(call)
        if self._runner is None or self._runner.done():
            self._runner = loop.create_task(self._run())
        result: T = await call.future
        return result

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._calls:
            group, self._calls = self._calls[:MOST_TOGETHER], self._calls[MOST_TOGETHER:]
            outcomes = await loop.run_in_executor(self._thread, self._write, group)
            for call, (result, error) in zip(group, outcomes, strict=True):
                if call.future.done():  # who asked is gone; it has happened all the same
                    continue
                if error is None:
                    call.future.set_result(result)
                else:
                    call.future.set_exception(error)

    def _write(self, group: list[_Call]) -> list[tuple[Any, Exception | None]]:
        try:
            with self._together():
                outcomes = [_outcome(call.function) for call in group]
        except Exception as error:  # noqa: BLE001  each of those who wait raises it
            return [(None, error)] * len(group)
        return outcomes

    async def close(self) -> None:
        """Finish what was asked for; nothing more is taken."""
        self._is_closed = True
        if self._runner is not None and not self._runner.done():
            await asyncio.wait([self._runner])
        self._thread.shutdown()


def _outcome(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return function(), None
    except StoreUnavailable:
        raise  # the transaction is lost with all that is in it
    except Exception as error:  # noqa: BLE001  raised again where the call came from
        return None, error

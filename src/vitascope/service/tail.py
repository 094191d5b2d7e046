"""Following jobs: one reader of the store serves all the streams of a process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from vitascope.domain.errors import StoreUnavailable
from vitascope.domain.job import TERMINAL
from vitascope.store import Event

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""How often the store is asked where nobody says that something has happened; workers write progress as often."""

LEAST_SECONDS = 0.03
"""How often at most."""

MOST_SHARE = 0.25
"""Of the time is spent on asking: where that takes long, it is done less often."""

FINAL_KINDS = frozenset({*(status.value for status in TERMINAL), "deleted"})
"""After one of these nothing happens to a job that its client could see."""

ReadEvents = Callable[[Mapping[str, int]], Awaitable[list[Event]]]


@dataclass(eq=False, slots=True)
class _Watcher:
    cursor: int
    events: asyncio.Queue[Event | None] = field(default_factory=asyncio.Queue)


class Tail:
    """Reads new events of all watched jobs at once and hands each to the streams that watch its job.

    Args:
        read: returns the events of each job after the number given for it.
        has_come: tells whether something may have happened since it was last asked; it may not know.
        look_seconds: how often it is asked.
    """

    def __init__(
        self, read: ReadEvents, has_come: Callable[[], Awaitable[bool]], look_seconds: float
    ) -> None:
        self._read = read
        self._has_come = has_come
        self._look_seconds = look_seconds
        self._is_followed = asyncio.Event()
        self._watchers: dict[str, set[_Watcher]] = {}
        self._is_closing = False

    def close(self) -> None:
        """End all streams soon. Safe to call from a signal handler."""
        self._is_closing = True

    async def run(self) -> None:
        """Read until closed; what nobody watches is not read."""
        while not self._is_closing:
            begun_at = time.monotonic()
            if self._watchers:
                try:
                    self._deliver(await self._read(self._cursors()))
                except StoreUnavailable as error:
                    logger.warning("store unavailable: %s", error.message)
                except Exception:
                    logger.exception(
                        "events could not be read"
                    )  # all streams hang on this reader: it goes on
            await self._pause(time.monotonic() - begun_at)
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.events.put_nowait(None)

    async def _pause(self, spent_seconds: float) -> None:
        """Wait until something may have happened, but neither too short nor too long."""
        least = max(LEAST_SECONDS, spent_seconds / MOST_SHARE)
        await asyncio.sleep(least)
        until = time.monotonic() + max(0.0, POLL_SECONDS - least)
        while (left := until - time.monotonic()) > 0 and not self._is_closing:
            if self._watchers and await self._has_come():
                return
            with contextlib.suppress(TimeoutError):
                seconds = self._look_seconds if self._watchers else left
                await asyncio.wait_for(self._is_followed.wait(), seconds)
                self._is_followed.clear()
                return

    async def follow(self, job_id: str, after: int, heartbeat_seconds: float) -> AsyncIterator[Event | None]:
        """Yield the job's events after that number, ending with a final one; None where nothing came for a while."""
        watcher = _Watcher(after)
        self._watchers.setdefault(job_id, set()).add(watcher)
        self._is_followed.set()
        try:
            while not self._is_closing:
                try:
                    event = await asyncio.wait_for(watcher.events.get(), heartbeat_seconds)
                except TimeoutError:
                    yield None
                    continue
                if event is None:
                    return
                yield event
                if event.kind in FINAL_KINDS:
                    return
        finally:
            self._watchers[job_id].discard(watcher)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    def _cursors(self) -> dict[str, int]:
        return {job_id: min(w.cursor for w in watchers) for job_id, watchers in self._watchers.items()}

    def _deliver(self, events: list[Event]) -> None:
        for event in events:
            for watcher in self._watchers.get(event.job_id, ()):
                if event.sequence > watcher.cursor:
                    watcher.cursor = event.sequence
                    watcher.events.put_nowait(event)

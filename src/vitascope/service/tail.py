"""Following jobs: one reader of the store serves all the streams of a process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from vitascope.domain.errors import StoreUnavailable
from vitascope.domain.job import TERMINAL
from vitascope.store import Event, JobNews

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""How often the store is asked where nobody says that something has happened; workers write progress as often."""

LEAST_SECONDS = 0.005
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
        news: of jobs; it may not know of all.
        has_come: asks it, where it is right to do that.
    """

    def __init__(self, read: ReadEvents, news: JobNews, has_come: Callable[[], Awaitable[bool]]) -> None:
        self._read = read
        self._news = news
        self._has_come = has_come
        #: There is more to do than to wait: a new stream, or news.
        self._is_woken = asyncio.Event()
        #: Whether there are streams whose events were not read yet.
        self._is_followed = False
        self._watchers: dict[str, set[_Watcher]] = {}
        self._is_closing = False

    def close(self) -> None:
        """End all streams soon. Safe to call from a signal handler."""
        self._is_closing = True

    async def run(self) -> None:
        """Read until closed; what nobody watches is not read."""
        while not self._is_closing:
            begun_at = time.monotonic()
            self._is_followed = False
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
            if self._watchers and (self._is_followed or await self._has_come()):
                return
            await self._wait(min(left, self._news.look_seconds) if self._watchers else left)

    async def _wait(self, seconds: float) -> None:
        """Wait for a stream, or for what makes it worth to ask for news."""
        fd = self._news.fileno() if self._watchers else None
        loop = asyncio.get_running_loop()
        if fd is not None:
            loop.add_reader(fd, self._is_woken.set)
        try:
            async with asyncio.timeout(seconds):
                await self._is_woken.wait()
        except TimeoutError:
            pass
        finally:
            self._is_woken.clear()
            if fd is not None:
                loop.remove_reader(fd)

    async def follow(self, job_id: str, after: int, heartbeat_seconds: float) -> AsyncIterator[Event | None]:
        """Yield the job's events after that number, ending with a final one; None where nothing came for a while."""
        watcher = _Watcher(after)
        self._watchers.setdefault(job_id, set()).add(watcher)
        self._is_followed = True
        self._is_woken.set()
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

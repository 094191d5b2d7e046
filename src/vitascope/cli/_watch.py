"""Following jobs until they have ended, through restarts of the server. Knows nothing of how that is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from vitascope.domain.errors import ServerRefusal, ServerUnreachable, VitascopeError

from ._client import Server
from ._job_text import FINAL, Job

FOLLOWED_AT_ONCE = 64
"""Streams that are open at once; further jobs are followed as these end. So the oldest should be given first."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 5.0

REFRESH_SECONDS, REFRESHED_JOBS = 5.0, 20
"""A place in the queue changes without an event: so many waiting jobs are read again that often."""

_LAST_EVENTS = FINAL | {"deleted"}


class View(Protocol):
    """Where it is shown. A job is the API's object as it was when it was last read."""

    #: Whether it shows places in the queue.
    shows_places: bool

    def event(self, job: Job, event: dict[str, Any]) -> None:
        """Show that something happened."""

    def place(self, job: Job) -> None:
        """Show where a job stands that waits."""

    def ended(self, job: Job) -> None:
        """Show how a job has ended; comes after its last event."""

    def deleted(self, job: Job) -> None:
        """Show that the job is not there any more; there may have been an event that says so."""

    def notice(self, text: str) -> None:
        """Show something about the server."""


@dataclass(slots=True)
class _Followed:
    job: Job
    #: Number of the last event that was shown.
    after: int = 0


class Watch:
    """Follows jobs of one server and shows them in one view."""

    def __init__(self, server: Server, view: View) -> None:
        self._server = server
        self._view = view
        self._slots = asyncio.Semaphore(FOLLOWED_AT_ONCE)
        self._followed: dict[str, _Followed] = {}
        self._is_away = False

    async def run(self, jobs: Iterable[Job]) -> bool:
        """Return when all have ended: whether all have succeeded.

        Raises:
            ServerRefusal: the server does not let us read them.
        """
        refresher = asyncio.create_task(self._refresh()) if self._view.shows_places else None
        try:
            return all(await asyncio.gather(*(self._follow(_Followed(job)) for job in jobs)))
        finally:
            if refresher is not None:
                refresher.cancel()

    async def _follow(self, followed: _Followed) -> bool:
        async with self._slots:
            self._followed[followed.job["id"]] = followed
            try:
                if not await self._reaches_its_end(followed):
                    return False
            finally:
                del self._followed[followed.job["id"]]
        self._view.ended(followed.job)
        return bool(followed.job["status"] == "succeeded")

    async def _reaches_its_end(self, followed: _Followed) -> bool:
        """Show all events, over as many streams as it takes; False if the job has been deleted."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            before = followed.after
            try:
                await self._read_stream(followed)
                followed.job = await self._server.job(followed.job["id"])
                self._has_answered()
            except ServerUnreachable as error:
                self._has_failed(error)
            except ServerRefusal as error:
                if error.server_code == "job_not_found":
                    self._view.deleted(followed.job)
                    return False
                if error.server_code:
                    raise
                self._has_failed(error)  # what stands before a server that restarts may say anything
            if followed.job["status"] in FINAL:
                return True
            pause = FIRST_PAUSE_SECONDS if followed.after > before else min(2 * pause, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def _read_stream(self, followed: _Followed) -> None:
        async with aclosing(self._server.events(followed.job["id"], followed.after)) as events:
            async for event in events:
                self._has_answered()
                followed.after = event["sequence"]
                if event["kind"] in ("queued", "running"):
                    followed.job = {**followed.job, "status": event["kind"]}
                self._view.event(followed.job, event)
                if event["kind"] in _LAST_EVENTS:
                    return

    def _has_failed(self, error: VitascopeError) -> None:
        if not self._is_away:
            self._view.notice(f"{error.message}; trying again")
        self._is_away = True

    def _has_answered(self) -> None:
        if self._is_away:
            self._view.notice("the server answers again")
        self._is_away = False

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            waiting = [one for one in self._followed.values() if one.job["status"] == "queued"]
            for followed in waiting[:REFRESHED_JOBS]:
                with suppress(ServerUnreachable, ServerRefusal):  # the stream meets the same, and says so
                    job = await self._server.job(followed.job["id"])
                    if job["status"] == followed.job["status"] == "queued":
                        followed.job = job
                        self._view.place(job)

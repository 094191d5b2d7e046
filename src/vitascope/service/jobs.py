"""Jobs that there are: reading, listing, cancelling and deleting them, and what happened to them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Literal

from vitascope.domain.access import Caller
from vitascope.domain.errors import JobNotFound, StorageError
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.once import Once
from vitascope.storage import Storage
from vitascope.store import Event, JobNews, Page, Store

from . import ids


def remove_files(files: Storage, keys: Sequence[str]) -> None:
    """Remove files that nobody needs any more."""
    for key in keys:
        # what stays behind has no row any more: it is swept later, and the client's wish is fulfilled
        with contextlib.suppress(StorageError):
            files.delete(key)


class Jobs:
    """The jobs of whoever asks.

    Args:
        store: where they are.
        files: where their inputs and videos are.
        clock: tells what has expired.
    """

    def __init__(self, store: Store, files: Storage, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._files = files
        self._clock = clock

    def get(self, job_id: str, caller: Caller) -> Job:
        """Return a job.

        Raises:
            JobNotFound: there is none of the caller's; malformed ids and others' jobs are no other case.
        """
        if not ids.is_id(job_id):
            raise JobNotFound
        return self._store.get(job_id, caller.owner)

    def numbered(self, number: int, caller: Caller) -> Job:
        """Return the job of a number.

        Raises:
            JobNotFound: there is none of the caller's.
        """
        return self._store.numbered(number, caller.owner)

    def page(
        self,
        caller: Caller,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        statuses: Collection[JobStatus] = (),
        user: str | None = None,
    ) -> Page:
        """List jobs by arrival; of some statuses only, or of all if none is named; of one end user, or of all.

        Raises:
            InvalidParameter: no job has the id `after`.
        """
        return self._store.page(
            after=after, limit=limit, order=order, statuses=statuses, owner=caller.owner, user=user
        )

    def cancel(self, job_id: str, caller: Caller) -> Job:
        """Cancel a queued job at once, ask a running one to stop, leave an ended one as it is.

        Raises:
            JobNotFound: there is none.
        """
        if not ids.is_id(job_id):
            raise JobNotFound
        return self._store.request_cancel(job_id, caller.owner)

    def mark_read(self, job_id: str) -> None:
        """Note that the job's client knows its id."""
        self._store.mark_read(job_id)

    def delete(self, job_id: str, caller: Caller) -> Sequence[str]:
        """Hide a job for good and stop it if it has not ended.

        Returns:
            Keys of files that nobody needs any more: hand them to `remove` once the deletion is durable.

        Raises:
            JobNotFound: there is none.
        """
        if not ids.is_id(job_id):
            raise JobNotFound
        return self._store.delete(job_id, caller.owner)

    def remove(self, keys: Sequence[str]) -> None:
        """Remove files that nobody needs any more."""
        remove_files(self._files, keys)

    def is_expired(self, job: Job) -> bool:
        """Whether the job's files are given out no more."""
        return job.is_expired(self._clock())

    def made_before(self, once: Once, caller: Caller) -> Job | None:
        """Find the job of a repeated request before anything slow is done for it; `enqueue` looks again.

        Raises:
            IdempotencyConflict: the request's name was another request's.
        """
        return self._store.made_before(once, key_id=caller.key_id)

    def events(self, job_id: str, after: int = 0) -> list[Event]:
        """Return what happened to a job after the event of that number, oldest first."""
        return self._store.events(job_id, after)

    def events_after(self, cursors: Mapping[str, int]) -> list[Event]:
        """Return what happened to several jobs, for the reader that serves all streams."""
        return self._store.events_after(cursors)

    def watch_jobs(self) -> JobNews:
        """Hear of jobs that have ended, for that reader."""
        return self._store.watch_jobs()

    def together(self) -> AbstractContextManager[None]:
        """Make one transaction of what this thread writes in the block, where that saves waiting for the disk."""
        return self._store.together()

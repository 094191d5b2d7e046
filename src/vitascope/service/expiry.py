"""Removing the files of jobs that are kept for a while only, once that while is over.

It runs in each web process, in a thread of its own: there is always one where there are jobs, while workers may be at a video for an hour
or, on a cluster, be none at all. Any number of them may do it at the same time.

A job is done in three steps, and a process may be killed between any two of them: the row is marked as going (from then on its files are
not given out), its files are deleted, the row says that they are gone. Who finds a mark that is a minute old does the rest again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from vitascope.domain.errors import StorageError, StoreUnavailable
from vitascope.store import Removal

logger = logging.getLogger(__name__)

PASS_SECONDS = 30.0
"""How often there is a look for files that have expired. They are not given out any more before that."""

JOBS_AT_ONCE = 100
"""One transaction marks so many: other writers wait for it."""

FAILURES_AT_ONCE = 3
"""So many jobs in a row whose files cannot be deleted mean that the storage is away: the rest waits too."""


FAILED_REMEMBERED = 10_000


class ExpiringJobs(Protocol):
    """What is needed of the store."""

    def begin_removal(self, max_jobs: int) -> Sequence[Removal]: ...

    def finish_removal(self, job_ids: Collection[str]) -> int: ...


class ExpiringFiles(Protocol):
    """What is needed of the storage."""

    def delete(self, key: str) -> None: ...


class Expiry:
    """Removes what has expired.

    Args:
        store: knows what has.
        files: the storage.
        pass_seconds: how often `run` looks.
        others: do the same of what is no job's, as `advance` does.
    """

    def __init__(
        self,
        store: ExpiringJobs,
        files: ExpiringFiles,
        *,
        pass_seconds: float = PASS_SECONDS,
        others: Sequence[Callable[[], bool]] = (),
    ) -> None:
        self._store = store
        self._files = files
        self._pass_seconds = pass_seconds
        self._others = others
        self._stopped = threading.Event()
        #: Jobs whose files could not be deleted the last time.
        self._failed: set[str] = set()

    def advance(self) -> bool:
        """Remove the files of some jobs. Returns whether there may be more to do at once.

        Raises:
            StoreUnavailable: what was begun comes again in a minute.
        """
        removals = self._store.begin_removal(JOBS_AT_ONCE)
        gone = self._remove(removals)
        if gone:
            self._store.finish_removal(gone)
            logger.info("removed expired files", extra={"num_jobs": len(gone)})
        return len(gone) == JOBS_AT_ONCE

    def _remove(self, removals: Sequence[Removal]) -> list[str]:
        """Delete the files of each job; returns the jobs that have none any more."""
        gone: list[str] = []
        failures = 0
        # last those that could not be deleted the last time: some never can, and would keep the others from their turn for ever
        for removal in sorted(removals, key=lambda one: one.job_id in self._failed):
            if self._stopped.is_set() or failures == FAILURES_AT_ONCE:
                break
            try:
                for key in removal.keys:
                    self._files.delete(key)
            except StorageError as error:
                failures += 1
                if len(self._failed) >= FAILED_REMEMBERED:
                    self._failed.clear()
                self._failed.add(removal.job_id)
                what = {"job_id": removal.job_id}
                logger.warning("expired files could not be removed: %s", error.message, extra=what)
            else:
                failures = 0
                self._failed.discard(removal.job_id)
                gone.append(removal.job_id)
        return gone

    def run(self) -> None:
        """Do it until `stop` is called."""
        while not self._stopped.is_set():
            has_more = [self._done(advance) for advance in (self.advance, *self._others)]
            if not any(has_more):
                self._stopped.wait(self._pass_seconds)

    def _done(self, advance: Callable[[], bool]) -> bool:
        """Do one of them, whatever comes of it: the others have their turn all the same."""
        try:
            return advance()
        except StoreUnavailable as error:
            logger.warning("expired files were not looked for: %s", error.message)
        except Exception:  # the promise to remove must outlive a surprise
            logger.exception("expired files were not removed")
        return False

    def stop(self) -> None:
        """End `run` after the job that it is at."""
        self._stopped.set()

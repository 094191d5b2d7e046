"""The server's condition: whether it is ready, takes jobs, and what it has to do."""

from __future__ import annotations

from vitascope.domain.errors import DiskFull, StoreUnavailable
from vitascope.domain.webhook import Backlog
from vitascope.storage import Space
from vitascope.store import QueueStats, Store


class Condition:
    """What operators and their tools ask for.

    Args:
        store: where jobs are.
        space: the disk's; None takes jobs however full it is.
        worker_silence_seconds: a worker that was not seen for so long counts as dead.
    """

    def __init__(self, store: Store, space: Space | None, worker_silence_seconds: float) -> None:
        self._store = store
        self._space = space
        self._worker_silence_seconds = worker_silence_seconds

    def why_not_ready(self) -> str | None:
        """Say why jobs are not being made now; None if they are."""
        try:
            alive = self._store.live_workers(self._worker_silence_seconds)
        except StoreUnavailable:
            return "the database does not answer"
        if not alive:
            return "no worker is running"
        return None

    def why_no_jobs(self) -> str | None:
        """Say why new jobs are refused while all else works; None if they are not. A full queue is no such reason: it moves."""
        if self._space is not None and self._space.is_low:
            return f"the disk is nearly full: fewer than {self._space.min_free_bytes} bytes are free"
        return None

    def check_space(self) -> None:
        """Find out, without a look at the disk for each request, whether there is room for another job's files.

        Raises:
            DiskFull: there is not.
        """
        if self.is_disk_full:
            raise DiskFull

    @property
    def is_disk_full(self) -> bool:
        return self._space is not None and self._space.is_low

    @property
    def free_bytes(self) -> int | None:
        """What is left on the disk; None if nobody knows."""
        return None if self._space is None else self._space.free_bytes

    def live_workers(self) -> int:
        return self._store.live_workers(self._worker_silence_seconds)

    def deployment_id(self) -> str:
        """Return the name that all processes on this database share."""
        return self._store.deployment_id()

    def queue_stats(self) -> QueueStats:
        return self._store.queue_stats()

    def newest_waiting(self) -> int:
        """Return the number of the last job that waits; 0 if none does."""
        return self._store.newest_waiting()

    def cancel_waiting(self, newest: int) -> int:
        """Cancel some of the jobs that wait, whosever they are, up to this number; returns how many, 0 where there are none left."""
        return self._store.cancel_waiting(newest)

    def count_overdue(self) -> int:
        """Count jobs whose files should be gone by now and are not known to be."""
        return self._store.count_overdue()

    def webhook_backlog(self) -> Backlog:
        return self._store.webhook_backlog()

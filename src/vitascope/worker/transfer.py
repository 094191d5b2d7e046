"""Files to and from the storage, however long that takes, while the job stays this worker's."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from vitascope.domain.errors import StorageError, StorageUnavailable, VitascopeError
from vitascope.domain.step import Step, percent

from .heartbeat import Heartbeat

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0
"""Between two tries. A storage that is being started again is found soon, one that stays away is not pressed."""


class Cancelled(Exception):
    """The job shall stop."""


def insist(
    act: Callable[[], None],
    undo: Callable[[], None],
    stage: str,
    heartbeat: Heartbeat,
    patience_seconds: float,
    check_time: Callable[[], None],
) -> None:
    """Do something with the storage, again and again while that does not answer.

    Args:
        act: done in a thread of its own, as a network may hold it for long; again after a StorageUnavailable.
        undo: done after `act` where nobody waited for its end.
        stage: what the job's progress says if it takes a moment.
        heartbeat: the job's.
        patience_seconds: how long from the first failure.
        check_time: raises if the worker has no time left.

    Raises:
        Cancelled: the job shall stop.
        StorageError: it cannot be done, whatever the reason, or the patience is over.
        LeaseLost: the job is another worker's.
        StoreUnavailable: the job may be another worker's.
    """
    watched = _Watched(stage, heartbeat, check_time)
    pause_seconds = FIRST_PAUSE_SECONDS
    failed_at: float | None = None
    while True:
        attempt = _Attempt(act, undo)
        attempt.start()
        try:
            watched.wait(attempt.is_over)
        except BaseException:
            attempt.abandon()
            raise
        if attempt.error is None:
            return
        if not isinstance(attempt.error, VitascopeError):  # a surprise costs this job, and not the worker
            extra = {"job_id": heartbeat.lease.job.id, "stage": stage}
            logger.error("unexpected error at the storage", extra=extra, exc_info=attempt.error)
            raise StorageError("an unexpected error occurred at the storage") from attempt.error
        if not isinstance(attempt.error, StorageUnavailable):
            raise attempt.error
        now = time.monotonic()
        failed_at = now if failed_at is None else failed_at
        left = failed_at + patience_seconds - now
        if left <= 0:
            message = f"the storage was away for {patience_seconds:g} s: {attempt.error.message}"
            raise StorageError(message) from attempt.error
        extra = {"job_id": heartbeat.lease.job.id, "stage": stage}
        logger.warning("%s: tried again", attempt.error.message, extra=extra)
        watched.wait(threading.Event().wait, min(pause_seconds, left))
        pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)


class _Watched:
    """Waiting with a heartbeat."""

    def __init__(self, stage: str, heartbeat: Heartbeat, check_time: Callable[[], None]) -> None:
        self._stage = stage
        self._heartbeat = heartbeat
        self._check_time = check_time
        self._is_told = False

    def wait(self, is_over: Callable[[float], bool], seconds: float = float("inf")) -> None:
        """Wait until something is over, or for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if is_over(min(self._heartbeat.pause_seconds, left)):
                return
            self._check_time()
            if not self._is_told:
                self._is_told = True
                self._heartbeat.report(percent(Step(self._stage)), self._stage)
            self._heartbeat.beat()
            if self._heartbeat.is_cancelled:
                raise Cancelled


class _Attempt(threading.Thread):
    """One try. A thread that is given up ends on its own, and then undoes what it did."""

    def __init__(self, act: Callable[[], None], undo: Callable[[], None]) -> None:
        super().__init__(name="storage", daemon=True)
        self._act, self._undo = act, undo
        self._lock = threading.Lock()
        self._is_abandoned = self._is_done = False
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._act()
        except Exception as error:  # noqa: BLE001  raised again in the thread that waits
            self.error = error
        with self._lock:
            self._is_done = True
            must_undo = self._is_abandoned
        if must_undo:
            self._try_to_undo()

    def is_over(self, seconds: float) -> bool:
        """Wait for so long at most."""
        self.join(seconds)
        return not self.is_alive()

    def abandon(self) -> None:
        """Let it end when it can; what it has done is undone."""
        with self._lock:
            self._is_abandoned = True
            must_undo = self._is_done
        if must_undo:  # not here: the storage may be slow, and the job is to be let go
            threading.Thread(target=self._try_to_undo, name="storage", daemon=True).start()

    def _try_to_undo(self) -> None:
        try:
            self._undo()
        except StorageError as error:  # what stays has no row, and is swept
            logger.info("not removed: %s", error.message)

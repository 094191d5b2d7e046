"""What a worker does for a job while the engine makes it: heartbeat, progress, cancel, and the limit on silence."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from vitascope.domain.errors import StoreUnavailable
from vitascope.domain.job import Lease
from vitascope.store import Store

from .engine_process import EngineProcess
from .messages import Message
from .patience import Patience

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.25
"""Progress is written at most so often: a fast model must not spend its time in the database."""

PREVIEW_SECONDS = 0.5
"""Nor are previews: more often than twice a second nobody looks at them."""

CANCEL_POLL_SECONDS = 0.5
"""How often a running job looks whether it shall stop."""

STORE_RETRY_SECONDS = 1.0
"""Pause before a store that did not answer is asked again."""

KILL_AFTER_SECONDS = 10.0
"""A cancelled engine that has not come back after so long is killed: its step may take minutes."""


class EngineDied(Exception):
    """The engine process ended, or was killed because it hung."""


class Watch:
    """The watch over one job.

    While the store is away the engine goes on: the job is this worker's as long as its lease can be, by this process's own
    clock, which starts before the store's.

    Args:
        lease: the worker's right to the job.
        leased_at: when it was asked for, on the monotonic clock.
        lease_seconds: its length, from then and from each renewal.
        store: where the heartbeat goes.
        engine: what is watched.
        patience: how long it may be silent.
        tidy: called whenever the store has answered: a job of half an hour must not keep the worker from its other duties.
    """

    def __init__(
        self,
        lease: Lease,
        leased_at: float,
        lease_seconds: float,
        store: Store,
        engine: EngineProcess,
        patience: Patience,
        tidy: Callable[[], None],
    ) -> None:
        self._lease = lease
        self._lease_seconds = lease_seconds
        self._store = store
        self._engine = engine
        self._patience = patience
        self._tidy = tidy
        self._ours_until = leased_at + lease_seconds
        self._renew_at = leased_at + self.pause_seconds
        self._is_store_away = False
        self._silent_seconds = 0.0
        self._reported_at = self._previewed_at = float("-inf")
        self._stage = ""
        self._cancel_sent_at: float | None = None

    @property
    def pause_seconds(self) -> float:
        """How long to wait for a message before `tick` is due."""
        return min(CANCEL_POLL_SECONDS, self._lease_seconds / 3)

    def tick(self, message: Message | None) -> None:
        """Take what the engine said in the last `pause_seconds`, if anything, and do what is due.

        Raises:
            EngineDied: the engine was killed, because it was silent for too long or did not stop.
            LeaseLost: the job is another worker's.
            StoreUnavailable: the store was away for so long that the job may be another worker's.
        """
        if message is None:
            # What is counted is the waiting itself: a paused machine, or a store that answers late, is no silence.
            self._silent_seconds += self.pause_seconds
        else:
            self._heard(message)
        if time.monotonic() >= self._renew_at:
            self._renew()
        if self._cancel_sent_at is not None and time.monotonic() - self._cancel_sent_at > KILL_AFTER_SECONDS:
            self._kill("engine did not stop")
        if self._silent_seconds > self._patience.limit_seconds:
            self._kill("engine hung")

    def _heard(self, message: Message) -> None:
        """Note that the engine is alive and write its progress down, but not too often."""
        self._silent_seconds = 0.0
        if message["is"] != "step":
            return
        now = time.monotonic()
        self._patience.heard(message["stage"], message["index"], now)
        is_due = message["stage"] != self._stage or now - self._reported_at >= PROGRESS_SECONDS
        is_shown = message["preview"] is not None and now - self._previewed_at >= PREVIEW_SECONDS
        if self._is_store_away or not (is_due or is_shown):
            return
        try:
            if is_due:
                self._reported_at, self._stage = now, message["stage"]
                self._store.report(self._lease, message["percent"], message["stage"])
            if is_shown:
                self._previewed_at = now
                self._store.show(self._lease, message["percent"], message["stage"], message["preview"])
        except StoreUnavailable as error:
            self._store_is_away(error)

    def _renew(self) -> None:
        """Renew the lease and pass a wish to cancel on."""
        asked_at = time.monotonic()
        try:
            is_cancelled = self._store.renew(self._lease, self._lease_seconds)
            self._tidy()
        except StoreUnavailable as error:
            self._store_is_away(error)
            return
        self._is_store_away = False
        self._ours_until = asked_at + self._lease_seconds
        self._renew_at = asked_at + self.pause_seconds
        if is_cancelled and self._cancel_sent_at is None:
            self._engine.send({"do": "cancel", "job": self._lease.job.id})
            self._cancel_sent_at = asked_at

    def _store_is_away(self, error: StoreUnavailable) -> None:
        now = time.monotonic()
        if now >= self._ours_until:
            raise error
        if not self._is_store_away:
            logger.warning("%s: the engine goes on", error.message, extra={"job_id": self._lease.job.id})
        self._is_store_away = True
        self._renew_at = min(now + STORE_RETRY_SECONDS, self._ours_until)

    def _kill(self, why: str) -> None:
        extra = {"job_id": self._lease.job.id, "silent_seconds": self._silent_seconds}
        logger.warning(why, extra=extra)
        self._engine.kill()
        raise EngineDied

"""What a worker does for a job while the engine makes it: progress, cancel, and the limit on silence."""

from __future__ import annotations

import logging
import time

from .engine_process import AnyEngine
from .heartbeat import Heartbeat
from .messages import Message
from .patience import Patience

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.25
"""Progress is written at most so often: a fast model must not spend its time in the database."""

PREVIEW_SECONDS = 0.5
"""Nor are previews: more often than twice a second nobody looks at them."""

KILL_AFTER_SECONDS = 10.0
"""A cancelled engine that has not come back after so long is killed: its step may take minutes."""


class EngineDied(Exception):
    """The engine process ended, or was killed because it hung."""


class Watch:
    """The watch over the engine while it makes one job.

    Args:
        heartbeat: the job's.
        engine: what is watched.
        patience: how long it may be silent.
    """

    def __init__(self, heartbeat: Heartbeat, engine: AnyEngine, patience: Patience) -> None:
        self._heartbeat = heartbeat
        self._engine = engine
        self._patience = patience
        self._silent_seconds = 0.0
        self._reported_at = self._previewed_at = float("-inf")
        self._stage = ""
        self._cancel_sent_at: float | None = None

    def tick(self, message: Message | None) -> None:
        """Take what the engine said in the heartbeat's last pause, if anything, and do what is due.

        Raises:
            EngineDied: the engine was killed, because it was silent for too long or did not stop.
            LeaseLost: the job is another worker's.
            StoreUnavailable: the store was away for so long that the job may be another worker's.
        """
        if message is None:
            # What is counted is the waiting itself: a paused machine, or a store that answers late, is no silence.
            self._silent_seconds += self._heartbeat.pause_seconds
        else:
            self._heard(message)
        self._heartbeat.beat()
        if self._heartbeat.is_cancelled and self._cancel_sent_at is None:
            self._engine.send({"do": "cancel", "job": self._heartbeat.lease.job.id})
            self._cancel_sent_at = time.monotonic()
        if self._cancel_sent_at is not None and time.monotonic() - self._cancel_sent_at > KILL_AFTER_SECONDS:
            self._kill("engine did not stop")
        if self._silent_seconds > self._patience.limit_seconds:
            self._kill("engine hung")

    def _heard(self, message: Message) -> None:
        """Note that the engine is alive and write its progress down, but not too often."""
        self._silent_seconds = 0.0
        if message["is"] == "enhanced":
            self._heartbeat.keep_prompts(message["texts"])
        if message["is"] != "step":
            return
        now = time.monotonic()
        self._patience.heard(message["stage"], message["index"], now)
        if self._heartbeat.is_store_away:
            return
        is_due = message["stage"] != self._stage or now - self._reported_at >= PROGRESS_SECONDS
        if is_due:
            self._reported_at, self._stage = now, message["stage"]
            self._heartbeat.report(message["percent"], message["stage"])
        if message["preview"] is not None and now - self._previewed_at >= PREVIEW_SECONDS:
            self._previewed_at = now
            self._heartbeat.show(message["percent"], message["stage"], message["preview"])

    def _kill(self, why: str) -> None:
        extra = {"job_id": self._heartbeat.lease.job.id, "silent_seconds": self._silent_seconds}
        logger.warning(why, extra=extra)
        self._engine.kill()
        raise EngineDied

"""What a lane does for its job while the engine makes it: progress, previews, and a wish to cancel."""

from __future__ import annotations

import logging
import time

from .heartbeat import Heartbeat
from .messages import Message
from .shared_engine import Seat

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.25
"""Progress is written at most so often: a fast model must not spend its time in the database."""

PREVIEW_SECONDS = 0.5
"""Nor are previews: more often than twice a second nobody looks at them."""

KILL_AFTER_SECONDS = 10.0
"""A cancelled engine that has not come back after so long is killed: its step may take minutes."""


class DidNotStop(Exception):
    """The job was cancelled, and the engine has not said so in time."""


class Watch:
    """The watch over one job in the engine.

    Args:
        heartbeat: the job's.
        seat: its making.
    """

    def __init__(self, heartbeat: Heartbeat, seat: Seat) -> None:
        self._heartbeat = heartbeat
        self._seat = seat
        self._reported_at = self._previewed_at = float("-inf")
        self._stage = ""
        self._cancel_sent_at: float | None = None

    def tick(self, message: Message | None) -> None:
        """Take what the engine said in the heartbeat's last pause, if anything, and do what is due.

        Raises:
            DidNotStop: it is still being made, a while after it was to be stopped.
            LeaseLost: the job is another worker's.
            StoreUnavailable: the store was away for so long that the job may be another worker's.
        """
        if message is not None:
            self._heard(message)
        self._heartbeat.beat()
        if self._heartbeat.is_cancelled and self._cancel_sent_at is None:
            self._seat.cancel()
            self._cancel_sent_at = time.monotonic()
        if self._cancel_sent_at is not None and time.monotonic() - self._cancel_sent_at > KILL_AFTER_SECONDS:
            raise DidNotStop

    def _heard(self, message: Message) -> None:
        """Write progress down, but not too often."""
        if message["is"] == "enhanced":
            self._heartbeat.keep_prompts(message["texts"])
        if message.get("settled"):
            self._heartbeat.keep_settled(message["settled"])
        if message["is"] != "step" or self._heartbeat.is_store_away:
            return
        now = time.monotonic()
        is_due = message["stage"] != self._stage or now - self._reported_at >= PROGRESS_SECONDS
        if is_due:
            self._reported_at, self._stage = now, message["stage"]
            self._heartbeat.report(message["percent"], message["stage"])
        if message["preview"] is not None and now - self._previewed_at >= PREVIEW_SECONDS:
            self._previewed_at = now
            self._heartbeat.show(message["percent"], message["stage"], message["preview"])

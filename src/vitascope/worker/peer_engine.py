"""A peer server in the place of an engine process: takes the worker's orders and says what an engine says."""

from __future__ import annotations

import os
import queue

from .messages import Message
from .peer_job import Link, PeerJob

GOODBYE_SECONDS = 2.0
"""What it may take to tell a peer that a job is not wanted any more, when the worker stops."""


class PeerEngine:
    """Speaks with a worker from threads of the worker's own process.

    Args:
        link: to the peer.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._told: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._job: PeerJob | None = None
        self._is_dead = False
        self._tell({"is": "ready"})

    @property
    def pid(self) -> int:
        return os.getpid()

    def is_alive(self) -> bool:
        return not self._is_dead

    def send(self, message: Message) -> None:
        """Take an order. Models are the peer's own affair: what is said of them has no effect."""
        if message["do"] == "make" and not self._is_dead:
            making = message["making"]
            self._job = PeerJob(self._link, message, lambda told: self._tell({**told, "making": making}))
            self._job.start()
        elif message["do"] == "cancel" and self._job is not None:
            self._job.give_up()

    def receive(self, timeout_seconds: float) -> Message | None:
        if self._is_dead:
            raise EOFError
        try:
            return self._told.get(timeout=timeout_seconds) if timeout_seconds else self._told.get_nowait()
        except queue.Empty:
            return None

    def kill(self) -> int:
        """Let the peer know, if it can be told soon, that its job is not wanted any more."""
        self._is_dead = True
        if self._job is not None:
            self._job.give_up().join(GOODBYE_SECONDS)
        return 0

    def close(self) -> None:
        """Nothing is held."""

    def _tell(self, message: Message) -> None:
        is_step = message["is"] == "step"
        now = {} if is_step else {"device": self._link.name, "loaded": [], "residency": {}}
        self._told.put({**message, **now})

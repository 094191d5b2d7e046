"""The parent's handle on its engine process: start, talk, kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from .messages import Message, open_pipe


class AnyEngine(Protocol):
    """What a worker needs of whatever makes its jobs: a process here, or a peer server."""

    @property
    def pid(self) -> int: ...

    def is_alive(self) -> bool: ...

    def send(self, message: Message) -> None:
        """Send a message; an engine that is gone is noticed at the next `receive`."""

    def receive(self, timeout_seconds: float) -> Message | None:
        """Wait for a message; None when the time is over. Raises EOFError: the engine is gone."""

    def kill(self) -> int:
        """End it and whatever it does; returns its exit status. Safe to call from any thread, and again."""

    def close(self) -> None:
        """Let go of what it was talked to with; called once it has ended, by who listened."""


class EngineProcess:
    """A child in a process group of its own, so that killing it takes whatever it started along.

    Args:
        command: makes the child's command line of the file descriptor that it inherits.
        environment: the child's whole environment.
        news: says what the child shall know before it is told anything else: models that were added. None for nothing new.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        environment: Mapping[str, str],
        news: Callable[[], list[Message] | None] = lambda: None,
    ) -> None:
        self._news = news
        self._killing = threading.Lock()
        self._is_killed = False
        self._pipe, fd = open_pipe()
        try:
            self._process = subprocess.Popen(
                command(fd), env=dict(environment), pass_fds=[fd], process_group=0, stdin=subprocess.DEVNULL
            )
        finally:
            os.close(fd)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: Message) -> None:
        """Send a message; a child that is gone is noticed at the next `receive`."""
        with contextlib.suppress(OSError):
            if (models := self._news()) is not None:
                self._pipe.send({"do": "know", "models": models})
            self._pipe.send(message)

    def receive(self, timeout_seconds: float) -> Message | None:
        """Wait for a message; None when the time is over.

        Raises:
            EOFError: the child is gone.
        """
        return self._pipe.receive(timeout_seconds)

    def kill(self) -> int:
        """End the child and its group at once; returns its exit status, negative for a signal."""
        with self._killing:
            if not self._is_killed:  # once it was waited for, its number may be another one's
                self._is_killed = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def close(self) -> None:
        self._pipe.close()

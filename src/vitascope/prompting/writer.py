"""What writes: a language model, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypedDict

Stop = Callable[[], bool]
"""Whether nobody waits for the answer any more."""


class Message(TypedDict):
    """A part of a conversation."""

    #: "system" or "user".
    role: str
    content: str


class NotWritten(Exception):
    """There is no text that could be used.

    Args:
        reason: why, as the rest of the sentence "the language model …", for the job's client.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Writer(Protocol):
    """A language model."""

    @property
    def name(self) -> str:
        """What clients are told of which one it is."""
        ...

    def write(self, messages: Sequence[Message], *, seed: int, seconds: float, stop: Stop) -> str:
        """Continue a conversation. Called in a thread of its own, for one text at a time.

        Args:
            messages: so far.
            seed: the same one gives the same text, as far as the model can do that.
            seconds: how long it may take.
            stop: asked now and then; ends it.

        Raises:
            NotWritten: there is no text.
        """
        ...

    def close(self) -> None:
        """Give back what it holds; `write` fetches that again. Called in the same thread, after the last text of a job."""
        ...

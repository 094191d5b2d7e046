"""What parent and child say to each other: JSON, one object a message, over a socket pair. Never pickle.

parent → child   {"do": "make", "job": ID, "model": ID, "plan": {…}, "out": PATH, "key": KEY}
                 {"do": "cancel", "job": ID}
                 {"do": "prepare", "model": ID}              beside a job; has no answer
                 {"do": "load" | "unload", "errand": NUMBER, "model": ID}
                 {"do": "clear_caches", "errand": NUMBER, "models": WHETHER TO UNLOAD THEM TOO}
child → parent   {"is": "ready"}
                 {"is": "step", "job": ID, "stage": …, "index": …, "percent": …, "preview": BASE64 or null}
                 {"is": "enhanced", "job": ID, "texts": [TEXT, …]}
                 {"is": "made", "job": ID, "video": {…}, "details": {…}}
                 {"is": "cancelled", "job": ID}
                 {"is": "failed", "job": ID, "code": …, "message": …}
                 {"is": "returned", "job": ID, "for_now": …}               by a peer only: the job waits here again
                 {"is": "obeyed", "errand": NUMBER, "problem": …, "message": …}
               A model is loaded beside a job where it has room; then "obeyed" comes before the job has ended. All but steps and enhanced texts also say what the engine is: "device": KIND, "loaded": [MODEL ID, …], "residency": {…}
"""

from __future__ import annotations

import json
import os
import socket
from multiprocessing.connection import Connection
from typing import Any

Message = dict[str, Any]


class Pipe:
    """One end of the conversation."""

    def __init__(self, fd: int) -> None:
        self._connection = Connection(fd)

    def send(self, message: Message) -> None:
        """Send one message.

        Raises:
            OSError: the other side is gone.
        """
        self._connection.send_bytes(json.dumps(message).encode())

    def receive(self, timeout_seconds: float | None = None) -> Message | None:
        """Wait for a message; None when the time is over.

        Raises:
            EOFError: the other side is gone.
        """
        try:
            if not self._connection.poll(timeout_seconds):
                return None
            message: Message = json.loads(self._connection.recv_bytes())
        except (ConnectionError, BrokenPipeError):
            raise EOFError from None
        return message

    def close(self) -> None:
        self._connection.close()


def open_pipe() -> tuple[Pipe, int]:
    """Make a pipe: our end, and the file descriptor of the other, to be inherited by the child."""
    ours, theirs = socket.socketpair()
    os.set_inheritable(theirs.fileno(), True)
    return Pipe(ours.detach()), theirs.detach()

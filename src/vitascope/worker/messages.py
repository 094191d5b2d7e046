"""What parent and child say to each other: JSON, one object a message, over a socket pair. Never pickle.

parent → child   {"do": "make", "making": NAME, "job": ID, "key": WHOSE, "priority": …, "seconds": EXPECTED or null,
                                "model": ID, "plan": {…}, "outs": [PATH, …], "folder": KEYS' FOLDER}
                 {"do": "cancel", "making": NAME}
                 {"do": "prepare", "model": ID}              beside jobs; has no answer
                 {"do": "load" | "unload", "errand": NUMBER, "model": ID}
                 {"do": "clear_caches", "errand": NUMBER, "models": WHETHER TO UNLOAD THEM TOO}
child → parent   {"is": "ready"}
                 {"is": "turn", "making": NAME or null}      who has the device now
                 {"is": "begun", "making": NAME}             its first step is done
                 {"is": "step", …, "stage": …, "index": …, "percent": …, "preview": BASE64 or null,
                                "needs_device": …, "seconds_left": … or null, "is_shared": WHETHER IT HAS FORWARDS WITH OTHERS,
                                "answered_seconds": OF FORWARDS THAT OTHERS HAVE RUN FOR IT SINCE ITS LAST STEP,
                                "settled": {NAME: VALUE} that the engine has chosen, once it is known and when it changes}
                 {"is": "enhanced", …, "texts": [TEXT, …]}
                 {"is": "made", …, "videos": [{…}, …], "details": {…}}
                 {"is": "cancelled", …}
                 {"is": "failed", …, "code": …, "message": …}
                 {"is": "returned", …, "for_now": …}         the job waits again: a peer did not make it, or it is to be made alone
                 {"is": "obeyed", "errand": NUMBER, "problem": …, "message": …}
               … stands for "making": NAME, "job": ID, "stood_seconds": FOR WHICH OTHERS HAD THE DEVICE.
               A making is one try at a job; several may be open. A model is loaded beside
               jobs where it has room; then "obeyed" comes before they have ended. All but turns, steps and enhanced texts also
               say what the engine is: "device": KIND, "loaded": [MODEL ID, …], "residency": {…}, "room": {MODEL ID: HOW MANY MORE, …}
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

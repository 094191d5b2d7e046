"""What the server and the opening process say to each other over a socket pair: JSON headers and raw bytes, never pickle.

on the process's own socket:
process → server   {"is": "ready"}                                   it has started
server → process   a socket, handed over with one byte               one end of the next file's own
process → server   {"is": "free", "status": …}                       that file's fork has ended, so
on a file's socket:
server → fork      {"do": "picture"|"video"|"measure", "kind": …, "bytes": N, …}   then N bytes: the file
fork → server      {"is": "picture", "height": H, "width": W}        then H·W·3 bytes: RGB
                   {"is": "end"}                                     after the pictures of a video
                   {"is": "measured", "height": H, "width": W, "num_frames": N, "microseconds": …}
                   {"is": "refused", "code": …, "numbers": {…}}

Each header has its length before it, in four bytes.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

Header = dict[str, Any]

MAX_HEADER_BYTES = 4096


class TooSlow(Exception):
    """The other side did not keep to the time."""


class Broken(Exception):
    """The other side is gone, or says what it never should."""


class Line:
    """One end. All calls until the next `until` must be done by that time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline: float | None = None

    def until(self, seconds: float) -> None:
        """Set the time for what follows, from now."""
        self._deadline = time.monotonic() + seconds

    def send(self, header: Header, body: bytes = b"") -> None:
        text = json.dumps(header).encode()
        self._send(struct.pack(">I", len(text)) + text)
        self._send(body)

    def receive(self) -> Header:
        (length,) = struct.unpack(">I", self.receive_bytes(4))
        if length > MAX_HEADER_BYTES:
            raise Broken
        try:
            header = json.loads(self.receive_bytes(length))
        except (ValueError, RecursionError):
            raise Broken from None
        if not isinstance(header, dict):
            raise Broken
        return header

    def receive_bytes(self, length: int) -> bytearray:
        content = bytearray(length)
        view, done = memoryview(content), 0
        while done < length:
            done += self._receive_into(view[done:])
        return content

    def close(self) -> None:
        self._connection.close()

    def _send(self, content: bytes) -> None:
        # in pieces: `sendall` counts its timeout as a whole only from Python's side of the first piece
        view = memoryview(content)
        while view:
            self._tick()
            try:
                view = view[self._connection.send(view) :]
            except TimeoutError:
                raise TooSlow from None
            except OSError:
                raise Broken from None

    def _receive_into(self, view: memoryview) -> int:
        self._tick()
        try:
            received = self._connection.recv_into(view)
        except TimeoutError:
            raise TooSlow from None
        except OSError:
            raise Broken from None
        if not received:
            raise Broken
        return received

    def _tick(self) -> None:
        if self._deadline is None:
            return
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TooSlow
        self._connection.settimeout(left)

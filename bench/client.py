"""A small HTTP/1.1 client on asyncio, cheap enough that a thousand of them fit beside the server that they measure.

Knows what the server sends: bodies with a length or in chunks, and server-sent events. Any failure of the connection, an
answer that breaks off included, is `Unreachable`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

ANSWER_SECONDS = 60.0
"""A server that says nothing for so long counts as unreachable."""

IDLE_SECONDS = 3.0
"""A connection that was idle for so long is opened anew: servers close theirs after 5 s, perhaps just as it is used again."""


class Unreachable(Exception):
    """There is no answer, or not all of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said, and how long it took from the first byte sent to the last one received."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One server-sent event; comments are left out."""

    id: int
    data: dict[str, Any]


class Connection:
    """A connection that is kept open from request to request, and opened again after a failure."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._used_at = time.monotonic()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request and read its answer.

        Raises:
            Unreachable: it did not come, or not all of it.
        """
        with self._translated():
            async with asyncio.timeout(ANSWER_SECONDS):
                started = time.perf_counter()
                reader = await self._send(method, path, body, headers)
                status, answered = await _head(reader)
                content = b"" if method == "HEAD" or status == 204 else await _body(reader, answered)
                seconds = time.perf_counter() - started
        if answered.get("connection") == "close":
            self.close()
        return Answer(status, answered, content, seconds)

    async def events(self, path: str, last_event_id: int = 0) -> AsyncGenerator[ServerEvent | Answer, None]:
        """Follow a stream of server-sent events to its end. Another answer than 200 is yielded alone.

        Raises:
            Unreachable: the stream broke off.
        """
        headers = {"accept": "text/event-stream"}
        if last_event_id:
            headers["last-event-id"] = str(last_event_id)
        with self._translated():
            async with asyncio.timeout(ANSWER_SECONDS):
                reader = await self._send("GET", path, b"", headers)
                status, answered = await _head(reader)
                if status != 200:
                    yield Answer(status, answered, await _body(reader, answered), 0.0)
                    return
            async with aclosing(_chunks(reader)) as chunks:
                text = b""
                async for chunk in chunks:
                    text += chunk
                    *complete, text = text.split(b"\n\n")
                    for block in complete:
                        if (event := _event(block)) is not None:
                            yield event
        self.close()  # uvicorn would keep it; a reader that leaves early could not

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def _send(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str] | None
    ) -> asyncio.StreamReader:
        if time.monotonic() - self._used_at > IDLE_SECONDS:
            self.close()
        self._used_at = time.monotonic()
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body or method == "POST":
            lines.append(f"content-length: {len(body)}")
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        return self._reader

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Close the connection unless the block ends well: what else is under way on it belongs to no request."""
        try:
            yield
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, ValueError) as error:
            self.close()
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        except BaseException:
            self.close()
            raise


class Pool:
    """Connections to one port, as many as are in use at once at most."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._idle: list[Connection] = []

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        connection = self._idle.pop() if self._idle else Connection(self.port)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request on a connection of the pool; see `Connection.ask`."""
        async with self.connection() as connection:
            return await connection.ask(method, path, body, headers)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head[:-4].split("\r\n")
    fields = (line.partition(":") for line in lines)
    return int(status_line.split(" ", 2)[1]), {name.lower(): value.strip() for name, _, value in fields}


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    async with aclosing(_chunks(reader)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def _chunks(reader: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
    while (size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)) > 0:
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")


def _event(block: bytes) -> ServerEvent | None:
    fields: dict[str, str] = {}
    for line in block.decode().split("\n"):
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
    if "data" not in fields:
        return None
    return ServerEvent(int(fields["id"]), json.loads(fields["data"]))

"""A receiver on loopback that can be away, and checks each message as its users would: with two libraries that are not ours."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from unittest import mock

import openai
import standardwebhooks
from openai.lib import _webhooks

HOST = "127.0.0.1"


class Receiver:
    """Remembers messages by their id.

    Args:
        clock: what the libraries take for now.
        secrets: what the messages to each path are signed with.
    """

    def __init__(self, clock: Callable[[], datetime], secrets: Mapping[str, str]) -> None:
        self._clock = clock
        self._secrets = secrets
        self._client = openai.OpenAI(api_key="none")
        self._server: asyncio.Server | None = None
        # bound and not listening: connections are refused, and nobody else gets the port meanwhile
        self._socket = socket.socket()
        self._socket.bind((HOST, 0))
        self.port: int = self._socket.getsockname()[1]
        self.bodies: dict[str, bytes] = {}
        self.times: Counter[str] = Counter()
        self.by_event: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self.problems: list[str] = []
        self.last_new_at = clock()
        self._took = asyncio.Event()

    async def open(self) -> None:
        """Be there; until then it is away, and connections are refused."""
        self._server = await asyncio.start_server(self._answer, sock=self._socket, backlog=256)

    async def close(self) -> None:
        """Be gone."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        self._socket.close()

    async def next_message(self) -> None:
        """Wait until one has come, which is not answered yet."""
        self._took.clear()
        with contextlib.suppress(TimeoutError):  # none does where all that was begun has failed
            async with asyncio.timeout(30):
                await self._took.wait()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            request, *lines = head.split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            body = await reader.readexactly(int(headers["content-length"]))
            self._take(request.split(" ")[1], headers, body)
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self._took.set()
        message_id = headers["webhook-id"]
        self.times[message_id] += 1
        if self.bodies.setdefault(message_id, body) != body:
            self.problems.append(f"{message_id} came with two bodies")
        if self.times[message_id] == 1:
            self.last_new_at = self._clock()
        try:
            event = self._verified(path, headers, body)
        except Exception as error:  # noqa: BLE001  each kind is a finding
            self.problems.append(f"{message_id} does not verify: {error!r}")
        else:
            self.by_event[path, event["data"]["id"]].add(message_id)

    def _verified(self, path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        secret, now = self._secrets[path], self._clock()
        with (
            mock.patch.object(
                standardwebhooks.webhooks, "datetime", mock.Mock(wraps=datetime, now=lambda tz: now)
            ),
            mock.patch.object(_webhooks, "time", mock.Mock(time=now.timestamp)),
        ):
            event: dict[str, Any] = standardwebhooks.Webhook(secret).verify(body, headers)
            unwrapped: Any = self._client.webhooks.unwrap(body, headers, secret=secret)
        if (unwrapped.type, unwrapped.data.id) != (event["type"], event["data"]["id"]):
            message = "the two libraries read two events"
            raise ValueError(message)
        return event

"""A service that the operator has named in the settings, such as a language model on this machine.

No gate stands before it: what the operator has written may lead anywhere. What it answers is believed no more than a user's file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from vitascope.domain.errors import UrlRefused

from .addresses import Address
from .allow import AllowList
from .connection import Connections, body_of
from .gate import Gate, NotConnected
from .resolver import Resolver
from .target import Target, read

MAX_ANSWER_BYTES = 1 << 20
"""A prompt or a verdict is a few kilobytes."""


class Unanswered(Exception):
    """The service gave no answer that can be used.

    Args:
        reason: why, as the rest of the sentence "the service …"; holds neither its address nor what it said.
        status: of HTTP, where it gave one.
    """

    def __init__(self, reason: str, status: int | None = None) -> None:
        self.reason = reason
        self.status = status
        super().__init__(reason)


class _NoGate(Gate):
    """Lets everything through; one for each event loop, as a resolver belongs to its own."""

    def __init__(self) -> None:
        self._own_resolver = Resolver()
        self.loop = asyncio.get_running_loop()
        super().__init__(AllowList.of(()), self._own_resolver)

    async def addresses_of(self, target: Target, *, only_encrypted: bool = False) -> Sequence[Address]:
        if target.address is not None:
            return [target.address]
        addresses = await self._own_resolver.resolve(target.host, target.port)
        if not addresses:
            raise NotConnected
        return addresses


class OwnService:
    """Sends JSON and reads JSON. Redirects are not followed: the key goes where the operator has said, and nowhere else.

    Args:
        url: what all its paths begin with.
        api_key: sent as a bearer token.

    Raises:
        UrlRefused: it is not plainly an http or https URL.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self._url = url.rstrip("/")
        read(self._url)
        self._headers = [(b"Accept", b"application/json"), (b"Content-Type", b"application/json")]
        if api_key is not None:
            self._headers.append((b"Authorization", f"Bearer {api_key}".encode("ascii")))
        self._connections: tuple[_NoGate, Connections] | None = None

    async def post(self, path: str, body: Mapping[str, Any], *, seconds: float) -> Any:
        """Send `body` and return what came back, decoded.

        Args:
            path: behind the service's URL, with its slash.
            body: plain JSON values.
            seconds: what all of it may take, however slowly the answer drips.

        Raises:
            Unanswered: there is no answer in time, or it is an error, too long or no JSON.
        """
        try:
            async with asyncio.timeout(seconds):
                data = await self._exchange(path, json.dumps(body).encode("ascii"), seconds)
        except TimeoutError:
            raise Unanswered("gave no answer in time") from None
        except NotConnected as error:
            raise Unanswered("cannot be reached") from error
        except UrlRefused as error:
            raise Unanswered("gave no whole answer") from error
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise Unanswered("answered with something that is no JSON") from None

    async def _exchange(self, path: str, content: bytes, seconds: float) -> bytes:
        headers = [*self._headers, (b"Content-Length", str(len(content)).encode("ascii"))]
        async with self._opened().exchange(
            "POST", read(self._url + path), headers, content, silence_seconds=seconds
        ) as response:
            if response.status != 200:
                raise Unanswered(f"answered {response.status}", response.status)
            data = await body_of(response, MAX_ANSWER_BYTES)
        if len(data) > MAX_ANSWER_BYTES:
            raise Unanswered(f"answered with more than {MAX_ANSWER_BYTES} bytes")
        return data

    def _opened(self) -> Connections:
        if self._connections is None or self._connections[0].loop is not asyncio.get_running_loop():
            gate = _NoGate()
            self._connections = gate, Connections(gate)
        return self._connections[1]

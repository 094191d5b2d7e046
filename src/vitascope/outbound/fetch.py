"""Fetching what a user's URL leads to, within limits of time, size and number."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import httpcore

from vitascope import __version__
from vitascope.domain.errors import QueueFull, UrlRefused

from .allow import AllowList
from .connection import Connections, body_of, headers_of
from .gate import Gate, NotConnected
from .resolver import LOOKUP_SECONDS, Resolver
from .target import Target, read

MAX_REDIRECTS = 3
MAX_FETCHES = 8
"""At once. Each may hold a whole file in memory."""

WAIT_SECONDS = 10.0
"""How long one waits for its turn."""

ANSWER_SECONDS = 1.0
"""A refusal without a connection comes on a whole second, so that its time does not tell why."""

MAX_READ_BYTES = 16 * 1024
READ_SECONDS = 2.0
"""Of an answer whose body nobody wants to know."""

_HEADERS = [(b"User-Agent", f"vitascope/{__version__}".encode("ascii")), (b"Accept", b"*/*")]
_REDIRECTS = {301, 302, 303, 307, 308}


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a URL led to. `content_type` is what the server called it: lower case, without parameters, perhaps a lie."""

    data: bytes
    content_type: str


class Outbound:
    """Goes to users' URLs for the rooms above.

    Args:
        allow: the operator's exceptions.
        seconds: what a fetch may take, all redirects included.
        resolver: finds names' addresses.
        ssl_context: what certificates are checked against, if not the usual authorities.
        sleep: waits.
    """

    def __init__(
        self,
        allow: AllowList = AllowList(),  # noqa: B008  # frozen
        *,
        seconds: float = 30.0,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.connections = Connections(
            Gate(allow, resolver or Resolver(seconds=min(LOOKUP_SECONDS, seconds / 2))), ssl_context
        )
        self.seconds = seconds
        self._sleep = sleep
        self._turns = asyncio.Semaphore(MAX_FETCHES)

    async def fetch(self, url: str, *, max_bytes: int) -> Fetched:
        """Fetch a file.

        Raises:
            UrlRefused: the URL is not one that is fetched, or what it leads to is not there, too large or too slow.
            QueueFull: too many are being fetched.
        """
        target = read(url)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise QueueFull(
                "too many files are being fetched", retry_after_seconds=int(self.seconds)
            ) from None
        begun = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.seconds):
                return await self._follow(target, max_bytes)
        except TimeoutError:
            raise UrlRefused(f"it could not be fetched within {self.seconds:g} s") from None
        except NotConnected as error:
            refusal = error.refusal
        finally:
            self._turns.release()
        await self._sleep((begun - asyncio.get_running_loop().time()) % ANSWER_SECONDS)
        raise refusal

    async def check(self, url: str, *, only_encrypted: bool = False) -> None:
        """Find out whether a URL may be called now, without calling it.

        Args:
            url: where to.
            only_encrypted: refuse http, but for what the operator allows.

        Raises:
            UrlRefused: it may not, or its host has no address.
        """
        target = read(url)
        begun = asyncio.get_running_loop().time()
        try:
            await self.connections.check(target, only_encrypted=only_encrypted)
        except NotConnected as error:
            refusal = error.refusal
        else:
            return
        await self._sleep((begun - asyncio.get_running_loop().time()) % ANSWER_SECONDS)
        raise refusal

    async def post(
        self, url: str, content: bytes, headers: Mapping[str, str], *, seconds: float
    ) -> tuple[int, Mapping[str, str]]:
        """Send a body to where a user wants it, and nowhere else: no redirect is followed.

        What the answer says beyond its head is read, up to MAX_READ_BYTES, so that its server can finish, and thrown away.

        Args:
            url: where to.
            content: the body.
            headers: what it says of itself; all ASCII.
            seconds: what all of it may take.

        Returns:
            The answer's status and headers.

        Raises:
            UrlRefused: the URL may not be called, or there is no answer in time.
        """
        sent = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        sent += [_HEADERS[0], (b"Content-Length", str(len(content)).encode("ascii"))]
        found: tuple[int, Mapping[str, str]] | None = None
        try:
            async with (
                asyncio.timeout(seconds),
                self.connections.exchange(
                    "POST", read(url), sent, content, silence_seconds=seconds
                ) as response,
            ):
                found = response.status, headers_of(response)
                async with asyncio.timeout(READ_SECONDS):
                    await body_of(response, MAX_READ_BYTES)
        except NotConnected as error:
            raise error.refusal from None
        except (TimeoutError, UrlRefused) as error:
            if found is None and isinstance(error, TimeoutError):
                raise UrlRefused(f"its server gave no whole answer within {seconds:g} s") from None
            if found is None:
                raise
        assert found is not None
        return found

    async def _follow(self, target: Target, max_bytes: int) -> Fetched:
        for _ in range(MAX_REDIRECTS + 1):
            async with self.connections.exchange("GET", target, _HEADERS) as response:
                location = headers_of(response).get("location")
                if response.status not in _REDIRECTS or not location:
                    return await _read(response, max_bytes)
                following = target.joined(location)
            if (target.scheme, following.scheme) == ("https", "http"):
                raise UrlRefused("it redirects from https to http")
            target = following
        raise UrlRefused(f"it redirects more than {MAX_REDIRECTS} times")


async def _read(response: httpcore.Response, max_bytes: int) -> Fetched:
    headers = headers_of(response)
    if response.status != 200:
        raise UrlRefused(f"its server answers {response.status}")
    if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise UrlRefused("its server sends it compressed, though it was asked not to")
    size = headers.get("content-length", "")
    too_large = UrlRefused(f"it must lead to a file of at most {max_bytes} bytes")
    if size.isdecimal() and int(size[:19]) > max_bytes:
        raise too_large
    data = await body_of(response, max_bytes)
    if len(data) > max_bytes:
        raise too_large
    return Fetched(data, headers.get("content-type", "").partition(";")[0].strip().lower())

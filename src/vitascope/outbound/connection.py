"""One request over one connection of its own, to an address that was checked."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import cached_property
from typing import cast

import httpcore
import httpx

from vitascope.domain.errors import UrlRefused

from .addresses import Address
from .gate import Gate, NotConnected
from .target import Target

logger = logging.getLogger(__name__)

MAX_ADDRESSES = 3
"""A host's addresses are tried in turn; so many, as each may take `CONNECT_SECONDS`."""

CONNECT_SECONDS = 4.0
SILENCE_SECONDS = 10.0
"""Between bytes."""

Headers = Sequence[tuple[bytes, bytes]]


class Connections:
    """Opens connections: no proxy, no cookies, no compression, no second use of a connection.

    Args:
        gate: who says where.
        ssl_context: what certificates are checked against; by default the certifi bundle, or what SSL_CERT_FILE names.
    """

    def __init__(self, gate: Gate, ssl_context: ssl.SSLContext | None = None) -> None:
        self._gate = gate
        self._given_context = ssl_context
        logging.getLogger("httpcore").setLevel(
            logging.INFO
        )  # its debug lines hold headers, thus signed links

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        target: Target,
        headers: Iterable[tuple[bytes, bytes]] = (),
        content: bytes = b"",
        *,
        silence_seconds: float | None = None,
    ) -> AsyncIterator[httpcore.Response]:
        """Send a request; its answer's body can be read for as long as the block. Nothing is sent if the gate says no.

        Args:
            method: of HTTP.
            target: where to.
            headers: beside those that say who is asked and how.
            content: the body.
            silence_seconds: between bytes; `SILENCE_SECONDS` if not given.

        Raises:
            NotConnected: the target may not be connected to, or cannot be.
            UrlRefused: it gives no whole answer.
        """
        addresses = await self._gate.addresses_of(target)
        scheme, host, path = (text.encode("ascii") for text in (target.scheme, target.host, target.path))
        network = _Checked(addresses)
        silence = SILENCE_SECONDS if silence_seconds is None else silence_seconds
        connection = httpcore.AsyncHTTPConnection(
            httpcore.Origin(scheme, host, target.port),
            ssl_context=self._ssl_context,
            network_backend=network,
        )
        request = httpcore.Request(
            method,
            httpcore.URL(scheme=scheme, host=host, port=target.port, target=path),
            headers=[*_own_headers(target), *headers],
            content=content,
            extensions={"timeout": {"connect": CONNECT_SECONDS, "read": silence, "write": silence}},
        )
        try:
            with _telling(target):
                yield await connection.handle_async_request(request)
        finally:
            await connection.aclose()
            await network.aclose()

    async def check(self, target: Target, *, only_encrypted: bool = False) -> None:
        """Ask the gate about a target.

        Raises:
            NotConnected: it may not be connected to.
        """
        await self._gate.addresses_of(target, only_encrypted=only_encrypted)

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        return self._given_context or httpx.create_ssl_context()


def _own_headers(target: Target) -> Headers:
    return [
        (b"Host", target.authority.encode("ascii")),
        (b"Accept-Encoding", b"identity"),
        (b"Connection", b"close"),
    ]


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to the given addresses, whatever name it is asked for: nothing is resolved a second time."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses[:MAX_ADDRESSES]
        self._backend = httpcore.AnyIOBackend()
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception | None = None
        for address in self._addresses:
            try:
                self._stream = await self._backend.connect_tcp(str(address), port, timeout=timeout)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return self._stream
        raise failure or NotConnected

    async def aclose(self) -> None:
        """Close what httpcore leaves open: a connection whose handshake was cancelled by the time limit."""
        if self._stream is not None:
            await self._stream.aclose()


@contextmanager
def _telling(target: Target) -> Iterator[None]:
    """Say what the client's errors mean, to users in one sentence, to the operator with the reason."""
    try:
        yield
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, ssl.SSLError) as error:
        reason = error.__cause__ or error
        logger.info("url not fetched", extra={"host": target.host, "reason": repr(reason)})
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise UrlRefused("its server's certificate is not valid for it") from error
        if isinstance(error, httpcore.ConnectError | httpcore.ConnectTimeout):
            raise NotConnected from error
        raise UrlRefused("its server gave no whole answer") from error


async def body_of(response: httpcore.Response, max_bytes: int) -> bytes:
    """Read an answer's body; what is longer is cut after the first byte too many."""
    data = bytearray()
    # closed here and now, not whenever it is collected
    async with aclosing(cast(AsyncGenerator[bytes, None], aiter(response.stream))) as chunks:  # type: ignore[arg-type]
        async for chunk in chunks:
            data += chunk
            if len(data) > max_bytes:
                break
    return bytes(data[: max_bytes + 1])


def headers_of(response: httpcore.Response) -> Mapping[str, str]:
    """Read an answer's headers: names in lower case, the last of several wins."""
    return {
        name.decode("ascii", "replace").lower(): value.decode("utf-8", "replace").strip()
        for name, value in response.headers
    }

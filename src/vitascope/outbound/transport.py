"""The same way out for clients that speak httpx, such as what delivers webhooks."""

from __future__ import annotations

import asyncio

import httpx

from vitascope.domain.errors import UrlRefused

from .connection import body_of
from .fetch import Outbound
from .gate import NotConnected
from .target import read

MAX_ANSWER_BYTES = 64 * 1024
"""An answer is cut there: who asks through this transport wants to know the status, not to be sent files."""

_OURS = {b"host", b"connection", b"accept-encoding", b"content-length", b"transfer-encoding"}
_NOT_TRUE_ANY_MORE = {b"content-length", b"content-encoding", b"transfer-encoding"}


class CheckedTransport(httpx.AsyncBaseTransport):
    """Use as `httpx.AsyncClient(transport=CheckedTransport(outbound))`.

    Each request is checked and connected anew, so also each redirect, if the client follows any. Requests are sent whole
    and answers read whole; the client's own time limits are not used, but `outbound.seconds` for all of it.
    """

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request.

        Raises:
            UrlRefused: its URL may not be connected to, or gives no whole answer in time.
        """
        target = read(str(request.url))
        content = await request.aread()
        headers = [(name, value) for name, value in request.headers.raw if name.lower() not in _OURS]
        if content or request.method in ("POST", "PUT", "PATCH"):
            headers.append((b"Content-Length", str(len(content)).encode("ascii")))
        seconds = self._outbound.seconds
        try:
            async with (
                asyncio.timeout(seconds),
                self._outbound.connections.exchange(request.method, target, headers, content) as response,
            ):
                data = await body_of(response, MAX_ANSWER_BYTES)
        except NotConnected as error:
            raise error.refusal from None
        except TimeoutError:
            raise UrlRefused(f"its server gave no whole answer within {seconds:g} s") from None
        kept = [(name, value) for name, value in response.headers if name.lower() not in _NOT_TRUE_ANY_MORE]
        return httpx.Response(response.status, headers=kept, content=data[:MAX_ANSWER_BYTES], request=request)

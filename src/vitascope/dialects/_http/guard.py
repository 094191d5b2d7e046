"""Keeps web pages away from a server as long as it has no keys.

A browser on this machine reaches loopback addresses for any page that it shows: a form needs no permission, and a name that
resolves to 127.0.0.1 makes the page and the server one origin. So an open server answers only to names of this machine, and takes
nothing that a page from elsewhere sends.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from vitascope.domain.errors import ForbiddenOrigin, VitascopeError

from .desk import Desk

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class LoopbackGuard:
    """ASGI middleware for a server without keys on a loopback address.

    Args:
        app: what it guards.
        render: makes the answer of an error.
        public_url: where a proxy shows the server; its host is answered too.
        origins: of pages from elsewhere that may write.
    """

    def __init__(
        self,
        app: ASGIApp,
        render: Callable[[VitascopeError], Response],
        public_url: str | None,
        origins: Collection[str] = (),
    ) -> None:
        self._app = app
        self._render = render
        self._origins = origins
        self._public_host = urlsplit(public_url).hostname if public_url else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            desk: Desk = scope["state"]["desk"]
            if await desk.read(desk.service.keys.is_open):
                await self._render(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ForbiddenOrigin | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if host and not self._is_ours(f"//{host}"):
            hint = (
                "use a loopback address, or set VITASCOPE_SERVER__PUBLIC_URL to the address that clients use"
            )
            return ForbiddenOrigin("a server without API keys does not answer to this host name", hint=hint)
        origin = headers.get("origin")
        is_foreign = origin is not None and origin not in self._origins and not self._is_ours(origin)
        if is_foreign and scope["method"] not in SAFE_METHODS:
            return ForbiddenOrigin("a server without API keys takes nothing from pages of other sites")
        return None

    def _is_ours(self, url: str) -> bool:
        try:
            name = urlsplit(url).hostname or ""
        except ValueError:
            return False
        if name == "localhost" or name.endswith(".localhost") or (name and name == self._public_host):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

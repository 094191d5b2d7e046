"""The outermost layer: request ids, and the last place where an error becomes an answer."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitascope.domain.errors import InternalError, VitascopeError

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT = 408

RenderError = Callable[[VitascopeError], Response]

RENDER = "render"
"""Under which a request's state has how its dialect says errors, once that is known."""


class Edge:
    """ASGI middleware: gives every answer an `x-request-id`, and answers what nobody foresaw without its traceback."""

    def __init__(self, app: ASGIApp, render: RenderError) -> None:
        self._app = app
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(16)}"
        scope.setdefault("state", {})["request_id"] = request_id
        has_begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if message["status"] == REQUEST_TIMEOUT:  # of its body more may come, or never
                    headers["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            logger.info("client left", extra={"request_id": request_id})
        except Exception:
            logger.exception("unexpected error", extra={"request_id": request_id})
            if has_begun:
                raise
            render: RenderError = scope["state"].get(RENDER, self._render)
            await render(InternalError())(scope, receive, send_with_id)

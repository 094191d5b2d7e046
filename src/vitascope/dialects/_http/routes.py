"""What happens around every endpoint of a dialect: who calls is found out before, errors become answers after."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from vitascope.domain.access import Allowance, Scope
from vitascope.domain.errors import VitascopeError

from .credentials import authenticate
from .edge import RENDER, RenderError
from .errors import allowance_headers, status_of

logger = logging.getLogger(__name__)

SERVER_ERROR = 500
"""From this status on it is no fault of the client's, and the log says what it was."""


Authenticate = Callable[[Request, Scope | None], Coroutine[Any, Any, None]]


def route_class(
    render: RenderError,
    *,
    scope: Scope | None = None,
    is_public: bool = False,
    authenticate: Authenticate = authenticate,
) -> type[APIRoute]:
    """Make a route class whose endpoints just raise: errors that we know are answered in the dialect's own form.

    Args:
        render: makes the answer of an error.
        scope: what an API key needs for these routes; None is reading or generating, by the method.
        is_public: whether nobody needs a key.
        authenticate: finds out who calls, for vendors whose clients put the key elsewhere.
    """

    class DialectRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            # The framework describes these routes in /openapi.json. Calling is ours: endpoints read the request themselves and
            # answer with a Response, and solving dependencies and fields that there are none of took a quarter of a poll.
            endpoint = self.endpoint
            takes_request = "request" in inspect.signature(endpoint).parameters

            async def answer(request: Request) -> Response:
                setattr(request.state, RENDER, render)  # for what nobody foresaw
                try:
                    if not is_public:
                        await authenticate(request, scope)
                    arguments = (
                        {**request.path_params, "request": request} if takes_request else request.path_params
                    )
                    found: Response = await endpoint(**arguments)
                except VitascopeError as error:
                    response = render(error)
                    # of a refusal nothing is logged, also where a vendor's form of it comes with 200
                    if max(response.status_code, status_of(error)) >= SERVER_ERROR:
                        logger.warning(
                            "request failed", exc_info=error, extra={"request_id": request.state.request_id}
                        )
                    return _with_allowance(request, response)
                else:
                    return _with_allowance(request, found)

            return answer

    return DialectRoute


_BASE_URL = re.compile(r"https?://[A-Za-z0-9._\[\]:-]{1,255}(/[A-Za-z0-9._~/-]{0,255})?", re.ASCII)


def base_url_of(request: Request) -> str:
    """Tell where a client has reached this server, by its own words; empty if these are no address."""
    text = str(request.base_url).rstrip("/")
    return text if _BASE_URL.fullmatch(text) else ""


def _with_allowance(request: Request, response: Response) -> Response:
    """Tell what the key has left, where the request was counted: that is known then, and costs nothing more."""
    allowance: Allowance | None = getattr(request.state, "allowance", None)
    if allowance is not None:
        response.headers.update(allowance_headers(allowance))
    return response

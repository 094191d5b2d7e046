"""The vendor's management calls, which both of its hosts have: for who runs the server, with a key of the scope `admin`.

To add calls: a module here with a `CALLS`, named in the list below. They are served at `/api/v1/enterprise/NAME`,
`/api/v1/enterprise/video/NAME`, and at `/api/v6/video/NAME`, where the vendor's older Python client has them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.dialects._enterprise.routes import fields_of, route_class
from vitascope.domain.access import Scope

from . import description, loading, models, pictures, server, storage
from .calls import Call

__all__ = ["CALLS", "router"]

CALLS: tuple[Call, ...] = (*server.CALLS, *models.CALLS, *loading.CALLS, *pictures.CALLS, *storage.CALLS)


def router(prefix: str, render: _http.RenderError, *, is_described: bool = True) -> APIRouter:
    """Make the routes of all calls below a path.

    Args:
        prefix: the path.
        render: makes the answer of an error.
        is_described: whether the calls are in the API's description; each is there once for each host.
    """
    admin = route_class(render, scope=Scope.ADMIN)
    made = APIRouter(prefix=prefix, route_class=admin)
    for call in CALLS:
        endpoint = _endpoint(call)
        made.add_api_route(
            f"/{call.name}",
            endpoint,
            methods=["POST"],
            responses=description.responses_of(call),
            openapi_extra=description.body_of(call),
            include_in_schema=is_described,
        )
        for alias in call.aliases:
            made.add_api_route(f"/{alias}", endpoint, methods=["POST"], include_in_schema=False)
    return made


def _endpoint(call: Call) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def endpoint(request: Request) -> Response:
        return JSONResponse(await call.answer(request, fields_of(request)))

    endpoint.__name__ = call.name
    endpoint.__doc__ = call.answer.__doc__
    return endpoint

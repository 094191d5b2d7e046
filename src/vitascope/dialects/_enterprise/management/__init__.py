"""The vendor's management calls, which both of its hosts have: for who runs the server, with a key of the scope `admin`.

To add calls: a module here with a `CALLS`, named in the list below. They are served at `/api/v1/enterprise/NAME`,
`/api/v1/enterprise/video/NAME`, and at `/api/v6/video/NAME`, which `modelslab-py` calls if nobody tells it otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _enterprise, _http
from vitascope.domain.access import Scope

from . import models, pictures, server
from .calls import Call, done

__all__ = ["CALLS", "Call", "done", "router"]

CALLS: tuple[Call, ...] = (*server.CALLS, *models.CALLS, *pictures.CALLS)

_KEY = {"type": "string", "description": "The API key; a bearer header or one called `key` does as well."}


def router(prefix: str, render: _http.RenderError, *, tag: str, is_described: bool = True) -> APIRouter:
    """Make the routes of all calls below a path.

    Args:
        prefix: the path.
        render: makes the answer of an error.
        tag: of the API's description.
        is_described: whether they are in it; one and the same call is there once for each host.
    """
    routers = {
        scope: APIRouter(prefix=prefix, tags=[tag], route_class=_enterprise.route_class(render, scope))
        for scope in Scope
    }
    for call in CALLS:
        add = routers[call.scope].add_api_route
        endpoint = _endpoint(call)
        add(
            f"/{call.name}",
            endpoint,
            methods=["POST"],
            responses=_responses(call),
            openapi_extra=_body(call),
            include_in_schema=is_described,
        )
        for alias in call.aliases:
            add(f"/{alias}", endpoint, methods=["POST"], include_in_schema=False)
    whole = APIRouter()
    for one in routers.values():
        whole.include_router(one)
    return whole


def _endpoint(call: Call) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def endpoint(request: Request) -> Response:
        return JSONResponse(await call.answer(request, _enterprise.fields_of(request)))

    endpoint.__name__ = call.name
    endpoint.__doc__ = call.answer.__doc__
    return endpoint


def _responses(call: Call) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": _schema_of(call.reply), "example": call.reply}}
    return {200: {"description": "It is done, or begun.", "content": content}, **_enterprise.ERRORS}


def _body(call: Call) -> dict[str, Any]:
    properties = {"key": _KEY, **call.fields}
    schema = {"type": "object", "properties": properties, "required": list(call.required)}
    return {"requestBody": {"required": bool(call.required), "content": {"application/json": {"schema": schema}}}}


def _schema_of(example: Any) -> dict[str, Any]:
    if isinstance(example, dict):
        properties = {name: _schema_of(value) for name, value in example.items()}
        return {"type": "object", "properties": properties, "required": list(properties)}
    if isinstance(example, list):
        return {"type": "array", "items": _schema_of(example[0]) if example else {}}
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return {"type": kinds[type(example)]}

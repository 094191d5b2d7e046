"""What happens around the vendor's endpoints: the body is read before who calls is known, because the key is in it."""

from __future__ import annotations

from fastapi.routing import APIRoute
from starlette.requests import Request

from vitascope.dialects import _http
from vitascope.domain.access import Scope
from vitascope.domain.errors import InvalidApiKey

KEY = "key"
"""Of the body, and of a header that some clients send in its place."""

MAX_KEY_CHARS = 512


def route_class(render: _http.RenderError, *, scope: Scope | None = None) -> type[APIRoute]:
    """Make a route class as `_http.route_class` does, whose endpoints find the body read: `fields_of`."""
    return _http.route_class(render, scope=scope, authenticate=_authenticate)


def fields_of(request: Request) -> _http.Fields:
    """Return the body of a request, without the key."""
    fields: _http.Fields = request.state.fields
    return fields


async def _authenticate(request: Request, scope: Scope | None) -> None:
    """Read the body, then look for the key in it, in `Authorization: Bearer`, and in headers.

    Raises:
        InvalidApiKey: there is no good key.
        PermissionDenied: the key is for something else.
    """
    body = await _http.read_body(request, _http.desk_of(request).max_body_bytes, may_be_empty=True)
    values = dict(body.values())
    key = values.pop(KEY, "")
    request.state.fields = _http.Fields(values, body.num_bytes)
    if not isinstance(key, str) or len(key) > MAX_KEY_CHARS:
        raise InvalidApiKey("the parameter `key` is not an API key", hint="send it as text")
    await _http.authenticate(request, scope, more_keys=(key, *request.headers.getlist(KEY)))

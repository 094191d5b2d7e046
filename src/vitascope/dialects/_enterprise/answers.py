"""Errors in the vendor's shape."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.responses import JSONResponse

from vitascope.dialects._http import retry_headers, status_of
from vitascope.domain.errors import RateLimitExceeded, VitascopeError

PREFIXES = ("/api/v1/enterprise/", "/api/v3/", "/api/v6/", "/api/v7/")
"""With what all paths of this vendor's begin, and no other's."""

METHOD_NOT_ALLOWED = 405


def error_response(error: VitascopeError, with_status: bool) -> JSONResponse:
    """Show an error as the vendor does.

    Args:
        error: what is wrong.
        with_status: whether HTTP says so too; else it is 200, as the older calls answer everything.
    """
    status = status_of(error)
    message = error.message if status < 500 else type(error)().message  # details of ours are for the log
    if error.hint and status < 500:
        message = f"{message} ({error.hint})"
    body = _body(message, error.code)
    if isinstance(error, RateLimitExceeded):
        body["retry_after"] = error.retry_after_seconds
    return JSONResponse(body, status_code=status if with_status else 200, headers=retry_headers(error))


def unknown_call(status: int, code: str, headers: Mapping[str, str]) -> JSONResponse:
    """Say below `PREFIXES` that there is no such call, or that it is none by this method."""
    message = (
        "everything here is POST" if status == METHOD_NOT_ALLOWED else "there is no such call on this server"
    )
    return JSONResponse(_body(message, code), status_code=status, headers=dict(headers))


def _body(message: str, code: str) -> dict[str, Any]:
    # clients of the older calls read the misspelt one
    return {"status": "error", "message": message, "messege": message, "code": code}


render_200 = partial(error_response, with_status=False)
"""For `/api/v1/enterprise/*`, and for asking what became of a video."""

render_4xx = partial(error_response, with_status=True)
"""For the video server's calls."""

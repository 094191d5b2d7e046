"""Errors in the vendor's shape."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.responses import JSONResponse

from vitascope.dialects._http import retry_headers, status_of
from vitascope.domain.errors import RateLimitExceeded, VitascopeError


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
    # clients of the older calls read the misspelt one
    body: dict[str, Any] = {"status": "error", "message": message, "messege": message, "code": error.code}
    if isinstance(error, RateLimitExceeded):
        body["retry_after"] = error.retry_after_seconds
    return JSONResponse(body, status_code=status if with_status else 200, headers=retry_headers(error))


render_200 = partial(error_response, with_status=False)
"""For `/api/v1/enterprise/*`, and for asking what became of a video."""

render_4xx = partial(error_response, with_status=True)
"""For the video server's calls."""

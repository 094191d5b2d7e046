"""How a request that is sent twice is known: the client's own name for it, and what the vendors' libraries say of retries."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from starlette.requests import Request

from vitascope.domain.errors import InvalidParameter, UnreadableBody
from vitascope.domain.once import Once

from .body import in_thread_if_large
from .fields import Fields

MAX_NAME_CHARS = 255


async def once_of(request: Request, fields: Fields) -> Once:
    """Read the headers, and take the fingerprint of the decoded body: multipart boundaries change from try to try.

    Raises:
        InvalidParameter: the Idempotency-Key is too long.
        UnreadableBody: the body is nested too deeply.
    """
    name = request.headers.get("idempotency-key", "").strip()
    if len(name) > MAX_NAME_CHARS:
        rule = f"it must have at most {MAX_NAME_CHARS} characters"
        raise InvalidParameter("Idempotency-Key", f"{len(name)} characters long", rule)
    retries = request.headers.get("x-stainless-retry-count", "0").strip()
    is_retry = retries.isascii() and retries.isdigit() and retries.strip("0") != ""
    fingerprint = await in_thread_if_large(fields.num_bytes, lambda: _fingerprint(request.url.path, fields))
    return Once(fingerprint, name or None, is_retry)


def _fingerprint(path: str, fields: Fields) -> str:
    try:
        text = json.dumps([path, fields.values()], sort_keys=True, default=_digest)
    except RecursionError:
        raise UnreadableBody("the request body is nested too deeply") from None
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def _digest(file: Any) -> dict[str, str]:
    assert isinstance(file, bytes)
    return {"sha256 of a file": hashlib.sha256(file).hexdigest()}

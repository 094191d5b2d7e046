"""Pictures in fields: a file, a data: URL or base64 alone."""

from __future__ import annotations

import base64
from typing import Any

from vitascope.domain.errors import InvalidParameter


def picture_bytes(name: str, value: Any) -> bytes | None:
    """Decode a picture's field; None if it is empty. What the bytes hold is not looked at here.

    Raises:
        InvalidParameter: it is none of the forms, or a URL, which this server does not fetch yet.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return _decoded(name, value)
    if not isinstance(value, bytes):
        raise InvalidParameter(name, type(value).__name__, "it must be a file, a data: URL or base64")
    return value


def _decoded(name: str, text: str) -> bytes:
    if text[:8].lower().startswith(("http://", "https://")):
        hint = "send the file itself, or a data: URL"
        raise InvalidParameter(name, text, "URLs are not fetched by this server yet", hint=hint)
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidParameter(name, head, "a data: URL must hold base64")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise InvalidParameter(name, text, "it must be a data: URL of base64") from None
    if not data:
        raise InvalidParameter(name, "empty", "it must hold a picture")
    return data

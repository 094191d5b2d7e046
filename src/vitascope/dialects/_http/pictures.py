"""Pictures and videos in fields: a file, a URL, a data: URL or base64 alone."""

from __future__ import annotations

import base64
from typing import Any

from vitascope.domain.errors import InvalidParameter

from .fields import shown


def picture_of(name: str, value: Any) -> bytes | str | None:
    """Decode a picture's field; None if it is empty. What the bytes hold, or where a URL leads, is not looked at here.

    Returns:
        The bytes; or the URL as it was sent, if it is one of http or https.

    Raises:
        InvalidParameter: it is none of the forms.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        is_url = value[:8].lower().startswith(("http://", "https://"))
        return value if is_url else _decoded(name, value)
    if not isinstance(value, bytes):
        raise InvalidParameter(name, shown(value), "it must be a file, a URL or base64")
    return value


def _decoded(name: str, text: str) -> bytes:
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidParameter(name, head, "a data: URL must hold base64")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise InvalidParameter(name, text, "it must be an http, https or data: URL, or base64") from None
    if not data:
        raise InvalidParameter(name, "empty", "it must hold a file")
    return data

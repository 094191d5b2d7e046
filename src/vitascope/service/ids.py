"""Job ids: they sort by time and cannot be guessed."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH = 26
_FORM = re.compile(f"[0-7][{_ALPHABET}]{{{_LENGTH - 1}}}")


def new_id() -> str:
    """Make an id of 48 bits of milliseconds and 80 random bits, in Crockford's base 32: letters that nobody confuses.

    Source: the layout is that of ULID, https://github.com/ulid/spec.
    """
    milliseconds = int(datetime.now(UTC).timestamp() * 1000)
    number = (milliseconds << 80) | secrets.randbits(80)
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range((_LENGTH - 1) * 5, -1, -5))


def is_id(text: str) -> bool:
    """Whether `new_id` could have made it."""
    return _FORM.fullmatch(text) is not None

"""Secrets that must be readable again, unlike API keys: whoever signs with one needs the secret itself."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

OVERLAP = timedelta(hours=24)
"""How long a secret stays good beside the one that replaces it, so that whoever checks with it has time to change."""

KEY_BYTES = 32
KEY_RULE = f"it must be {KEY_BYTES} bytes as base64, or several of those with commas between"


def parse_keys(text: str) -> tuple[bytes, ...]:
    """Read the keys that secrets are encrypted with: base64, with commas or line ends between them.

    Raises:
        ValueError: there is none, or one is not a key; shows nothing of it.
    """
    try:
        keys = tuple(base64.b64decode(part, validate=True) for part in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(KEY_RULE) from None
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise ValueError(KEY_RULE)
    return keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A secret that is good now."""

    #: Not shown where an object is printed.
    value: str = field(repr=False)
    created_at: datetime
    #: When it ends, once another one has replaced it; None for that other one.
    expires_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values of it, as its holder sees it."""
        return {
            "secret": self.value,
            "created_at": self.created_at.isoformat(),
            "expires_at": self.expires_at and self.expires_at.isoformat(),
        }

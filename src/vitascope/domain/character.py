"""Somebody or something that appears in videos: a picture with a name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

MAX_NAME_CHARS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """What is kept of a character."""

    id: str
    #: Whose it is; empty where the server has no keys.
    key_id: str
    name: str
    #: Where the storage has its picture, a PNG of our own making.
    key: str
    num_bytes: int
    #: Aware UTC.
    created_at: datetime

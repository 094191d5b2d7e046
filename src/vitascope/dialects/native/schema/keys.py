"""Answers about API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from vitascope.dialects import _http


class Key(_http.Described):
    """What is kept of an API key."""

    id: str
    name: str
    prefix: str
    last4: str
    scopes: list[Literal["generate", "read", "admin"]]
    requests_per_minute: int | None
    max_running: int | None
    max_queued: int | None
    max_storage_bytes: int | None
    models: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKey(Key):
    """A key with its secret, which nobody can show again."""

    key: str


class KeyList(_http.Described):
    """All keys that ever were, oldest first."""

    keys: list[Key]

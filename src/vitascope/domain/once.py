"""Requests that are sent twice and shall be carried out once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

RETRY_WINDOW = timedelta(minutes=10)
"""How long after a job a library's automatic retry is taken for its request. The OpenAI SDK gives up after 10 minutes."""


@dataclass(frozen=True, slots=True)
class Once:
    """By what a repeated request is known."""

    #: SHA-256 of the request as its client sent it, decoded, before anything was drawn or filled in.
    fingerprint: str
    #: The client's own name for the request, its Idempotency-Key.
    name: str | None = None
    #: Whether the client's library says that it has sent the request before and had no answer.
    is_retry: bool = False

"""Answers about credits and accounts."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from vitascope.dialects import _http


class JobCredits(_http.Described):
    """What a job costs."""

    #: Set aside when it was made.
    price: int
    #: Paid for the videos that were delivered; null before its end. The rest was given back.
    charged: int | None


class Standing(_http.Described):
    """Where a key stands that is or was counted."""

    credits: int
    #: Set aside for jobs that have not ended.
    held: int
    spent: int
    #: Whether new jobs are counted.
    is_on: bool


class Credits(_http.Described):
    """A key's credits."""

    key_id: str | None
    #: Null if it was never counted.
    credits: Standing | None


class Quote(_http.Described):
    """What a request would cost, and how that is counted."""

    model: str
    credits: int
    credits_per_video: int
    num_videos: int
    #: Of one video, as its file shows it.
    megapixel_seconds: float
    per_megapixel_second: float
    num_steps: int
    step_factor: float
    #: Of the key that asks; null if it is not counted.
    balance: Standing | None
    is_enough: bool


class AccountJobs(_http.Described):
    """Jobs that have not ended."""

    queued: int
    running: int


class AccountLimits(_http.Described):
    """What the key may use at most; null is no limit of its own."""

    requests_per_minute: int | None
    max_running: int | None
    max_queued: int | None
    max_storage_bytes: int | None
    models: list[str]


class Account(_http.Described):
    """What the key that asks may, has and uses."""

    #: Null where the server has no keys.
    key_id: str | None
    scopes: list[Literal["generate", "read", "admin"]]
    #: Null if it is not counted.
    credits: Standing | None
    jobs: AccountJobs
    stored_bytes: int
    limits: AccountLimits


class LedgerEntry(_http.Described):
    """One side of a move, as an account of the key sees it."""

    number: int
    key_id: str
    move: Literal["grant", "hold", "settle", "refund"]
    account: Literal["key", "held"]
    #: Below zero if credits left the account.
    amount: int
    job_id: str | None
    #: Which of the job's videos was paid for.
    output: int | None
    note: str
    created_at: datetime


class LedgerPage(_http.Described):
    """Entries, the newest first."""

    entries: list[LedgerEntry]
    has_more: bool


_PROPERTIES: dict[str, Any] = {
    "amount": {"type": "integer", "description": "Credits to give; below zero takes back."},
    "note": {"type": "string", "maxLength": 255, "description": "Your own word for it."},
    "reference": {
        "type": "string",
        "maxLength": 255,
        "description": "Such as an invoice's number: a grant of the same reference is made once, however often it is sent.",
    },
    "is_on": {"type": "boolean", "description": "Whether the key's new jobs are counted."},
}

GRANT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": _PROPERTIES, "additionalProperties": False}
            }
        },
    }
}

LEDGER_PAGE: dict[str, Any] = {
    "parameters": [
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
        },
        {
            "name": "before",
            "in": "query",
            "schema": {"type": "integer"},
            "description": "Number of the last entry seen.",
        },
    ]
}

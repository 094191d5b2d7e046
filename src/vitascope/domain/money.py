"""Credits: what a video costs, and the book in which they move.

The book is double-entry: credits never come or go, they move between accounts, and the entries of each move sum to zero.

    grant    granted   → key        the operator gives a key credits (or takes some back)
    hold     key       → held       a job is made; what it will cost is set aside
    settle   held      → spent      a video of it is there; one move for each
    refund   held      → key        what its end has left: all of it, of a job that failed or was cancelled

So a key's credits are never below zero, a job that has ended holds nothing, and each video that was delivered is paid for once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from .plan import Plan
from .price import Price

MAX_CREDITS = 2**53
"""Of a grant, and of what a key has: JavaScript reads such numbers exactly."""


class Move(StrEnum):
    """Why credits have moved."""

    GRANT = "grant"
    HOLD = "hold"
    SETTLE = "settle"
    REFUND = "refund"


class Account(StrEnum):
    """Where credits can be. Each key has its own of the first two; the others are the operator's."""

    KEY = "key"
    HELD = "held"
    SPENT = "spent"
    GRANTED = "granted"


@dataclass(frozen=True, slots=True)
class Quote:
    """What a plan costs, and how that was counted."""

    #: Whole credits for each of its videos: at least one.
    credits_per_video: int
    num_videos: int
    #: Of one video, as its file shows it; without what it only continues.
    megapixel_seconds: float
    per_megapixel_second: float
    #: Denoising steps of one window, in all passes and rounds, and the factor of their class.
    num_steps: int
    step_factor: float

    @property
    def credits(self) -> int:
        return self.credits_per_video * self.num_videos

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values of it, as clients see it."""
        return {
            "credits": self.credits,
            "credits_per_video": self.credits_per_video,
            "num_videos": self.num_videos,
            "megapixel_seconds": round(self.megapixel_seconds, 6),
            "per_megapixel_second": self.per_megapixel_second,
            "num_steps": self.num_steps,
            "step_factor": self.step_factor,
        }


def quote(plan: Plan, price: Price) -> Quote:
    """Tell what a plan costs: the file's megapixels times its seconds, by the class of its steps, rounded up to whole credits."""
    seconds = (plan.num_frames - plan.continued_frames) / plan.fps
    megapixel_seconds = plan.height * plan.width / 1e6 * seconds
    second = plan.second
    num_steps = plan.steps_per_window + (0 if second is None else second.steps_per_window)
    factor = price.factor_of(num_steps)
    exact = megapixel_seconds * price.per_megapixel_second * factor
    # a price of 2.0000000001 is 2: floats are not money
    credits_per_video = max(1, math.ceil(round(exact, 6)))
    return Quote(
        credits_per_video, plan.num_videos, megapixel_seconds, price.per_megapixel_second, num_steps, factor
    )


@dataclass(frozen=True, slots=True)
class Balance:
    """Where a key stands. A key without one is not counted: it may make what its other limits allow."""

    key_id: str
    #: What is left to be spent.
    credits: int
    #: Set aside for jobs that have not ended.
    held: int
    #: Of all videos that were delivered.
    spent: int
    #: Whether new jobs are counted; those that were made while it was on are settled whatever it is now.
    is_on: bool

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values of it, as its holder sees it."""
        return {"credits": self.credits, "held": self.held, "spent": self.spent, "is_on": self.is_on}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of the book: one of the two sides of a move, as the key's account sees it."""

    number: int
    key_id: str
    move: Move
    account: Account
    #: Below zero if credits left the account.
    amount: int
    #: Of the job that it was for; empty if none.
    job_id: str
    #: Which of the job's videos was paid for.
    output: int | None
    #: The operator's own word for a grant.
    note: str
    created_at: datetime

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values of it, as operators and the key's holder see it."""
        return {
            "number": self.number,
            "key_id": self.key_id,
            "move": self.move.value,
            "account": self.account.value,
            "amount": self.amount,
            "job_id": self.job_id or None,
            "output": self.output,
            "note": self.note,
            "created_at": self.created_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Some entries, the newest first, and whether there are older ones."""

    entries: tuple[Entry, ...]
    has_more: bool

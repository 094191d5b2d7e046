"""When to try again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

DELAYS: tuple[float, ...] = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds after each attempt that failed; after the tenth a message is given up, some 75 hours after its first.

Source: the example of https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

JITTER = 0.1
"""Share of a delay that is added at most, so that a receiver that was away is not met by all messages at one moment."""

MAX_RETRY_AFTER_SECONDS = 86_400.0
"""A receiver may put an attempt off for so long, and not for ever."""


def delay_after(tries: int, retry_after: float | None, chance: float) -> float | None:
    """Return the seconds until the next attempt; None if there is none.

    Args:
        tries: attempts that have failed, the last one included.
        retry_after: what the receiver asked for.
        chance: from 0 to 1, drawn anew each time.
    """
    if tries > len(DELAYS):
        return None
    delay = DELAYS[tries - 1] * (1 + JITTER * chance)
    return max(delay, min(retry_after or 0.0, MAX_RETRY_AFTER_SECONDS))


def retry_after_of(headers: Mapping[str, str], now: datetime) -> float | None:
    """Read `Retry-After`: seconds or a date; None if there is none that can be read.

    Args:
        headers: names in lower case.
        now: what a date is counted from.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # numbers of any length are read as a year
        return None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return max(0.0, (instant - now).total_seconds())

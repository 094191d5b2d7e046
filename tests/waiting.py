"""Waiting for a condition, instead of sleeping for a guess."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def eventually(
    condition: Callable[[], Value], timeout_seconds: float = 30.0, pause_seconds: float = 0.02
) -> Value:
    """Return the condition's first true value; fails the test if there is none in time."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_seconds} s: {condition}"
        time.sleep(pause_seconds)
    return value

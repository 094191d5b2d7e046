"""Answers to what is not done."""

from __future__ import annotations

from typing import Any

from vitascope.dialects import _http


class ErrorDetail(_http.Described):
    """What is wrong. `parameter`, `rule` and `nearest` are there for an illegal parameter, `credits` and `balance` where these are too few."""

    code: str
    message: str
    hint: str | None
    parameter: str | None = None
    rule: str | None = None
    nearest: Any = None
    credits: int | None = None
    balance: int | None = None


class ErrorAnswer(_http.Described):
    """Every answer that is not a success."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "The request cannot be carried out as it stands."},
    "5XX": {"model": ErrorAnswer, "description": "The server cannot carry it out now."},
}

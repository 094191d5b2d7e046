"""The part of a list's query that means the same everywhere."""

from __future__ import annotations

from typing import Literal, cast

from vitascope.domain.errors import InvalidParameter

from .fields import Fields

DEFAULT_LIMIT, MAX_LIMIT = 20, 100


def limit_and_order(
    query: Fields, *, min_limit: int, max_limit: int = MAX_LIMIT, default: int = DEFAULT_LIMIT
) -> tuple[int, Literal["asc", "desc"]]:
    """Read `limit` and `order`; without them the newest twenty, or as many as `default` says.

    Raises:
        InvalidParameter: one of them is not legal.
    """
    limit = query.integer("limit")
    limit = default if limit is None else limit
    if not min_limit <= limit <= max_limit:
        nearest = min(max(limit, min_limit), max_limit)
        raise InvalidParameter("limit", limit, f"it must be from {min_limit} to {max_limit}", nearest=nearest)
    order = query.text("order") or "desc"
    if order not in ("asc", "desc"):
        raise InvalidParameter("order", order, "it must be asc or desc")
    return limit, cast(Literal["asc", "desc"], order)

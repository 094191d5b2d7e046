"""The Range header: which bytes a client wants. RFC 9110, section 14."""

from __future__ import annotations

import re

_RANGE = re.compile(r"([0-9]{0,18}) *- *([0-9]{0,18})", re.ASCII)

MAX_RANGES = 100
"""Whoever asks for more gets the whole file."""


class MalformedRange(ValueError):
    """The header is no list of byte ranges."""


class NoSuchRange(ValueError):
    """The file has no such bytes."""


def wanted(header: str, num_bytes: int) -> list[tuple[int, int]]:
    """Read a Range header.

    Returns:
        First byte and the one behind the last of each range, without overlaps; none means the whole file.

    Raises:
        MalformedRange: it is no list of byte ranges.
        NoSuchRange: all of them begin behind the end of the file.
    """
    unit, is_range, text = header.partition("=")
    if not is_range or unit.strip().lower() != "bytes":
        raise MalformedRange
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > MAX_RANGES:
        return []
    if not parts:
        raise MalformedRange
    ranges = [(start, end) for start, end in (_one(part, num_bytes) for part in parts) if start < end]
    if not ranges:
        raise NoSuchRange
    return ranges if len(ranges) == 1 else _merged(ranges)


def _one(part: str, num_bytes: int) -> tuple[int, int]:
    found = _RANGE.fullmatch(part)
    if found is None or found[0] == "-":
        raise MalformedRange
    first, last = (int(text) if text else None for text in found.groups())
    if first is None:
        assert last is not None
        return max(num_bytes - last, 0), num_bytes  # the last so many bytes
    if last is None:
        return first, num_bytes
    if last < first:
        raise MalformedRange
    return first, min(last + 1, num_bytes)


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged

"""The size of a video, in the three ways in which this vendor's calls say it: sides, a resolution, or a ratio."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.sizes import MAX_SIDE, size_of_shape

from .reading import Reader

if TYPE_CHECKING:
    from .create import Order

ALIGNED = 16
"""Long sides that follow from a resolution are multiples of it, as the vendor's own sizes are."""

WIDE = 16 / 9

_RATIO = re.compile(r"\s*([0-9]{1,2})\s*[:x/]\s*([0-9]{1,2})\s*", re.ASCII)
_RESOLUTION = re.compile(r"\s*([0-9]{3,4})\s*p?\s*", re.ASCII | re.IGNORECASE)


def read_shape(order: Order, reader: Reader, spec: ModelSpec) -> None:
    """Sides win over a resolution, and a resolution is of the short side.

    Raises:
        InvalidParameter: one of them cannot be read.
    """
    ratio = _ratio(reader)
    if reader.given("width", "height") is not None:
        _tell_unused(
            order, reader, "`width` and `height` say the size", "resolution", "aspect_ratio", "portrait"
        )
    else:
        short = _resolution(reader)
        if ratio is not None:
            _tell_unused(order, reader, "`aspect_ratio` says the shape", "portrait")
        elif short is None:
            _tell_unused(order, reader, "it turns a `resolution`, and none was sent", "portrait")
        if short is not None:
            _set(order, short, ratio or (1 / WIDE if reader.flag("portrait") else WIDE), "resolution")
            return
        if ratio is not None:
            size = size_of_shape(ratio, spec)
            order.change(width=size.width, height=size.height)
            order.names |= {"width": "aspect_ratio", "height": "aspect_ratio"}
            return
        if order.sent.video is not None:
            return  # as large as what is changed
    order.change(width=reader.side("width"), height=reader.side("height"))


def _tell_unused(order: Order, reader: Reader, reason: str, *names: str) -> None:
    for name in names:
        if reader.given(name) and (name != "portrait" or reader.flag(name)):
            order.tell(name, "no effect", reason)


def _set(order: Order, short: int, ratio: float, name: str) -> None:
    long = round(short * max(ratio, 1 / ratio) / ALIGNED) * ALIGNED
    long, short = min(long, MAX_SIDE), short // 2 * 2
    width, height = (long, short) if ratio >= 1 else (short, long)
    if ratio == 1:
        width = height = short
    order.change(width=width, height=height)
    order.names |= {"width": name, "height": name}


def _ratio(reader: Reader) -> float | None:
    text = (reader.fields.text("aspect_ratio") or "").strip()
    if not text or text.lower() in ("null", "auto", "adaptive"):
        return None
    match = _RATIO.fullmatch(text)
    if match is None or not int(match[1]) or not int(match[2]):
        raise InvalidParameter("aspect_ratio", text, "it must be a ratio such as 16:9", nearest="16:9")
    return int(match[1]) / int(match[2])


def _resolution(reader: Reader) -> int | None:
    """Return the short side, which may come as 480, "480" or "480p"."""
    value = reader.fields.raw("resolution")
    if isinstance(value, str) and (match := _RESOLUTION.fullmatch(value)):
        reader = reader.with_value("resolution", int(match[1]))
    return reader.integer("resolution")

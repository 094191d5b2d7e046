"""How long and how large: the clients' many ways to say it, each pair of which has one answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from vitascope.dialects._http import Fields
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec, Size
from vitascope.domain.request import num_frames_for
from vitascope.domain.sizes import MAX_SIDE, MIN_SIDE, nearest_side, size_of_shape

from .parameters import DEFAULT_SECONDS, MAX_SECONDS, MIN_SECONDS

if TYPE_CHECKING:
    from .create import Order

MAX_ECHO_CHARS = 20
"""A length that was sent as longer text is given back as a number."""

_SIZE = re.compile(r"\s*(\d{1,6})\s*[xX*]\s*(\d{1,6})\s*", re.ASCII)
_RATIO = re.compile(r"\s*(\d{1,4})\s*[:/]\s*(\d{1,4})\s*", re.ASCII)


def read_length(order: Order, fields: Fields, spec: ModelSpec) -> None:
    """`num_frames` wins over `seconds`, which wins over `duration`; without any, the documented default.

    Raises:
        InvalidParameter: it is no length, or outside of what is documented.
    """
    rate = order.frames_per_second = max(1, order.request.fps or spec.fps)
    name, seconds = asked_seconds(order, fields)
    num_frames = order.request.num_frames
    if num_frames is not None:
        if seconds is not None and num_frames_for(seconds, rate) != num_frames:
            order.tell("num_frames", num_frames, f"`num_frames` was given beside `{name}`")
        return
    order.is_length_given = seconds is not None
    order.names["num_frames"] = name
    order.values[name] = fields.raw(name)
    if seconds is not None:
        order.notes["seconds"] = _echo(name, fields.raw(name), seconds)
    elif order.sent.video is not None:
        return  # as long as the video that was sent
    order.change(num_frames=num_frames_for(DEFAULT_SECONDS if seconds is None else seconds, rate))


def asked_seconds(order: Order, fields: Fields) -> tuple[str, float | None]:
    """Read the length in seconds, with the client's name of it.

    Raises:
        InvalidParameter: it is no length, or outside of what is documented.
    """
    name = fields.first("seconds", "duration")
    seconds, other = fields.number(name), fields.number("duration")
    for field, value in ((name, seconds), ("duration", other)):
        if value is not None and not MIN_SECONDS <= value <= MAX_SECONDS:
            raise _no_length(field, value)
    if seconds is not None and other not in (None, seconds):
        order.tell("seconds", f"{seconds:g}", f"`duration` is {other:g}, and `seconds` wins over it")
    return name, seconds


def _no_length(name: str, value: float) -> InvalidParameter:
    """Say it in ezmodel's documented words."""
    rule = f"must be between {MIN_SECONDS} and {MAX_SECONDS} seconds"
    nearest = MIN_SECONDS if value < MIN_SECONDS else MAX_SECONDS
    error = InvalidParameter(name, value, rule, nearest=nearest, hint=f"the nearest legal value is {nearest}")
    error.message = f"Invalid parameter: {name} {rule}"
    return error


def _echo(name: str, sent: Any, seconds: float) -> str:
    """The text that was sent; ezmodel's page answers a `duration` of 10 with "10.0"."""
    if name == "duration":
        return str(seconds)
    text = str(sent).strip()
    return text if len(text) <= MAX_ECHO_CHARS else f"{seconds:g}"


def seconds_of(num_frames: int, rate: int) -> float:
    """How long so many frames last; 4 rather than 4.0, as messages show it."""
    seconds = round(num_frames / rate, 3)
    return int(seconds) if seconds.is_integer() else seconds


def read_size(order: Order, fields: Fields, spec: ModelSpec) -> None:
    """`size` wins over `width` and `height`, which win over `aspect_ratio` and `short_edge`; without any, the model's own.

    Raises:
        InvalidParameter: it is no size.
    """
    width, height = fields.integer("width"), fields.integer("height")
    size = (fields.text("size") or "").strip()
    if size and size.lower() != "auto":
        match = _SIZE.fullmatch(size)
        if match is None:
            raise InvalidParameter("size", size, "it must be WIDTHxHEIGHT in pixels, such as 1280x720")
        asked = int(match[1]), int(match[2])
        if any(side not in (None, own) for side, own in zip((width, height), asked, strict=True)):
            order.tell("size", size, "`size` was given beside `width` and `height`")
        width, height = asked
        order.names.update(width="size", height="size")
        order.values["size"] = size
    shape = _asked_shape(fields, spec)
    if shape is not None and (width is not None or height is not None):
        if (width, height) != (shape.width, shape.height):  # a missing side follows the model's own shape
            name = "size" if "size" in order.values else "width and height"
            order.tell("size", name, f"`{_shape_name(fields)}` says another one, and they win over it")
    elif shape is not None:
        width, height = shape.width, shape.height
        order.tell("size", shape, f"made of `{_shape_name(fields)}` and the model's own sizes")
    order.change(width=width, height=height)


def _shape_name(fields: Fields) -> str:
    return fields.first("aspect_ratio", "short_edge")


def _asked_shape(fields: Fields, spec: ModelSpec) -> Size | None:
    """Make a size of a shape, a shorter side, or both; what is not said is the model's own."""
    ratio, short = _ratio(fields), fields.integer("short_edge")
    if ratio is None and short is None:
        return None
    default = spec.default_size
    if ratio is None:
        ratio = default.width / default.height
    if short is not None:
        if nearest_side(short) != short:
            rule = f"it must be an even number of pixels from {MIN_SIDE} to {MAX_SIDE}"
            raise InvalidParameter("short_edge", short, rule, nearest=nearest_side(short))
        size = Size(nearest_side(short * max(1, 1 / ratio)), nearest_side(short * max(1, ratio)))
    else:
        size = size_of_shape(ratio, spec)
    if abs(size.width / size.height / ratio - 1) > 0.2:  # a side has met its limit
        name = _shape_name(fields)
        rule = f"the longer side would have more than {MAX_SIDE} pixels, or the shorter one fewer than {MIN_SIDE}"
        raise InvalidParameter(name, fields.raw(name), rule)
    return size


def _ratio(fields: Fields) -> float | None:
    text = (fields.text("aspect_ratio") or "").strip()
    if not text or text.lower() == "auto":
        return None
    match = _RATIO.fullmatch(text)
    if match is None or not int(match[1]) or not int(match[2]):
        raise InvalidParameter("aspect_ratio", text, "it must be WIDTH:HEIGHT, such as 16:9", nearest="16:9")
    return int(match[1]) / int(match[2])

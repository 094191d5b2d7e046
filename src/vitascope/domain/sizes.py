"""From the asked size to the size at which the model works, and how its frames become the asked size."""

from __future__ import annotations

from typing import Literal

from .choice import Choice
from .errors import InvalidParameter
from .model_spec import ModelSpec, Size
from .request import GenerationRequest

MIN_SIDE, MAX_SIDE = 16, 4096
"""Pixels. The upper end is what H.264 level 5.2 players take."""

MAX_CROP_LOSS = 0.25
"""Share of the native picture that may be cut away to reach the asked shape; beyond it, borders are added instead."""

SAME_SHAPE = 0.05
"""How far a model's own size may be from an asked shape and still be taken for it, as vendors do: 832x480 is sold as 16:9."""

MIN_SHOWN_SHARE = 0.2
"""Of a native picture that begins with a given one. Portrait on a landscape model shows 0.32; a narrower strip is too little to work on."""

Fit = Literal["none", "scale", "crop", "pad"]


def asked_size(request: GenerationRequest, spec: ModelSpec) -> Size:
    """Size of the file: as asked; a missing side follows the model's default shape."""
    default = spec.default_size
    height, width = request.height, request.width
    if height is None and width is None:
        return default
    if height is None:
        height = nearest_side(_side("width", width) * default.height / default.width)
    if width is None:
        width = nearest_side(_side("height", height) * default.width / default.height)
    return Size(_side("height", height), _side("width", width))


def size_of_shape(ratio: float, spec: ModelSpec) -> Size:
    """Return a size of a shape, width by height: the model's own, else one with as many pixels as its default size."""
    for own in spec.sizes:
        if abs(own.width / own.height / ratio - 1) <= SAME_SHAPE:
            return own
    pixels = spec.default_size.pixels
    return Size(nearest_side((pixels / ratio) ** 0.5), nearest_side((pixels * ratio) ** 0.5))


def nearest_side(side: float) -> int:
    """The legal height or width that is nearest, in pixels."""
    return min(max(round(side / 2) * 2, MIN_SIDE), MAX_SIDE)


def _side(name: str, side: int | None) -> int:
    if side is None or side % 2 or not MIN_SIDE <= side <= MAX_SIDE:
        rule = f"it must be an even number of pixels from {MIN_SIDE} to {MAX_SIDE}"
        raise InvalidParameter(name, side, rule, nearest=nearest_side(side or 0))
    return side


def native_size(
    asked: Size, spec: ModelSpec, *, starts_from_frames: bool = False
) -> tuple[Size, Fit, tuple[Choice, ...]]:
    """Choose the size at which the model works, and how its frames become the asked size.

    Args:
        asked: of the file.
        spec: the model.
        starts_from_frames: whether there is a picture or a video to start from. It is set into that part of the native picture which
            the file shows; on a border it would have been cut to the native shape first, and lost what the border then takes the place of.
    """
    multiple = spec.size_multiple
    if asked in spec.sizes:
        return asked, "none", ()
    if asked.pixels <= spec.max_pixels and not (asked.height % multiple or asked.width % multiple):
        return asked, "none", ()
    native = _nearest_shape(asked, spec)
    fit = fit_of(native, asked, starts_from_frames=starts_from_frames)
    if fit == "crop" and _fit(native, asked) == "pad":
        reason = f"{asked} has another shape: it is the middle of the model's frames, with all that the video starts from"
        return native, fit, (Choice("native_size", str(native), reason),)
    reason = {
        "none": "the model makes this size",
        "scale": f"{asked} has the same shape: frames are resized",
        "crop": f"{asked} has nearly this shape: frames are resized and their edges cut",
        "pad": f"{asked} has another shape: frames are resized and set on a blurred border",
    }[fit]
    return native, fit, (Choice("native_size", str(native), reason),)


def fit_of(native: Size, asked: Size, *, starts_from_frames: bool = False) -> Fit:
    """Tell how frames of one size become another: with borders only where too much would be cut away.

    What starts from frames has all of them within the part that is shown, so that nothing of them is lost by cutting.
    """
    fit = _fit(native, asked)
    is_set_within = fit == "pad" and starts_from_frames and _kept_share(native, asked) >= MIN_SHOWN_SHARE
    return "crop" if is_set_within else fit


def shown_part(native: Size, asked: Size, fit: Fit) -> Size:
    """Tell how much of the model's frames, in their middle, the file shows: that is where a given picture belongs."""
    if fit != "crop":
        return native
    scale = max(asked.height / native.height, asked.width / native.width)
    return Size(
        min(native.height, max(1, round(asked.height / scale))),
        min(native.width, max(1, round(asked.width / scale))),
    )


def _nearest_shape(asked: Size, spec: ModelSpec) -> Size:
    """Of the sizes that the model makes, the one whose shape, then whose area, is nearest."""
    candidates = list(spec.sizes)
    if spec.max_pixels:
        candidates.append(_largest_of_shape(asked, spec))

    def distance(size: Size) -> tuple[float, int]:
        kept = _kept_share(size, asked)
        return (-round(kept, 2), abs(size.pixels - asked.pixels))

    return min(candidates, key=distance)


def _largest_of_shape(asked: Size, spec: ModelSpec) -> Size:
    """The asked shape in legal multiples: at its own size where that fits, else as large as the model goes."""
    scale = min(1.0, (spec.max_pixels / asked.pixels) ** 0.5)
    multiple = spec.size_multiple
    height = max(multiple, int(asked.height * scale) // multiple * multiple)
    width = max(multiple, int(asked.width * scale) // multiple * multiple)
    return Size(height, width)


def _kept_share(native: Size, asked: Size) -> float:
    """Share of the native picture that is left after cutting it to the asked shape."""
    ours, theirs = native.width * asked.height, native.height * asked.width
    return min(ours, theirs) / max(ours, theirs)


def _fit(native: Size, asked: Size) -> Fit:
    if native == asked:
        return "none"
    kept = _kept_share(native, asked)
    if kept == 1:
        return "scale"
    return "crop" if 1 - kept <= MAX_CROP_LOSS else "pad"

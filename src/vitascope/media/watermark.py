"""A watermark on frames: drawn once, then blended into its part of each frame.

Sizes follow the frame: text is a twentieth of its shorter side high, a picture covers at most a fifth of each side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling

from vitascope.domain.marks import MIN_FONT_PIXELS
from vitascope.domain.request import Position, Watermark

from .frames import Frame

_FONT = Path(__file__).with_name("fonts") / "DejaVuSans.ttf"
"""Of DejaVu 2.37, the letters that `domain.marks` lists, without hints (116 kB of 760):
`pyftsubset DejaVuSans.ttf --no-hinting --layout-features=kern,ccmp,locl,mark --unicodes=…`."""

_TEXT_SHARE, _IMAGE_SHARE, _MARGIN_SHARE = 0.05, 0.2, 0.02

#: (height, width, 4), `uint8`, the last channel is opacity.
Overlay = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]


def draw_watermark(
    frames: Iterable[Frame], mark: Watermark, *, height: int, width: int, image: Overlay | None = None
) -> Iterator[Frame]:
    """Draw `mark` on frames of one size; they are not changed themselves.

    Args:
        frames: RGB.
        mark: checked by `domain.marks`.
        image: what `mark.image` names.
    """
    if mark.text is not None:
        overlay = _text(mark.text, height, width)
    else:
        assert image is not None
        overlay = _shrunk(image, height, width)
    top, left = _corner(mark.position, overlay.shape, height, width)
    bottom, right = top + overlay.shape[0], left + overlay.shape[1]
    opacity = (overlay[..., 3:].astype(np.uint32) * round(mark.opacity * 256)) // 256  # 0 to 255
    colour = overlay[..., :3] * opacity + 127
    rest = 255 - opacity
    for frame in frames:
        drawn = frame.copy()
        part = drawn[top:bottom, left:right]
        part[...] = (part * rest + colour) // 255
        yield drawn


def _text(text: str, height: int, width: int) -> Overlay:
    """White with a dark rim, which can be read on anything."""
    room = width - 2 * _margin(height, width)
    pixels = max(MIN_FONT_PIXELS, round(_TEXT_SHARE * min(height, width)))
    left, top, right, bottom = _box(text, pixels)
    if right - left > room:
        pixels = max(1, int(pixels * room / (right - left)))
        left, top, right, bottom = _box(text, pixels)
    size = (min(round(right - left), width), min(round(bottom - top), height))
    picture = Image.new("RGBA", size, (0, 0, 0, 0))
    ImageDraw.Draw(picture).text(
        (-left, -top),
        text,
        (255, 255, 255, 255),
        _font(pixels),
        stroke_width=_rim(pixels),
        stroke_fill=(0, 0, 0, 160),
    )
    return np.array(picture)


def _box(text: str, pixels: int) -> tuple[float, float, float, float]:
    return _font(pixels).getbbox(text, stroke_width=_rim(pixels))


def _rim(pixels: int) -> int:
    return max(1, round(pixels / 16))


def _font(pixels: int) -> ImageFont.FreeTypeFont:
    # the basic layout everywhere: the other one is there on some machines only
    return ImageFont.truetype(_FONT, pixels, layout_engine=ImageFont.Layout.BASIC)


def _shrunk(image: Overlay, height: int, width: int) -> Overlay:
    scale = min(_IMAGE_SHARE * height / image.shape[0], _IMAGE_SHARE * width / image.shape[1])
    size = (max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0])))
    return np.array(Image.fromarray(image, "RGBA").resize(size, Resampling.LANCZOS))


def _margin(height: int, width: int) -> int:
    return round(_MARGIN_SHARE * min(height, width))


def _corner(position: Position, shape: tuple[int, ...], height: int, width: int) -> tuple[int, int]:
    margin = _margin(height, width)
    words = position.split("-")
    free_height, free_width = height - shape[0], width - shape[1]
    top = margin if "top" in words else free_height - margin if "bottom" in words else free_height // 2
    left = margin if "left" in words else free_width - margin if "right" in words else free_width // 2
    return max(top, 0), max(left, 0)

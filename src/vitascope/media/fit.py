"""Brings frames to another size and shape, one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from vitascope.domain.sizes import Fit

from .decode import cover
from .frames import Frame, check_frame

#: As `cover` does; swscale's Lanczos is as sharp and a quarter slower.
_RESIZE = Image.Resampling.LANCZOS

_BORDER_SIDE = 48
"""Shorter side at which a border is blurred: so small that no detail competes with the picture, and it costs little."""
_BORDER_BLUR = 3.0
"""Radius at that size, a sixteenth of the side."""
_BORDER_BRIGHTNESS = 0.6


def fit_frames(frames: Iterable[Frame], *, height: int, width: int, fit: Fit) -> Iterator[Frame]:
    """Bring frames to `height` and `width` as they are asked for; see `fit_frame`."""
    return (fit_frame(frame, height=height, width=width, fit=fit) for frame in frames)


def fit_frame(frame: Frame, *, height: int, width: int, fit: Fit) -> Frame:
    """Bring one frame to `height` and `width`.

    Args:
        frame: of any size; not modified.
        height: pixels of the result.
        width: pixels of the result.
        fit: `none`: it has that size already. `scale`: stretch it. `crop`: cover the whole picture and cut off equal
            parts on both sides. `pad`: show all of it in the middle; the border is the same frame, large, blurred
            and a little darker.

    Returns:
        The frame itself where nothing changes, else a new one.
    """
    check_frame(frame)
    if frame.shape[:2] == (height, width):
        return frame
    if fit == "none":
        raise ValueError(f"the frame is {frame.shape[1]}x{frame.shape[0]}, the plan says {width}x{height}")
    picture = Image.fromarray(frame)
    if fit == "scale":
        fitted = picture.resize((width, height), _RESIZE)
    elif fit == "crop":
        fitted = cover(picture, height, width)
    else:
        fitted = _pad(picture, height, width)
    return np.asarray(fitted)


def _pad(picture: Image.Image, height: int, width: int) -> Image.Image:
    scale = min(width / picture.width, height / picture.height)
    inner = picture.resize((round(picture.width * scale), round(picture.height * scale)), _RESIZE)
    whole = _border(picture, height, width)
    whole.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return whole


def _border(picture: Image.Image, height: int, width: int) -> Image.Image:
    """Make a calm background of the picture's own colours."""
    scale = _BORDER_SIDE / min(height, width)
    small = cover(picture, max(1, round(height * scale)), max(1, round(width * scale)))
    blurred = small.filter(ImageFilter.GaussianBlur(_BORDER_BLUR))
    darker = ImageEnhance.Brightness(blurred).enhance(_BORDER_BRIGHTNESS)
    return darker.resize((width, height), Image.Resampling.BICUBIC)

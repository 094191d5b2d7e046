"""Brings frames to another size and shape, one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from vitascope.domain.sizes import Fit

from .frames import Frame, Resizer, check_frame

_BORDER_SIDE = 48
"""Shorter side at which a border is blurred: so small that no detail competes with the picture, and it costs little."""
_BORDER_BLUR = 3.0
"""Radius at that size, a sixteenth of the side."""
_BORDER_BRIGHTNESS = 0.6


def fit_frames(frames: Iterable[Frame], *, height: int, width: int, fit: Fit) -> Iterator[Frame]:
    """Bring frames to `height` and `width` as they are asked for; see `fit_frame`."""
    fitter = _Fitter(height, width, fit)
    return (fitter(frame) for frame in frames)


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
    return _Fitter(height, width, fit)(frame)


class _Fitter:
    """Fits frames of any sizes; quickest where all have one."""

    def __init__(self, height: int, width: int, fit: Fit) -> None:
        self._height, self._width, self._fit = height, width, fit
        self._resizers: dict[tuple[int, int], Resizer] = {}

    def __call__(self, frame: Frame) -> Frame:
        check_frame(frame)
        height, width = self._height, self._width
        if frame.shape[:2] == (height, width):
            return frame
        if self._fit == "none":
            raise ValueError(
                f"the frame is {frame.shape[1]}x{frame.shape[0]}, the plan says {width}x{height}"
            )
        if self._fit == "scale":
            return self._resized(frame, height, width)
        return self._covering(frame, height, width) if self._fit == "crop" else self._padded(frame)

    def _resized(self, frame: Frame, height: int, width: int) -> Frame:
        if frame.shape[:2] == (height, width):
            return frame
        if (height, width) not in self._resizers:
            self._resizers[height, width] = Resizer(height, width)
        return self._resizers[height, width](frame)

    def _covering(self, frame: Frame, height: int, width: int) -> Frame:
        scale = max(height / frame.shape[0], width / frame.shape[1])
        whole = self._resized(
            frame, max(height, round(frame.shape[0] * scale)), max(width, round(frame.shape[1] * scale))
        )
        top, left = (whole.shape[0] - height) // 2, (whole.shape[1] - width) // 2
        return whole[top : top + height, left : left + width]

    def _padded(self, frame: Frame) -> Frame:
        scale = min(self._height / frame.shape[0], self._width / frame.shape[1])
        inner = self._resized(frame, round(frame.shape[0] * scale), round(frame.shape[1] * scale))
        whole = self._border(frame)
        top, left = (self._height - inner.shape[0]) // 2, (self._width - inner.shape[1]) // 2
        whole[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
        return whole

    def _border(self, frame: Frame) -> Frame:
        """Make a calm background of the picture's own colours."""
        scale = _BORDER_SIDE / min(self._height, self._width)
        small = self._covering(frame, max(1, round(self._height * scale)), max(1, round(self._width * scale)))
        blurred = Image.fromarray(small).filter(ImageFilter.GaussianBlur(_BORDER_BLUR))
        darker = ImageEnhance.Brightness(blurred).enhance(_BORDER_BRIGHTNESS)
        return self._resized(np.array(darker), self._height, self._width)

"""What a frame is, and how it passes between numpy and FFmpeg."""

from __future__ import annotations

from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

Frame = npt.NDArray[np.uint8]
"""One RGB picture, `(height, width, 3)`."""

Frames = npt.NDArray[np.uint8]
"""A clip of RGB pictures, `(num_frames, height, width, 3)`."""

#: swscale's fast paths are off by up to several levels in saturated colours; these flags take the exact ones.
EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.FULL_CHR_H_INT
)


def check_frame(frame: Frame) -> None:
    """Refuse what is not a frame: a caller's mistake, not a user's."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame is uint8 of shape (height, width, 3), not {frame.dtype} of {frame.shape}")


def to_av(frame: Frame) -> av.VideoFrame:
    """Copy a frame into FFmpeg's memory, as full-range RGB."""
    check_frame(frame)
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")


class RgbToYuv:
    """Converts frames to the BT.709 YUV that video files and filters work on. One per clip: it keeps swscale's tables.

    Args:
        pixel_format: `yuv420p` for files, `yuv444p` where no colour detail may be lost.
        limited: 16 to 235, as every H.264 player expects; otherwise the full range, which rounds less.
        scale: enlarge on the way.
    """

    def __init__(self, pixel_format: str, *, limited: bool, scale: int = 1) -> None:
        self._pixel_format = pixel_format
        self._range = ColorRange.MPEG if limited else ColorRange.JPEG
        self._scale = scale
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Frame) -> av.VideoFrame:
        height, width = frame.shape[:2]
        return self._reformatter.reformat(
            to_av(frame),
            width=width * self._scale,
            height=height * self._scale,
            format=self._pixel_format,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=self._range,
            interpolation=EXACT,
        )


class YuvToRgb:
    """Converts decoded or filtered pictures back to frames, by the colour tags that they carry.

    Args:
        scale: shrink on the way, by averaging.
    """

    def __init__(self, *, scale: int = 1) -> None:
        self._scale = scale
        self._flags = EXACT if scale == 1 else (EXACT & ~Interpolation.BICUBIC) | Interpolation.AREA
        self._reformatter = VideoReformatter()

    def __call__(self, picture: av.VideoFrame) -> Frame:
        converted = self._reformatter.reformat(
            picture,
            width=picture.width // self._scale,
            height=picture.height // self._scale,
            format="rgb24",
            dst_color_range=ColorRange.JPEG,
            interpolation=self._flags,
        )
        return cast(Frame, converted.to_ndarray())

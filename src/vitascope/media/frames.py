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
EXACT_LANCZOS = (EXACT & ~Interpolation.BICUBIC) | Interpolation.LANCZOS


def check_frame(frame: Frame) -> None:
    """Refuse what is not a frame: a caller's mistake, not a user's."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame is uint8 of shape (height, width, 3), not {frame.dtype} of {frame.shape}")


def to_av(frame: Frame) -> av.VideoFrame:
    """Copy a frame into FFmpeg's memory, as full-range RGB."""
    check_frame(frame)
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")


def _num_threads(height: int, width: int) -> int:
    """Threads of swscale for a picture of that size.

    Left to itself it takes one for each CPU, whatever the size, and with 256x256 they wait for each other more than they do:
    0.45 against 0.3 ms of processor time (two cores, 2026-11).
    """
    return max(1, min(_MAX_THREADS, height * width // _PIXELS_PER_THREAD))


_PIXELS_PER_THREAD = 2**18
_MAX_THREADS = 4


class Resizer:
    """Brings frames to one size. One per clip: it keeps swscale's tables.

    Each channel is resized on its own, by Lanczos. Measured against the same filter without rounding (192x192 to 256x256; 832x480
    to 1248x720; 2026-11): 0.7 and 6 ms a frame at 58 dB; Pillow 2.0 and 29 ms at 56; swscale on packed RGB, which it brings to
    YUV on the way, 1.5 and 15.

    Args:
        height: pixels of the result.
        width: pixels of the result.
    """

    def __init__(self, height: int, width: int) -> None:
        self._size = {"height": height, "width": width}
        self._threads = _num_threads(height, width)
        self._split, self._resize, self._join = VideoReformatter(), VideoReformatter(), VideoReformatter()

    def __call__(self, frame: Frame) -> Frame:
        channels = self._split.reformat(to_av(frame), format="gbrp", threads=self._threads)
        lanczos = Interpolation.LANCZOS | Interpolation.ACCURATE_RND
        resized = self._resize.reformat(
            channels, format="gbrp", interpolation=lanczos, threads=self._threads, **self._size
        )
        return _packed(self._join, resized)


class RgbToYuv:
    """Converts frames to the BT.709 YUV that video files and filters work on. One per clip: it keeps swscale's tables.

    Args:
        pixel_format: `yuv420p` for files, `yuv444p` where no colour detail may be lost.
        limited: 16 to 235, as every H.264 player expects; otherwise the full range, which rounds less.
        scale: enlarge on the way.
        size: height and width to stretch to on the way, by Lanczos: 0.66 instead of 2.2 ms for `Resizer` and this, from 192x192
            to 256x256, and 7.3 instead of 24 from 832x480 to 1248x720; luma 1.4 dB nearer to the same filter without rounding.
    """

    def __init__(
        self, pixel_format: str, *, limited: bool, scale: int = 1, size: tuple[int, int] | None = None
    ) -> None:
        self._pixel_format = pixel_format
        self._range = ColorRange.MPEG if limited else ColorRange.JPEG
        self._scale, self._size = scale, size
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Frame) -> av.VideoFrame:
        height, width = self._size or (frame.shape[0] * self._scale, frame.shape[1] * self._scale)
        is_stretched = self._size is not None and frame.shape[:2] != self._size
        return self._reformatter.reformat(
            to_av(frame),
            width=width,
            height=height,
            format=self._pixel_format,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=self._range,
            interpolation=EXACT_LANCZOS if is_stretched else EXACT,
            threads=_num_threads(height, width),
        )


class YuvToRgb:
    """Converts decoded, filtered or converted pictures back to frames, by the colour tags that they carry.

    It is done channel by channel, in a third of the time that swscale's exact way to packed RGB takes, with the same result:
    1280x720 in 4.3 ms for 12.8.

    Args:
        scale: shrink on the way, by averaging.
        max_side: shrink on the way what is larger, by Lanczos.
    """

    def __init__(self, *, scale: int = 1, max_side: int | None = None) -> None:
        self._scale, self._max_side = scale, max_side
        averaging = (EXACT & ~Interpolation.BICUBIC) | Interpolation.AREA
        self._flags = EXACT_LANCZOS if max_side else averaging if scale > 1 else EXACT
        self._convert, self._join = VideoReformatter(), VideoReformatter()

    def __call__(self, picture: av.VideoFrame) -> Frame:
        height, width = self._size(picture)
        converted = self._convert.reformat(
            picture,
            width=width,
            height=height,
            format="gbrp",
            dst_color_range=ColorRange.JPEG,
            interpolation=self._flags,
            threads=_num_threads(picture.height, picture.width),
        )
        return _packed(self._join, converted)

    def _size(self, picture: av.VideoFrame) -> tuple[int, int]:
        if self._max_side is None:
            return picture.height // self._scale, picture.width // self._scale
        scale = min(1.0, self._max_side / max(picture.height, picture.width))
        return max(1, round(picture.height * scale)), max(1, round(picture.width * scale))


def _packed(join: VideoReformatter, channels: av.VideoFrame) -> Frame:
    threads = _num_threads(channels.height, channels.width)
    return cast(Frame, join.reformat(channels, format="rgb24", threads=threads).to_ndarray())

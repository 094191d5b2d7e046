"""Decodes one video. Runs in a fork of the opening process, which loads FFmpeg only there.

Written for H.264, HEVC, MPEG-4, VP8, VP9 and AV1 in MP4 and WebM: no other of FFmpeg's hundreds of decoders is reached.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import av
import av.subtitles.stream  # PyAV would load it with the first file, when nothing can be loaded any more
from av.video.reformatter import ColorRange, VideoReformatter
from PIL import Image

from .decode import cover
from .refusal import Refusal
from .signature import VideoKind

_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "libdav1d")
_FORMATS = {"mp4": "mp4", "webm": "matroska"}

#: Nothing else than the bytes at hand: no protocol, so no file and no address that a video names.
_ALONE = {"protocol_whitelist": "none", "codec_whitelist": ",".join(_CODECS)}

_TURNS = {
    90: Image.Transpose.ROTATE_90,
    -90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    -180: Image.Transpose.ROTATE_180,
}

_BROKEN = (av.FFmpegError, OSError, ValueError, TypeError, IndexError, AttributeError, RuntimeError, EOFError)


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """What a video may be at most."""

    max_frames: int
    max_pixels: int
    max_seconds: float


@dataclass(frozen=True, slots=True)
class Measures:
    """What a video is, upright; `seconds` are from its first picture to its last."""

    height: int
    width: int
    num_frames: int
    seconds: float


def decode_video(
    content: bytes, kind: VideoKind, limits: VideoLimits, *, size: tuple[int, int], fps: float = 0.0
) -> Iterator[tuple[float, Image.Image]]:
    """Decode a file's first video: for each picture when it is shown, in seconds, and what it shows.

    Args:
        content: the file.
        kind: of the file.
        limits: beyond which it is refused.
        size: (height, width) that each picture is made to cover.
        fps: the picture that is shown at every so many instants of a second; 0 gives each picture once.

    Raises:
        Refusal: it is damaged, too large or too long.
    """
    reformatter = VideoReformatter()
    try:
        decoded = _decoded(content, kind, limits)
        for seconds, picture in _at_instants(decoded, fps) if fps else decoded:
            yield seconds, _shaped(reformatter, picture, size)
    except _BROKEN:
        raise Refusal("damaged") from None


def measure_video(content: bytes, kind: VideoKind, limits: VideoLimits) -> Measures:
    """Decode all of a video to see that it can be, and tell what it is.

    Raises:
        Refusal: it is damaged, too large or too long.
    """
    try:
        first: float | None = None
        last, num_frames, height, width = 0.0, 0, 0, 0
        for last, picture in _decoded(content, kind, limits):
            first = last if first is None else first
            num_frames += 1
            is_lying = picture.rotation in (90, -90)
            height, width = (picture.width, picture.height) if is_lying else (picture.height, picture.width)
    except _BROKEN:
        raise Refusal("damaged") from None
    return Measures(height, width, num_frames, last - (first or 0.0))


def _at_instants(
    pictures: Iterator[tuple[float, av.VideoFrame]], fps: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Give the picture that is shown at 0, 1/fps, 2/fps … after the first one, up to the last one."""
    held: av.VideoFrame | None = None
    first, seconds, index = 0.0, 0.0, 0
    for seconds, picture in pictures:
        if held is None:
            first = seconds
        # a little early is in time: files count in ticks of their own
        while held is not None and first + index / fps < seconds - 1e-4:
            yield index / fps, held
            index += 1
        held = picture
    if held is not None and first + index / fps < seconds + 1e-4:
        yield index / fps, held


def _decoded(content: bytes, kind: VideoKind, limits: VideoLimits) -> Iterator[tuple[float, av.VideoFrame]]:
    count = 0
    with av.open(
        io.BytesIO(content), "r", format=_FORMATS[kind], container_options=_ALONE, io_open=_open_nothing
    ) as container:
        if not container.streams.video or container.streams.video[0].codec_context is None:
            raise Refusal("no_video")
        stream = container.streams.video[0]
        if (
            stream.codec_context.name not in _CODECS
        ):  # FFmpeg has kept to the list, PyAV's own context has not
            raise Refusal("no_video")
        _check_size(stream.width, stream.height, limits)
        stream.codec_context.thread_count = 1  # a fork may start no thread
        for count, picture in enumerate(container.decode(stream), 1):
            _check_size(picture.width, picture.height, limits)
            if count > limits.max_frames:
                raise Refusal("frames", limit=limits.max_frames)
            seconds = float(picture.time or 0.0)
            if not 0 <= seconds <= limits.max_seconds:
                raise Refusal("duration", limit=int(limits.max_seconds))
            yield seconds, picture
    if not count:
        raise Refusal("damaged")


def _open_nothing(_url: str, _flags: int, _options: dict[str, str]) -> NoReturn:
    raise PermissionError


def _check_size(width: int, height: int, limits: VideoLimits) -> None:
    if width * height > limits.max_pixels:
        raise Refusal("size", width=width, height=height, limit=limits.max_pixels)


def _shaped(reformatter: VideoReformatter, picture: av.VideoFrame, size: tuple[int, int]) -> Image.Image:
    rgb = reformatter.reformat(
        picture, format="rgb24", dst_color_range=ColorRange.JPEG, threads=1
    )  # a fork may start none
    plane = rgb.planes[0]
    image = Image.frombytes("RGB", (rgb.width, rgb.height), bytes(plane), "raw", "RGB", plane.line_size, 1)
    turn = _TURNS.get(picture.rotation)
    return cover(image if turn is None else image.transpose(turn), *size)

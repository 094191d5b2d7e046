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
class VideoWish:
    """How a video is wanted: `size` is (height, width), which each picture is made to cover."""

    size: tuple[int, int]
    max_frames: int
    max_pixels: int
    max_seconds: float


def decode_video(content: bytes, kind: VideoKind, wish: VideoWish) -> Iterator[tuple[float, Image.Image]]:
    """Decode a file's first video: for each picture when it is shown, in seconds, and what it shows.

    Raises:
        Refusal: it is damaged, too large or too long.
    """
    try:
        yield from _decoded(content, kind, wish)
    except _BROKEN:
        raise Refusal("damaged") from None


def _decoded(content: bytes, kind: VideoKind, wish: VideoWish) -> Iterator[tuple[float, Image.Image]]:
    reformatter = VideoReformatter()
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
        _check_size(stream.width, stream.height, wish)
        stream.codec_context.thread_count = 1  # a fork may start no thread
        for count, picture in enumerate(container.decode(stream), 1):
            _check_size(picture.width, picture.height, wish)
            if count > wish.max_frames:
                raise Refusal("frames", limit=wish.max_frames)
            seconds = float(picture.time or 0.0)
            if not 0 <= seconds <= wish.max_seconds:
                raise Refusal("duration", limit=int(wish.max_seconds))
            yield seconds, _shaped(reformatter, picture, wish.size)
    if not count:
        raise Refusal("damaged")


def _open_nothing(_url: str, _flags: int, _options: dict[str, str]) -> NoReturn:
    raise PermissionError


def _check_size(width: int, height: int, wish: VideoWish) -> None:
    if width * height > wish.max_pixels:
        raise Refusal("size", width=width, height=height, limit=wish.max_pixels)


def _shaped(reformatter: VideoReformatter, picture: av.VideoFrame, size: tuple[int, int]) -> Image.Image:
    rgb = reformatter.reformat(
        picture, format="rgb24", dst_color_range=ColorRange.JPEG, threads=1
    )  # a fork may start none
    plane = rgb.planes[0]
    image = Image.frombytes("RGB", (rgb.width, rgb.height), bytes(plane), "raw", "RGB", plane.line_size, 1)
    turn = _TURNS.get(picture.rotation)
    return cover(image if turn is None else image.transpose(turn), *size)

"""Measures and reads video files that this room has written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer

from vitascope.domain.errors import StorageError

from .frames import Frames, YuvToRgb


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """What a video file holds."""

    height: int
    width: int
    num_frames: int
    #: Frames by duration; exact for our MP4 files, and for GIF as exact as hundredths of a second are.
    fps: float
    duration_seconds: float
    #: FFmpeg's name of it, such as "h264".
    codec: str


def probe(path: Path) -> VideoInfo:
    """Measure a video file. Its packets are counted, not its headers believed; nothing is decoded.

    Raises:
        StorageError: the file is missing or is no video.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        ticks = sum(packet.duration or 0 for packet in packets)
        duration = ticks * (stream.time_base or Fraction(0))
        return VideoInfo(
            height=stream.height,
            width=stream.width,
            num_frames=len(packets),
            fps=float(len(packets) / duration) if duration else 0.0,
            duration_seconds=float(duration),
            codec=stream.codec_context.name,
        )


def read_frames(path: Path) -> Frames:
    """Decode all frames of a video file, `(num_frames, height, width, 3)`: all of them are in memory at once.

    Raises:
        StorageError: the file is missing, is no video or is damaged.
    """
    to_rgb = YuvToRgb()
    with _opened(path) as container:
        return np.stack([to_rgb(picture) for picture in container.decode(video=0)])


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    try:
        with av.open(str(path)) as container:
            yield container
    except (OSError, av.FFmpegError, IndexError, ValueError) as error:
        raise StorageError("the video file cannot be read", hint="it is missing or damaged") from error

"""Writes frames as a video file.

Frames are taken one by one, those of an MP4 in a thread while the one before is encoded; the whole video is never in memory, whatever its length.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream

from vitascope.domain.errors import WriteFailed
from vitascope.domain.request import OutputFormat
from vitascope.domain.windows import MAX_GIF_FPS

from .ahead import one_ahead
from .fit import fit_frames
from .frames import Frame, RgbToYuv, check_frame, to_av
from .stills import Stills
from .target import replacing

#: Measured on 51 frames of 1280x720 (moving texture and sprite, two CPU cores, 2026-11): medium 1.4 s, 531 KiB,
#: 38.6 dB; veryfast 0.9 s, 453 KiB, 37.5 dB; superfast 0.5 s, 960 KiB, 38.6 dB; slow 2.3 s, 517 KiB, 38.7 dB.
#: Making the frames takes far longer than any of them. At CRF 18 the loss is hard to see.
_X264 = {"preset": "medium", "crf": "18"}

#: Frames that were enlarged hold nothing that a long search finds. Measured on a clip of 192x192, enlarged to 512x512, 1280x720 and
#: 1792x1024 (2026-11): 2.2 times as fast, files of 0.94 to 1.04 times the size, 0.25 to 0.35 dB less of 39 to 43.
_X264_ENLARGED = {**_X264, "preset": "veryfast"}


@cache
def _x264_options(is_enlarged: bool) -> dict[str, str]:
    """Settings for this CPU.

    x264's AVX-512 code for its macroblock tree reads memory that nobody wrote: the same frames gave up to four different
    files (PyAV 18.1, 300 writes of a 64x48 clip), with AVX2 always one, the same as without any assembler. A CPU with
    AVX-512 has AVX2, and is not slower with it at this.
    """
    settings = _X264_ENLARGED if is_enlarged else _X264
    extensions = np.show_config(mode="dicts")["SIMD Extensions"]
    found = [*extensions["baseline"], *extensions["found"]]
    if any(name == "X86_V4" or name.startswith("AVX512") for name in found):
        return {**settings, "x264-params": "asm=avx2"}
    return dict(settings)


_BT709 = 1
_LIMITED_RANGE = 1
_CENTISECONDS = Fraction(1, 100)

#: A player that jumps decodes at most this much. Measured on 145 frames at 24 fps (panned texture 640x360; sprite on a
#: still texture 256x256): without further keyframes 410 and 126 KiB, every 5 s 486 and 155, every 2 s 604 and 203.
_SECONDS_BETWEEN_KEYFRAMES = 5

#: Of palettegen's and paletteuse's settings those that looked best and measured best after a slight blur, as an eye
#: sees dots: one palette for all frames (a palette for each flickers), error diffusion, and dots that stay as
#: they are where the picture does not change.
_PALETTE = "stats_mode=full:reserve_transparent=0"
_DITHER = "dither=floyd_steinberg:diff_mode=rectangle"


def write_video(
    frames: Iterable[Frame],
    path: Path,
    *,
    fps: int,
    format: OutputFormat,
    comment: str = "",
    finish: Callable[[Path], None] | None = None,
    is_enlarged: bool = False,
    is_kept: bool = True,
    stills: Stills | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Write frames to a file that is there whole or not at all.

    MP4 is H.264, yuv420p in BT.709, with the index first so that it plays while it loads. Every frame lasts exactly
    1/fps. GIF repeats for ever. It counts hundredths of a second: frame i starts at 100·i/fps rounded to the nearest,
    so that no error adds up, single delays differ by at most one hundredth and the whole lasts 100·n/fps rounded.

    Args:
        frames: RGB frames, all of one size; for MP4 both sides are even. GIF keeps them in a nameless temporary file
            in the target's folder until the palette is known, 3 bytes a pixel.
        path: the file; replaced if it exists. Its suffix plays no part.
        fps: from 1; for GIF at most 50.
        format: the container; each has one codec.
        comment: for people, in the metadata of an MP4.
        finish: what is still to be done with the complete file before it has its name, such as signing it.
        is_enlarged: the frames were made much smaller and hold no fine detail: an MP4 is written in half the time.
        is_kept: whether it stays there, and must survive a power cut.
        stills: sees all frames.
        size: height and width to stretch frames to; their own by default.

    Raises:
        WriteFailed: the folder is missing or not writable, the disk is full, there are no frames, or the format
            cannot hold them.
    """
    with replacing(path, is_kept=is_kept) as temporary:
        if format == "gif":
            if size is not None:
                frames = fit_frames(frames, height=size[0], width=size[1], fit="scale")
            _write_gif(frames, temporary, fps, stills)
        else:
            _write_mp4(frames, temporary, fps, comment, is_enlarged, stills, size)
        if finish is not None:
            finish(temporary)


def _write_mp4(
    frames: Iterable[Frame],
    path: Path,
    fps: int,
    comment: str,
    is_enlarged: bool,
    stills: Stills | None,
    size: tuple[int, int] | None,
) -> None:
    own_size, frames = _size(frames)
    height, width = size or own_size
    if height % 2 or width % 2:
        raise WriteFailed(f"an MP4 has even sides, not {width}x{height}", hint="choose an even size")
    with _container(path, "mp4", {"movflags": "+faststart"}) as container:
        if comment:
            container.metadata["comment"] = comment
        stream = _h264_stream(container, height, width, fps, is_enlarged)
        with closing(one_ahead(_converted(frames, (height, width), stills))) as pictures:
            for index, picture in enumerate(pictures):
                _encode(container, stream, picture, index, Fraction(1, fps))
        _finish(container, stream)


def _converted(
    frames: Iterable[Frame], size: tuple[int, int], stills: Stills | None
) -> Iterator[av.VideoFrame]:
    convert = RgbToYuv("yuv420p", limited=True, size=size)
    for frame in frames:
        picture = convert(frame)
        if stills is not None:
            stills.see(picture)
        yield picture


def _h264_stream(
    container: OutputContainer, height: int, width: int, fps: int, is_enlarged: bool
) -> VideoStream:
    stream = container.add_stream("libx264", rate=fps, options=_x264_options(is_enlarged))
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    context = stream.codec_context
    context.sample_aspect_ratio = Fraction(1)
    context.gop_size = max(12, _SECONDS_BETWEEN_KEYFRAMES * fps)
    # without tags players guess from the height: BT.601 for small pictures, and colours shift
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED_RANGE
    return stream


def _write_gif(frames: Iterable[Frame], path: Path, fps: int, stills: Stills | None) -> None:
    if fps > MAX_GIF_FPS:
        raise WriteFailed(
            f"a GIF shows at most {MAX_GIF_FPS} frames per second, not {fps}", hint="lower `fps`"
        )
    (height, width), frames = _size(frames)
    with tempfile.TemporaryFile(dir=path.parent) as spool:
        num_frames, palette = _palette(frames, spool, stills)
        starts = [_centiseconds(index, fps) for index in range(num_frames + 1)]
        last_delay = starts[-1] - starts[-2]  # the others follow from the next frame's start
        options = {"loop": "0", "final_delay": str(last_delay)}
        spool.seek(0)
        with _container(path, "gif", options) as container:
            stream = container.add_stream("gif", rate=100)
            stream.height, stream.width, stream.pix_fmt = height, width, "pal8"
            pictures = _quantised(_spooled(spool, height, width), palette)
            for start, picture in zip(starts, pictures, strict=False):
                _encode(container, stream, picture, start, _CENTISECONDS)
            _finish(container, stream)


def _centiseconds(index: int, fps: int) -> int:
    """When a GIF's frame starts: the nearest hundredth of a second, halves up."""
    return (200 * index + fps) // (2 * fps)


def _palette(frames: Iterable[Frame], spool: BinaryIO, stills: Stills | None) -> tuple[int, av.VideoFrame]:
    """Find the 256 colours that serve all frames best, and keep the frames in `spool` for the second pass."""
    graph: av.filter.Graph | None = None
    num_frames = 0
    for frame in frames:
        if graph is None:
            graph = _graph(frame.shape[0], frame.shape[1], "palettegen", _PALETTE)
        picture = to_av(frame)
        if stills is not None:
            stills.see(picture)
        picture.pts = num_frames
        graph.vpush(picture)
        spool.write(np.ascontiguousarray(frame).data)
        num_frames += 1
    assert graph is not None, "_size() has seen a frame"
    graph.vpush(None)
    return num_frames, graph.vpull()


def _graph(height: int, width: int, name: str, arguments: str) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = _source(graph, height, width, "rgb24")
    node, sink = graph.add(name, arguments), graph.add("buffersink")
    source.link_to(node)
    node.link_to(sink)
    graph.configure()
    return graph


def _source(
    graph: av.filter.Graph, height: int, width: int, pixel_format: str
) -> av.filter.context.FilterContext:
    picture_format = av.VideoFormat(pixel_format)
    return graph.add_buffer(height=height, width=width, format=picture_format, time_base=_CENTISECONDS)


def _spooled(spool: BinaryIO, height: int, width: int) -> Iterator[Frame]:
    while content := spool.read(height * width * 3):
        yield np.frombuffer(content, np.uint8).reshape(height, width, 3)


def _quantised(frames: Iterable[Frame], palette: av.VideoFrame) -> Iterator[av.VideoFrame]:
    """Redraw frames in the palette's colours."""
    (height, width), frames = _size(frames)
    graph = av.filter.Graph()
    node, sink = graph.add("paletteuse", _DITHER), graph.add("buffersink")
    _source(graph, height, width, "rgb24").link_to(node, 0, 0)
    _source(graph, palette.height, palette.width, palette.format.name).link_to(node, 0, 1)
    node.link_to(sink)
    graph.configure()
    graph.vpush(palette, at=1)
    graph.vpush(None, at=1)
    for index, frame in enumerate(frames):
        picture = to_av(frame)
        picture.pts, picture.time_base = index, _CENTISECONDS
        graph.vpush(picture, at=0)
        yield from _ready(graph)
    graph.vpush(None, at=0)
    yield from _ready(graph)


def _ready(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    """Take what a filter has finished: it may hold frames back until it has seen the next ones."""
    with suppress(av.BlockingIOError, av.EOFError):
        while True:
            yield graph.vpull()


def _size(frames: Iterable[Frame]) -> tuple[tuple[int, int], Iterator[Frame]]:
    """Look at the first frame's height and width; refuse frames of another size when they come."""
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise WriteFailed("there are no frames to write")
    check_frame(first)

    def same_size() -> Iterator[Frame]:
        for frame in itertools.chain((first,), iterator):
            if frame.shape != first.shape:
                raise ValueError(f"a frame of shape {frame.shape} follows frames of shape {first.shape}")
            yield frame

    return (first.shape[0], first.shape[1]), same_size()


@contextmanager
def _container(path: Path, name: str, options: dict[str, str]) -> Iterator[OutputContainer]:
    container = av.open(str(path), "w", format=name, options=options)
    try:
        yield container
    except BaseException:
        with suppress(av.FFmpegError):  # the first error is the one to tell
            container.close()
        raise
    container.close()


def _encode(
    container: OutputContainer, stream: VideoStream, picture: av.VideoFrame, pts: int, time_base: Fraction
) -> None:
    picture.pts, picture.time_base = pts, time_base
    container.mux(stream.encode(picture))


def _finish(container: OutputContainer, stream: VideoStream) -> None:
    container.mux(stream.encode(None))

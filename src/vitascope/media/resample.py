"""Changes a clip's frame rate without changing its speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Literal

import av

from .frames import Frame, Frames, RgbToYuv, YuvToRgb

_PADDING = 2
"""Frames that minterpolate needs on either side of the two it works between; it drops what it cannot surround."""

_START_SECONDS = 10
"""The clip starts here on the filter's clock: a whole second, so that its grid of output times meets the clip's."""

_SMALL_SIDE = 192
"""Pixels. Below it blocks of 16 are too coarse for what moves, and frames are doubled before motion is searched."""

#: Measured against frames left out of a clip at 24 fps (a moving, turning sprite on a still texture; 8 to 24 fps,
#: 2026-11). 128x128: doubled, bidirectional in blocks of 8 29.2 dB, FFmpeg's default 27.7, blending 23.6, repeating
#: 21.4. 480x832: FFmpeg's default (bilateral, blocks of 16) 31.6, bidirectional 30.3; wider searches were worse.
_SMALL = "mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1:mb_size=8"
_LARGE = "mi_mode=mci"
_BLEND = "mi_mode=blend"

Between = Literal["motion", "blend", "repeat"]


def resample_frames(
    clip: Frames, *, from_fps: int | Fraction, to_fps: int, num_frames: int, between: Between = "motion"
) -> Iterator[Frame]:
    """Show a clip at another rate, one frame at a time; the same input gives the same output.

    Frame i of the result is the clip at the time i/to_fps. Where the clip has a frame at just that time, it is given
    unchanged. Upwards, the others are drawn as `between` says; downwards, the nearest frame is taken.
    Beyond the clip's end its last frame is repeated.

    Args:
        clip: at least one frame, `(num_frames, height, width, 3)`. Not modified; frames of the result may be views.
        from_fps: frames per second of the clip; a fraction where it is played faster or slower than it was made.
        to_fps: frames per second of the result.
        num_frames: of the result.
        between: what is shown between two frames of the clip, where the result has more: what moved on its way
            ("motion"), one fading into the other ("blend"), or the nearer one ("repeat").

    Yields:
        Exactly `num_frames` frames of the clip's size.
    """
    if len(clip) == 0:
        raise ValueError("a clip has at least one frame")
    rate = Fraction(from_fps)
    is_drawn = to_fps > rate and between != "repeat"
    drawn = _interpolated(clip, rate, to_fps, between) if is_drawn else iter(())
    for index in range(num_frames):
        position = index * rate / to_fps  # in frames of the clip
        if not is_drawn or position.denominator == 1 or position > len(clip) - 1:
            yield clip[min(_nearest(position), len(clip) - 1)]
        else:
            yield _at(drawn, index)


def _nearest(position: Fraction) -> int:
    return int(position + Fraction(1, 2))


def _at(between: Iterator[tuple[int, Frame]], index: int) -> Frame:
    """Step on to the frame of that number."""
    for number, frame in between:
        if number == index:
            return frame
    raise ValueError(f"the interpolation made no frame {index}")


def _interpolated(clip: Frames, rate: Fraction, to_fps: int, between: Between) -> Iterator[tuple[int, Frame]]:
    """Draw the clip at every instant of the new rate, with the number of each: negative in the padding."""
    height, width = clip.shape[1:3]
    small = min(height, width) < _SMALL_SIDE
    scale = max(2, -(-16 // min(height, width))) if small else 1
    how = _BLEND if between == "blend" else _SMALL if small else _LARGE
    graph = _graph(height * scale, width * scale, rate, f"{how}:fps={to_fps}")
    to_yuv = RgbToYuv("yuv444p", limited=False, scale=scale)
    to_rgb = YuvToRgb(scale=scale)
    for index in range(-_PADDING, len(clip) + _PADDING + 1):
        if index < len(clip) + _PADDING:
            picture = to_yuv(clip[min(max(index, 0), len(clip) - 1)])
            picture.pts = _START_SECONDS * rate.numerator + index * rate.denominator
            picture.time_base = Fraction(1, rate.numerator)
            graph.vpush(picture)
        else:
            graph.vpush(None)
        with suppress(av.BlockingIOError, av.EOFError):
            while True:
                drawn = graph.vpull()
                yield _number(drawn, to_fps), to_rgb(drawn)


def _number(picture: av.VideoFrame, to_fps: int) -> int:
    """Which frame of the new rate this is, by its time."""
    assert picture.pts is not None, "minterpolate stamps every frame"
    assert picture.time_base is not None
    return round((picture.pts * picture.time_base - _START_SECONDS) * to_fps)


def _graph(height: int, width: int, rate: Fraction, arguments: str) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        height=height, width=width, format=av.VideoFormat("yuv444p"), time_base=Fraction(1, rate.numerator)
    )
    node, sink = graph.add("minterpolate", arguments), graph.add("buffersink")
    source.link_to(node)
    node.link_to(sink)
    graph.configure()
    return graph

"""What a video is made from, read at the size at which the model works.

It is put where the file shows it: what of the model's picture is cut away to reach the file's shape is a blurred border in what the model
is given, so that nothing is lost, moves or grows.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitascope import media
from vitascope.domain.plan import Plan
from vitascope.domain.request import MAX_VIDEO_FRAMES, MAX_VIDEO_SECONDS
from vitascope.engine import Inputs

if TYPE_CHECKING:
    from vitascope.engine.contract import Frames
    from vitascope.media import Frame


def read_inputs(plan: Plan) -> Inputs:
    """Read what the video starts from, at the size of each pass: pictures cover what the file shows, and are cut to its shape."""
    inputs, second = _inputs_of_pass(plan), plan.second
    if second is None:
        return inputs
    second = dataclasses.replace(second, video=None, image=None if plan.mode == "video" else second.image)
    return dataclasses.replace(inputs, larger=_inputs_of_pass(second))


def _inputs_of_pass(plan: Plan) -> Inputs:
    image = None if plan.image is None else _picture(plan, plan.image)
    video = None if plan.video is None else _read_video(plan, plan.video)
    if image is not None and plan.mode == "video":  # it stands still, and is changed
        video = np.stack([image] * plan.native_num_frames)
        image = None
    return Inputs(
        image=image,
        last_image=None if plan.last_image is None else _picture(plan, plan.last_image),
        video=video,
        before=None if plan.continues is None else _last_frames(plan, plan.continues),
        references=tuple(media.read_image(Path(path)) for path in plan.references),
    )


def _picture(plan: Plan, path: str) -> Frame:
    picture = media.read_image(Path(path), size=_shown_size(plan))
    frame: Frame = _at_native_size(plan, [picture])[0]
    return frame


def continued_frames(plan: Plan, path: str) -> Iterator[Frames]:
    """Read the frames of the continued video as they come first in the file: at its size and rate."""
    return _stream(plan, path, (plan.height, plan.width))


def _stream(plan: Plan, path: str, size: tuple[int, int]) -> Iterator[Frames]:
    return media.stream_video(
        Path(path),
        size=size,
        fps=plan.fps,
        num_frames=plan.continued_frames,
        max_frames=MAX_VIDEO_FRAMES,
        max_seconds=MAX_VIDEO_SECONDS,
    )


def _read_video(plan: Plan, path: str) -> Frames:
    frames = media.read_video(
        Path(path),
        size=_shown_size(plan),
        fps=plan.native_fps,
        num_frames=plan.native_num_frames,
        max_frames=MAX_VIDEO_FRAMES,
        max_seconds=MAX_VIDEO_SECONDS,
    )
    return _at_native_size(plan, frames)


def _last_frames(plan: Plan, path: str) -> Frames:
    """Read as many of the continued video's last frames as the first window starts from, as far apart as the model's are."""
    last = plan.continued_frames - 1
    wanted = [
        max(0, last - round(back * plan.fps / plan.native_fps))
        for back in reversed(range(plan.windows[0].overlap))
    ]
    kept: deque[Frames] = deque(_stream(plan, path, _shown_size(plan)), maxlen=last - wanted[0] + 1)
    return _at_native_size(plan, [kept[index - wanted[0]] for index in wanted])


def _shown_size(plan: Plan) -> tuple[int, int]:
    """The (height, width) of that part of the model's picture which the file shows."""
    return plan.shown.height, plan.shown.width


def _at_native_size(plan: Plan, frames: Iterable[Frames]) -> Frames:
    size = {"height": plan.native_height, "width": plan.native_width}
    return np.stack(list(media.fit_frames(frames, **size, fit="pad")))

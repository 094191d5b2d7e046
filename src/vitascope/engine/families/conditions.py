"""What a window starts from, in the words of each kind of pipeline.

diffusers has three ways to hand pictures to a model: arguments named for what they are (`image`, `last_image`, `video`), a
list of conditions with the frame that each belongs to (LTX), and a whole video with a mask of what is to be made (VACE). Which
one a pipeline has is read off its call's signature.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vitascope.domain.windows import Window
from vitascope.engine.contract import Inputs

if TYPE_CHECKING:
    from vitascope.engine.contract import Frames

_UNKNOWN = 128
"""Grey of the frames that are to be made, as VACE was trained."""


@dataclass(frozen=True, slots=True)
class Start:
    """What one window starts from; everything is at its native size."""

    window: Window
    #: Frames that are given: the window's first ones, where it continues, or the first frame.
    head: Frames | None
    #: The frame that it ends with.
    tail: Frames | None
    #: The part of a given video that the window changes.
    video: Frames | None
    references: tuple[Frames, ...]


def start_of(window: Window, inputs: Inputs, done: Frames | None, at: int) -> Start:
    """Collect what a window starts from.

    Args:
        window: of the plan.
        inputs: of the request.
        done: frames of the windows before; None for the first one.
        at: number of the window's first frame among those of the whole clip.
    """
    head = None
    if window.continues and done is not None and window.mode != "video":
        head = done[-window.overlap :]
    elif window.mode in ("image", "last_image") and inputs.image is not None:
        head = inputs.image[None]
    return Start(
        window=window,
        head=head,
        tail=inputs.last_image if window.mode == "last_image" else None,
        video=None
        if inputs.video is None or window.mode != "video"
        else held(inputs.video, at, window.num_frames),
        references=inputs.references if window.mode == "reference" else (),
    )


def arguments_of(start: Start, parameters: Collection[str], strength: float | None) -> dict[str, Any]:
    """Say it to a pipeline whose call takes these parameters."""
    if start.video is not None:
        return {"video": _pictures(start.video), "strength": strength}
    if {"video", "mask", "reference_images"} <= set(parameters):
        return _masked(start)
    if "conditions" in parameters:
        return _conditions(start)
    named: dict[str, Any] = {}
    if start.head is not None:
        named["image"] = Image.fromarray(start.head[0])
    if start.tail is not None:
        named["last_image"] = Image.fromarray(start.tail)
    return named


def _masked(start: Start) -> dict[str, Any]:
    """A video in which what is given stands in its place and the rest is grey; the mask is white where frames are made."""
    named: dict[str, Any] = {}
    if start.references:
        named["reference_images"] = _pictures(start.references)
    known = start.head if start.head is not None else start.tail
    if known is None:
        return named
    shape = known.shape[-3:]
    frames = np.full((start.window.num_frames, *shape), _UNKNOWN, np.uint8)
    mask = np.full((start.window.num_frames, *shape), 255, np.uint8)
    if start.head is not None:
        frames[: len(start.head)], mask[: len(start.head)] = start.head, 0
    if start.tail is not None:
        frames[-1], mask[-1] = start.tail, 0
    return {**named, "video": _pictures(frames), "mask": _pictures(mask)}


def _conditions(start: Start) -> dict[str, Any]:
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    conditions = []
    if start.head is not None and len(start.head) > 1:
        conditions.append(LTXVideoCondition(video=_pictures(start.head), frame_index=0))
    elif start.head is not None:
        conditions.append(LTXVideoCondition(image=Image.fromarray(start.head[0]), frame_index=0))
    if start.tail is not None:
        last = start.window.num_frames - 1
        conditions.append(LTXVideoCondition(image=Image.fromarray(start.tail), frame_index=last))
    return {"conditions": conditions} if conditions else {}


def held(clip: Frames, at: int, num_frames: int) -> Frames:
    """Take frames of a clip; beyond its end its last one is held."""
    return clip[np.minimum(np.arange(at, at + num_frames), len(clip) - 1)]


def _pictures(frames: Any) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in frames]

"""What the engine says while it works, and what share of the whole that is."""

from __future__ import annotations

from dataclasses import dataclass

#: Stages in the order that a job passes them, with the percent at which each begins.
#: Denoising takes nearly all of the time of a real model, so it gets nearly all of the scale.
STAGE_STARTS: dict[str, int] = {
    "hand_over": 0,
    "check_inputs": 0,
    "enhance_prompt": 0,
    "load": 0,
    "encode_prompt": 1,
    "denoise": 3,
    "decode_latents": 90,
    "check_frames": 94,
    "resample": 94,
    "write_video": 96,
    "store": 98,
}


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of work that has begun (`index` 0) or is done (`index` of `of`)."""

    stage: str
    index: int = 0
    of: int = 1
    #: What is being denoised, now and then: a small WebP.
    preview: bytes | None = None
    #: Which of several videos it belongs to.
    video: int = 0
    num_videos: int = 1
    #: Whether nothing is to be done for it now: something else works for it, and whoever drives it may look again later.
    is_waiting: bool = False


def percent(step: Step) -> int:
    """Whole percent of the job that is done at this step; below 100 until the file can be fetched.

    Over the steps of one plan it never falls: a video of several windows counts their denoising steps as one row, and each of
    several videos has an equal share of what comes before the storing.
    """
    whole = _percent_of_one(step)
    if step.num_videos == 1:
        return whole
    each = STAGE_STARTS["store"]
    return (step.video * each + min(whole, each)) // step.num_videos


def _percent_of_one(step: Step) -> int:
    starts = list(STAGE_STARTS.items())
    position = [stage for stage, _ in starts].index(step.stage)
    begin = starts[position][1]
    end = starts[position + 1][1] if position + 1 < len(starts) else 99
    return begin + int((end - begin) * min(1.0, step.index / max(1, step.of)))

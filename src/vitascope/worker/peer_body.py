"""A job as a peer is asked for it: the body of the native API, and what its plan must be for the video to be the same."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vitascope.domain.plan import Plan
from vitascope.domain.request import GenerationRequest

KEPT_SECONDS = 3600
"""How long a peer keeps what it has made for us: it is fetched at once, and deleted; this is for when we are gone."""

#: Of a request, what is sent as it is.
AS_IT_IS = (
    "prompt", "model", "negative_prompt", "height", "width", "num_frames", "fps", "num_inference_steps",
    "guidance_scale", "scheduler", "strength", "clip_skip", "preview_every", "seed", "num_videos", "format",
    "priority",
)  # fmt: skip

#: What is sent in another form.
IN_ANOTHER_FORM = (
    "image", "last_image", "video", "references", "shots", "loras", "upscale", "improved_sampling",
    "watermark", "enhance_prompt", "provenance", "expires_in_seconds", "may_hand_over", "speed",
)  # fmt: skip

#: What a peer cannot be told: with any of it a job stays here.
STAYS_WITH = ("continues", "flow_shift", "enhanced_prompts", "source_has_border")

#: What is this server's own affair, or follows from a continued video.
OUR_OWN = (
    "metadata", "user", "notes", "base_url", "webhook", "track_id", "source", "continued_frames",
    "continued_watermark", "added_seconds", "is_public", "is_seed_drawn",
)  # fmt: skip

PLACEHOLDER = "data:image/png;base64,AAAA"
"""In the place of a file, where only the plan is asked for: that reads none."""

_PLANNED = (
    "model", "mode", "height", "width", "num_frames", "fps", "fit", "native_height", "native_width",
    "native_num_frames", "native_fps", "num_inference_steps", "total_steps", "num_videos", "guidance_scale",
    "scheduler", "strength", "continued_frames", "speed",
)  # fmt: skip


class Returned(Exception):
    """The peer does not make it: the job stays here.

    Args:
        reason: as the rest of the sentence "the peer …", for the log.
        code: the peer's own, where it has refused.
        for_now: whether it may make it later.
    """

    def __init__(self, reason: str, *, code: str = "", for_now: bool = False) -> None:
        self.code = code
        self.for_now = for_now
        super().__init__(reason)


def why_stays(request: GenerationRequest, plan: Plan) -> str | None:
    """Say why a job cannot be told to a peer; None if it can."""
    if plan.enhance_prompt:
        return "this server writes its prompt out"
    named = [name for name in STAYS_WITH if getattr(request, name) not in (None, False, ())]
    return f"a peer cannot be asked for its {', '.join(named)}" if named else None


def body_of(request: GenerationRequest, plan: Plan, read: Callable[[str], str]) -> dict[str, Any]:
    """Write the body of a request for the same video.

    Args:
        request: what the job was asked for.
        plan: of the job; its pictures and its video are what `read` reads.
        read: makes a data URL of one of them.
    """
    body = {name: getattr(request, name) for name in AS_IT_IS}
    if not request.prompt:
        del body["prompt"]  # where shots say it, or the model reads none
    body |= {name: read(path) for name in ("image", "last_image", "video") if (path := getattr(plan, name))}
    body |= {
        "references": [read(path) for path in plan.references],
        "shots": [_given(shot) for shot in request.shots],
        "loras": [dataclasses.asdict(lora) for lora in request.loras],
        "upscale": False if request.upscale is None else _given(request.upscale) or True,
        "improved_sampling": False,
        "watermark": _watermark(plan, read),
        "enhance_prompt": False,
        "speed": request.speed or "lossless",  # else it would be as the peer is set to
        "expires_in_seconds": KEPT_SECONDS,
        "may_hand_over": False,  # or two busy servers would send it to and fro
    }
    if request.improved_sampling is not None:
        body["improved_sampling"] = {"seed": request.improved_sampling.seed}
    if not plan.provenance:
        body["provenance"] = False  # else as the peer does: it is signed here once more
    return {name: value for name, value in body.items() if value not in (None, [])}


def _given(value: Any) -> dict[str, Any]:
    return {name: each for name, each in dataclasses.asdict(value).items() if each is not None}


def _watermark(plan: Plan, read: Callable[[str], str]) -> dict[str, Any] | bool:
    mark = plan.watermark
    if mark is None:
        return False
    image = None if mark.image is None else read(mark.image)
    return _given(dataclasses.replace(mark, image=image))


def same_plan(plan: Plan) -> dict[str, Any]:
    """Tell what the native API shows of a plan, as far as the video depends on it."""
    shown = {name: getattr(plan, name) for name in _PLANNED}
    shown["windows"] = [
        {"num_frames": w.num_frames, "mode": w.mode, "overlap": w.overlap, "shot": w.shot}
        for w in plan.windows
    ]
    shown["loras"] = [dataclasses.asdict(lora) for lora in plan.loras]
    improved, upscale = plan.improved_sampling, plan.upscale
    shown["improved_sampling"] = None if improved is None else dataclasses.asdict(improved)
    shown["upscale"] = upscale and {
        "height": plan.height,
        "width": plan.width,
        "native_height": upscale.height,
        "native_width": upscale.width,
        "strength": upscale.strength,
        "guidance_scale": upscale.guidance_scale,
        "num_inference_steps": upscale.num_inference_steps,
        "scheduler": upscale.scheduler,
        "model": upscale.model or plan.model,
    }
    return shown


def differences(plan: Plan, theirs: Mapping[str, Any]) -> list[str]:
    """Name what a peer would make otherwise than this server."""
    return [name for name, value in same_plan(plan).items() if theirs.get(name, ...) != value]


def data_url(data: bytes) -> str:
    """Write a file into a body; of what kind it is, the peer finds out."""
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode('ascii')}"

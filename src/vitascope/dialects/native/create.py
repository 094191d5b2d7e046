"""POST /api/v1/jobs: a request in our words."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from vitascope.dialects._http import Fields, picture_of
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import GenerationRequest, OutputFormat, num_frames_for

PARAMETERS = (
    "prompt", "model", "negative_prompt", "image", "height", "width", "num_frames", "fps", "duration_seconds",
    "num_inference_steps", "guidance_scale", "scheduler", "seed", "format", "priority", "metadata", "user",
)  # fmt: skip

MAX_NAME_CHARS = 255
MAX_COUNTED_SECONDS = 1e6


def to_request(
    fields: Fields, resolve: Callable[[str | None], ModelSpec]
) -> tuple[GenerationRequest, bytes | str | None]:
    """Read a body: the request, and the bytes or the URL of its first frame's picture.

    Raises:
        InvalidParameter: a field is of the wrong type or form.
        UnknownModel: there is no such model.
    """
    spec = resolve(fields.text("model", max_chars=MAX_NAME_CHARS) or None)
    prompt = fields.text("prompt")
    if prompt is None:
        raise InvalidParameter("prompt", "missing", "it must say what the video shows")
    request = GenerationRequest(
        prompt=prompt,
        model=spec.id,
        negative_prompt=fields.text("negative_prompt") or "",
        height=fields.integer("height"),
        width=fields.integer("width"),
        num_frames=_num_frames(fields, spec),
        fps=fields.integer("fps"),
        num_inference_steps=fields.integer("num_inference_steps"),
        guidance_scale=fields.number("guidance_scale"),
        scheduler=fields.text("scheduler", max_chars=MAX_NAME_CHARS) or None,
        seed=fields.integer("seed"),
        # an illegal name is refused by the plan, with the legal ones
        format=cast(OutputFormat, fields.text("format") or "mp4"),
        priority=fields.integer("priority") or 0,
        metadata=fields.mapping("metadata"),
        user=fields.text("user", max_chars=MAX_NAME_CHARS),
    )
    return request, picture_of("image", fields.raw("image"))


def _num_frames(fields: Fields, spec: ModelSpec) -> int | None:
    """`duration_seconds` is another way to say `num_frames`; both at once are refused."""
    num_frames, seconds = fields.integer("num_frames"), fields.number("duration_seconds")
    if seconds is None:
        return num_frames
    if num_frames is not None:
        raise InvalidParameter("duration_seconds", seconds, "`num_frames` is given too")
    if seconds <= 0:
        raise InvalidParameter("duration_seconds", seconds, "it must be above 0")
    return num_frames_for(min(seconds, MAX_COUNTED_SECONDS), max(1, fields.integer("fps") or spec.fps))

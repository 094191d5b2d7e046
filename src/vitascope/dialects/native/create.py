"""POST /api/v1/jobs: a request in our words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

from vitascope.dialects._http import Fields, picture_of, shown
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.loras import MAX_LORAS
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import MAX_REFERENCES
from vitascope.domain.request import (
    GenerationRequest,
    ImprovedSampling,
    Lora,
    OutputFormat,
    Position,
    Shot,
    Transition,
    Upscale,
    Watermark,
    num_frames_for,
)
from vitascope.domain.webhook import Webhook
from vitascope.domain.windows import MAX_SHOTS
from vitascope.service import OfJob, Sent
from vitascope.service.inputs import Content

PARAMETERS = (
    "prompt",
    "model",
    "negative_prompt",
    "image",
    "last_image",
    "video",
    "continues",
    "references",
    "shots",
    "height",
    "width",
    "num_frames",
    "fps",
    "duration_seconds",
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
    "strength",
    "loras",
    "clip_skip",
    "enhance_prompt",
    "upscale",
    "improved_sampling",
    "preview_every",
    "speed",
    "seed",
    "num_videos",
    "format",
    "provenance",
    "watermark",
    "priority",
    "may_hand_over",
    "is_public",
    "expires_in_seconds",
    "metadata",
    "user",
    "webhook",
    "track_id",
)
UPSCALE_PARAMETERS = ("height", "width", "strength", "guidance_scale", "num_inference_steps")
LORA_PARAMETERS = ("name", "scale")
SHOT_PARAMETERS = ("prompt", "num_frames", "duration_seconds", "transition")

WATERMARK_PARAMETERS = ("text", "image", "position", "opacity")
DEFAULT_MARK = Watermark()

MAX_NAME_CHARS = 255
MAX_COUNTED_SECONDS = 1e6


def to_request(fields: Fields, resolve: Callable[[str | None], ModelSpec]) -> tuple[GenerationRequest, Sent]:
    """Read a body: the request, and the pictures and videos that came with it.

    Raises:
        InvalidParameter: a field is of the wrong type or form.
        UnknownModel: there is no such model.
    """
    spec = resolve(fields.text("model", max_chars=MAX_NAME_CHARS) or None)
    fps = max(1, fields.integer("fps") or spec.fps)
    shots = _shots(fields, fps)
    mark, mark_image = _watermark(fields)
    prompt, num_videos = fields.text("prompt"), fields.integer("num_videos")
    if prompt is None and not shots and spec.takes_prompt:
        raise InvalidParameter("prompt", "missing", "it must say what the video shows")
    request = GenerationRequest(
        prompt=prompt or "",
        model=spec.id,
        negative_prompt=fields.text("negative_prompt") or "",
        shots=shots,
        height=fields.integer("height"),
        width=fields.integer("width"),
        num_frames=_num_frames(fields, fps),
        fps=fields.integer("fps"),
        num_inference_steps=fields.integer("num_inference_steps"),
        guidance_scale=fields.number("guidance_scale"),
        scheduler=fields.text("scheduler", max_chars=MAX_NAME_CHARS) or None,
        strength=fields.number("strength"),
        loras=_loras(fields),
        clip_skip=fields.integer("clip_skip"),
        enhance_prompt=fields.boolean("enhance_prompt"),
        upscale=_upscale(fields),
        improved_sampling=_improved_sampling(fields),
        speed=fields.text("speed", max_chars=MAX_NAME_CHARS) or None,
        preview_every=fields.integer("preview_every") or 0,
        seed=fields.integer("seed"),
        num_videos=1 if num_videos is None else num_videos,
        # an illegal name is refused by the plan, with the legal ones
        format=cast(OutputFormat, fields.text("format") or "mp4"),
        provenance=fields.boolean("provenance"),
        watermark=mark,
        priority=fields.integer("priority") or 0,
        may_hand_over=bool(fields.boolean("may_hand_over")),
        is_public=bool(fields.boolean("is_public")),
        expires_in_seconds=fields.integer("expires_in_seconds"),
        metadata=fields.mapping("metadata"),
        user=fields.text("user", max_chars=MAX_NAME_CHARS),
        webhook=_webhook(fields),
        track_id=fields.text("track_id", max_chars=MAX_NAME_CHARS) or None,
    )
    return request, replace(_sent(fields), watermark=mark_image)


def _webhook(fields: Fields) -> Webhook | None:
    """A URL, or an object with `url`; where it may lead is looked at when the job is made."""
    value = fields.raw("webhook")
    if isinstance(value, str) and value.lstrip()[:1] != "{":
        url = fields.text("webhook")
    else:
        inner = Fields(fields.mapping("webhook"))
        try:
            inner.check_names(("url",))
            url = inner.text("url")
        except InvalidParameter as error:
            name = f"webhook.{error.parameter}"
            raise InvalidParameter(name, error.value, error.rule, hint=error.hint) from None
        if value and url is None:
            raise InvalidParameter("webhook", "given", "it must be a URL, or an object with `url`")
    return Webhook(url) if url else None


def _sent(fields: Fields) -> Sent:
    listed = fields.listing("references", MAX_REFERENCES)
    references = [picture_of(f"references[{index}]", value) for index, value in enumerate(listed)]
    return Sent(
        image=picture_of("image", fields.raw("image")),
        last_image=picture_of("last_image", fields.raw("last_image")),
        video=_video("video", fields),
        continues=_video("continues", fields),
        references=tuple(content for content in references if content is not None),
    )


def _video(name: str, fields: Fields) -> Content | None:
    """A file, a URL or base64; or `{"job": ID}`, the video of another job."""
    value = fields.raw(name)
    if not isinstance(value, dict):
        return picture_of(name, value)
    inner = Fields(value)
    try:
        inner.check_names(("job", "index"))
        job_id, index = inner.text("job"), inner.integer("index")
    except InvalidParameter as error:
        raise InvalidParameter(
            f"{name}.{error.parameter}", error.value, error.rule, hint=error.hint
        ) from None
    if not job_id:
        raise InvalidParameter(f"{name}.job", "missing", "it must be a job's id")
    return OfJob(job_id.rpartition("_")[2], index or 0)  # dialects put a word before it


def _watermark(fields: Fields) -> tuple[Watermark | None, bytes | str | None]:
    """A text, a file, an object with one of them and how it is shown, or false for none at all."""
    value = fields.raw("watermark")
    if value is None or value == "":
        return None, None
    if isinstance(value, bytes):
        return Watermark(), value
    if value is False or value == "false":
        return Watermark(), None
    if value is True:
        raise InvalidParameter("watermark", value, "it must be text, a file, false, or an object")
    if isinstance(value, str) and value.lstrip()[:1] != "{":
        return Watermark(text=fields.text("watermark")), None
    inner = Fields(fields.mapping("watermark"))
    try:
        inner.check_names(WATERMARK_PARAMETERS)
        opacity = inner.number("opacity")
        mark = Watermark(
            text=inner.text("text") or None,
            # an illegal name is refused by the plan, with the legal ones
            position=cast(Position, inner.text("position") or DEFAULT_MARK.position),
            opacity=DEFAULT_MARK.opacity if opacity is None else opacity,
        )
    except InvalidParameter as error:
        name = f"watermark.{error.parameter}"
        raise InvalidParameter(
            name, error.value, error.rule, nearest=error.nearest, hint=error.hint
        ) from None
    image = picture_of("watermark.image", inner.raw("image"))
    if mark.text is None and image is None:
        raise InvalidParameter("watermark", "an object", "it must hold `text` or `image`")
    return mark, image


def _upscale(fields: Fields) -> Upscale | None:
    """True for a second pass as the model's card says, false for none, or an object with what shall be otherwise."""
    value = fields.raw("upscale")
    if _is_flag(value):
        try:
            return Upscale() if fields.boolean("upscale") else None
        except InvalidParameter as error:
            raise InvalidParameter("upscale", error.value, "it must be true, false or an object") from None
    inner = Fields(fields.mapping("upscale"))
    with _named_within("upscale"):
        inner.check_names(UPSCALE_PARAMETERS)
        return Upscale(
            height=inner.integer("height"),
            width=inner.integer("width"),
            strength=inner.number("strength"),
            guidance_scale=inner.number("guidance_scale"),
            num_inference_steps=inner.integer("num_inference_steps"),
        )


@contextlib.contextmanager
def _named_within(name: str) -> Iterator[None]:
    """Say what is wrong with a member of an object by the names of both."""
    try:
        yield
    except InvalidParameter as error:
        whole = f"{name}.{error.parameter}"
        raise InvalidParameter(
            whole, error.value, error.rule, nearest=error.nearest, hint=error.hint
        ) from None


def _is_flag(value: object) -> bool:
    """Whether a value says yes or no, in whatever way, and is not an object."""
    if isinstance(value, str):
        return value.lstrip()[:1] != "{"
    return value is None or isinstance(value, bool | int | float)


def _improved_sampling(fields: Fields) -> ImprovedSampling | None:
    """True, false, or an object with the seed of its own noise."""
    value = fields.raw("improved_sampling")
    if _is_flag(value):
        try:
            return ImprovedSampling() if fields.boolean("improved_sampling") else None
        except InvalidParameter as error:
            rule = "it must be true, false, or an object with `seed`"
            raise InvalidParameter("improved_sampling", error.value, rule) from None
    inner = Fields(fields.mapping("improved_sampling"))
    with _named_within("improved_sampling"):
        inner.check_names(("seed",))
        return ImprovedSampling(seed=inner.integer("seed"))


def _shots(fields: Fields, fps: int) -> tuple[Shot, ...]:
    """Each entry is a text, or an object with `prompt`, its length, and how it follows the one before."""
    shots = []
    for index, value in enumerate(fields.listing("shots", MAX_SHOTS)):
        name = f"shots[{index}]"
        if not isinstance(value, str | dict):
            raise InvalidParameter(name, shown(value), "it must be text or an object with `prompt`")
        shot = Fields({"prompt": value} if isinstance(value, str) else value)
        with _named_within(name):
            shot.check_names(SHOT_PARAMETERS)
            # an illegal name is refused by the plan, with the legal ones
            transition = cast(Transition | None, shot.text("transition") or None)
            shots.append(Shot(shot.text("prompt") or "", _num_frames(shot, fps), transition))
    return tuple(shots)


def _loras(fields: Fields) -> tuple[Lora, ...]:
    """Each entry is a name, or an object with `name` and `scale`."""
    loras = []
    for index, value in enumerate(fields.listing("loras", MAX_LORAS)):
        name = f"loras[{index}]"
        if not isinstance(value, str | dict):
            raise InvalidParameter(name, shown(value), "it must be a name or an object with `name`")
        inner = Fields({"name": value} if isinstance(value, str) else value)
        with _named_within(name):
            inner.check_names(LORA_PARAMETERS)
            asked, scale = inner.text("name", max_chars=MAX_NAME_CHARS), inner.number("scale")
        if not asked:
            raise InvalidParameter(f"{name}.name", "missing", "it must be an adapter's name")
        loras.append(Lora(asked) if scale is None else Lora(asked, scale))
    return tuple(loras)


def _num_frames(fields: Fields, fps: int) -> int | None:
    """`duration_seconds` is another way to say `num_frames`; both at once are refused."""
    num_frames, seconds = fields.integer("num_frames"), fields.number("duration_seconds")
    if seconds is None:
        return num_frames
    if num_frames is not None:
        raise InvalidParameter("duration_seconds", seconds, "`num_frames` is given too")
    if fields.raw("continues") is not None and fields.integer("fps") is None:
        rule = "the video that is continued decides the rate, so that only `num_frames` can be counted"
        raise InvalidParameter("duration_seconds", seconds, rule, hint="send `fps` or `num_frames` too")
    if seconds <= 0:
        raise InvalidParameter("duration_seconds", seconds, "it must be above 0")
    return num_frames_for(min(seconds, MAX_COUNTED_SECONDS), fps)

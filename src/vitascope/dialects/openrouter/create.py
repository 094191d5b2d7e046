"""POST /api/v1/videos: from the vendor's fields to a request in our words, and errors back into the vendor's words."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vitascope.dialects._http import Fields, picture_of, shown
from vitascope.domain.choice import Choice
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import MAX_REFERENCES
from vitascope.domain.request import GenerationRequest, num_frames_for
from vitascope.domain.sizes import MAX_SIDE, nearest_side, size_of_shape
from vitascope.domain.webhook import Webhook
from vitascope.service import Sent

FORMAT = "openrouter"
"""Of the webhook that `callback_url` asks for."""

SLUG = "vitascope"
"""Under which name of `provider.options` this server finds what is meant for it; the others are other providers'."""

OWN = f"provider.options.{SLUG}."

PASSTHROUGH = (
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "fps",
    "scheduler",
    "enhance_prompt",
)

PARAMETERS = (
    "model", "prompt", "duration", "resolution", "aspect_ratio", "size", "frame_images", "input_references",
    "generate_audio", "seed", "callback_url", "provider", "previous_job_id", "creativity", "upscale_factor",
    "session_id", "trace", "user",
)  # fmt: skip

#: Pixels of the short side.
RESOLUTIONS: Mapping[str, int] = {
    "360p": 360, "480p": 480, "720p": 720, "768p": 768, "1080p": 1080, "1K": 1080, "2K": 1440, "4K": 2160,
}  # fmt: skip
RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "9:21")
DEFAULT_RATIO = "16:9"

MAX_NAME_CHARS = 255
MAX_SESSION_CHARS = 256
MAX_COUNTED_SECONDS = 1e6

_SIZE = re.compile(r"\s*(\d{1,6})\s*[xX*]\s*(\d{1,6})\s*", re.ASCII)

#: What models without it do not take, and why.
_NOT_HERE = {
    "previous_job_id": "no model of this server continues an earlier job by this field",
    "creativity": "it is for upscaling models, and this server has none",
    "upscale_factor": "it is for upscaling models, and this server has none",
}

Resolve = Callable[[str | None], tuple[ModelSpec, tuple[Choice, ...]]]


@dataclass(slots=True)
class Order:
    """A request in our words, and what is needed to speak of it in the client's."""

    request: GenerationRequest
    sent: Sent
    choices: list[Choice]
    frames_per_second: int
    #: The client's names of our parameters.
    names: dict[str, str] = field(default_factory=dict)
    #: What the client has said of a parameter of ours, where that is something else.
    values: dict[str, Any] = field(default_factory=dict)

    def in_clients_words(self, error: InvalidParameter) -> InvalidParameter:
        """Say the same of the field that the client sent."""
        ours = error.parameter
        name, value, nearest = self.names.get(ours, ours), self.values.get(ours, error.value), error.nearest
        rule = error.rule
        if ours == "num_frames" and nearest is not None:
            nearest = _seconds(int(str(nearest)), self.frames_per_second)
        elif ours in ("width", "height"):
            rule = rule.replace("it must", f"its {ours} must", 1)
            nearest = None if nearest is None else self._size_with(ours, nearest)
        return InvalidParameter(name, value, rule, nearest=nearest, hint=error.hint)

    def _size_with(self, side: str, pixels: object) -> str:
        sides = {"width": self.request.width, "height": self.request.height, side: pixels}
        width, height = (nearest_side(float(str(sides[name]))) for name in ("width", "height"))
        return f"{width}x{height}"


def to_order(fields: Fields, resolve: Resolve, session: str | None = None) -> Order:
    """Translate a decoded body.

    Args:
        fields: the body's.
        resolve: finds a model by any name.
        session: what the header says of the session; the body wins.

    Raises:
        InvalidParameter: a field is of the wrong type or form; named as the client named it.
        UnknownModel: there is no such model, and `resolve` knows none in its place.
    """
    fields.check_names(PARAMETERS)
    _refuse_what_is_not_here(fields)
    name = fields.text("model", max_chars=MAX_NAME_CHARS)
    spec, choices = resolve(name or None)
    own = _own_options(fields)
    prompt = fields.text("prompt")
    if prompt is None and spec.takes_prompt:
        raise InvalidParameter("prompt", "missing", "it must say what the video shows")
    fps = own.integer(OWN + "fps")
    callback = fields.text("callback_url")
    request = GenerationRequest(
        prompt=prompt or "",
        model=spec.id if choices or not name else name,
        negative_prompt=own.text(OWN + "negative_prompt") or "",
        fps=fps,
        num_inference_steps=own.integer(OWN + "num_inference_steps"),
        guidance_scale=own.number(OWN + "guidance_scale"),
        scheduler=own.text(OWN + "scheduler", max_chars=MAX_NAME_CHARS) or None,
        enhance_prompt=own.boolean(OWN + "enhance_prompt"),
        seed=fields.integer("seed"),
        metadata=_metadata(fields, session),
        user=fields.text("user", max_chars=MAX_NAME_CHARS),
        webhook=Webhook(callback, FORMAT) if callback else None,
    )
    order = Order(request, Sent(), list(choices), max(1, fps or spec.fps))
    order.names = {name: OWN + name for name in PASSTHROUGH}
    order.names |= {"image": "frame_images", "webhook": "callback_url"}
    _read_length(order, fields)
    _read_size(order, fields, spec)
    _read_pictures(order, fields)
    return order


def size_of(resolution: str, ratio: str) -> tuple[int, int]:
    """Return width and height of a resolution in a shape, in even pixels."""
    across, down = (int(part) for part in ratio.split(":"))
    short = RESOLUTIONS[resolution]
    long = round(short * max(across, down) / min(across, down) / 2) * 2
    return (long, short) if across >= down else (short, long)


def _refuse_what_is_not_here(fields: Fields) -> None:
    for name, rule in _NOT_HERE.items():
        if fields.raw(name) not in (None, ""):
            raise InvalidParameter(name, shown(fields.raw(name)), rule, hint="leave it out")
    if fields.boolean("generate_audio"):
        rule = "no model of this server makes sound"
        raise InvalidParameter("generate_audio", True, rule, nearest=False)


def _own_options(fields: Fields) -> Fields:
    """Find what is meant for this server; what is meant for other providers is ignored, as is said of it. Named from the body's root."""
    provider = Fields(fields.mapping("provider"))
    where = "provider"
    try:
        options = Fields(provider.mapping("options"))
        where = "provider.options"
        own = Fields(options.mapping(SLUG))
        where = f"provider.options.{SLUG}"
        own.check_names(PASSTHROUGH)
    except InvalidParameter as error:
        raise InvalidParameter(
            f"{where}.{error.parameter}", error.value, error.rule, hint=error.hint
        ) from None
    return Fields({OWN + name: value for name, value in own.values().items()})


def _metadata(fields: Fields, session: str | None) -> dict[str, Any]:
    """Keep what is said for the client's own observation."""
    given = fields if fields.raw("session_id") else Fields({"session_id": session})
    found = {
        "session_id": given.text("session_id", max_chars=MAX_SESSION_CHARS),
        "trace": fields.mapping("trace"),
    }
    return {name: value for name, value in found.items() if value}


def _read_length(order: Order, fields: Fields) -> None:
    """Without a length it is the model's own."""
    seconds = fields.number("duration")
    order.names["num_frames"] = "duration"
    order.values["num_frames"] = fields.raw("duration")
    if seconds is None:
        return
    if seconds <= 0:
        raise InvalidParameter("duration", seconds, "it must be a number of seconds above 0", nearest=1)
    num_frames = num_frames_for(min(seconds, MAX_COUNTED_SECONDS), order.frames_per_second)
    order.request = dataclasses.replace(order.request, num_frames=num_frames)


def _seconds(num_frames: int, rate: int) -> float:
    """How long so many frames last: whole seconds, as the vendor has them, where there are any."""
    seconds = num_frames / rate
    return math.floor(seconds) if seconds >= 1 else round(seconds, 3)


def _read_size(order: Order, fields: Fields, spec: ModelSpec) -> None:
    """`size` wins over `resolution` and `aspect_ratio`; without any, the model's own."""
    size = (fields.text("size") or "").strip()
    resolution = _one_of(fields, "resolution", RESOLUTIONS)
    ratio = _one_of(fields, "aspect_ratio", RATIOS)
    if size:
        match = _SIZE.fullmatch(size)
        if match is None:
            raise InvalidParameter("size", size, "it must be WIDTHxHEIGHT in pixels, such as 1280x720")
        if resolution or ratio:
            reason = "`size` was given beside `resolution` or `aspect_ratio`"
            order.choices.append(Choice("size", size, reason))
        width, height = int(match[1]), int(match[2])
        order.values |= {"width": size, "height": size}
    elif resolution:
        width, height = _size_of_resolution(order, resolution, ratio)
    elif ratio:
        width, height = _size_of_ratio(order, ratio, spec)
    else:
        return
    order.names |= {"width": "size", "height": "size"}
    order.request = dataclasses.replace(order.request, width=width, height=height)


def _size_of_resolution(order: Order, resolution: str, ratio: str | None) -> tuple[int, int]:
    if ratio is None:
        ratio = DEFAULT_RATIO
        order.choices.append(Choice("aspect_ratio", ratio, "`resolution` was given without a ratio"))
    width, height = size_of(resolution, ratio)
    if max(width, height) > MAX_SIDE:
        rule = f"with {ratio} that is {width}x{height}, and a side has at most {MAX_SIDE} pixels"
        legal = [name for name in RESOLUTIONS if max(size_of(name, ratio)) <= MAX_SIDE]
        raise InvalidParameter("resolution", resolution, rule, nearest=legal[-1])
    return width, height


def _size_of_ratio(order: Order, ratio: str, spec: ModelSpec) -> tuple[int, int]:
    across, down = (int(part) for part in ratio.split(":"))
    size = size_of_shape(across / down, spec)
    order.choices.append(
        Choice("size", str(size), f"made of `aspect_ratio` {ratio} and the model's own sizes")
    )
    return size.width, size.height


def _one_of(fields: Fields, name: str, known: Mapping[str, int] | tuple[str, ...]) -> str | None:
    text = (fields.text(name) or "").strip()
    if not text:
        return None
    for one in known:
        if one.lower() == text.lower():
            return one
    raise InvalidParameter(name, text, f"it must be one of {', '.join(known)}")


def _read_pictures(order: Order, fields: Fields) -> None:
    """First and last frame win over references."""
    frames = _frames(order, fields)
    references = _references(order, fields)
    if frames and references:
        reason = "`frame_images` were given beside them"
        order.choices.append(Choice("input_references", "ignored", reason))
        references = []
    order.sent = Sent(
        image=frames.get("first_frame"),
        last_image=frames.get("last_frame"),
        references=tuple(references),
    )


def _frames(order: Order, fields: Fields) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    ours = {"first_frame": "image", "last_frame": "last_image"}
    for index, entry in enumerate(fields.listing("frame_images", 2)):
        name = f"frame_images[{index}]"
        kind = entry.get("frame_type") if isinstance(entry, dict) else None
        if not isinstance(kind, str) or kind not in ours:
            value = shown(kind) if isinstance(entry, dict) else shown(entry)
            raise InvalidParameter(f"{name}.frame_type", value, f"it must be one of {', '.join(ours)}")
        if kind in found:
            raise InvalidParameter(f"{name}.frame_type", kind, "it must be given once")
        order.names[ours[kind]], found[kind] = _picture(name, entry)
    if "last_frame" in found and "first_frame" not in found:
        rule = "a video that ends with a given frame also needs one that it starts from"
        raise InvalidParameter("frame_images", "a last_frame alone", rule, hint="add a first_frame")
    return found


def _references(order: Order, fields: Fields) -> list[bytes | str]:
    found: list[bytes | str] = []
    order.names["references"] = "input_references"
    for index, entry in enumerate(fields.listing("input_references", 4 * MAX_REFERENCES)):
        name = f"input_references[{index}]"
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind in ("audio_url", "video_url"):
            reason = "models of this server take images as references only"
            order.choices.append(Choice(name, "ignored", reason))
            continue
        order.names[f"references[{len(found)}]"], content = _picture(name, entry)
        found.append(content)
    return found


def _picture(name: str, entry: Any) -> tuple[str, bytes | str]:
    """Return where the client has it, and its bytes or its URL."""
    if not isinstance(entry, dict) or entry.get("type", "image_url") != "image_url":
        raise InvalidParameter(name, shown(entry), "it must be an object of the type image_url")
    value = entry.get("image_url")
    where = f"{name}.image_url"
    if isinstance(value, dict):
        where, value = f"{where}.url", value.get("url")
    if not isinstance(value, str) or not value:
        raise InvalidParameter(where, "missing" if not value else shown(value), "it must be a URL")
    content = picture_of(where, value)
    assert content is not None
    return where, content

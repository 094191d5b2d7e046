"""From the vendor's fields to a request in our words, and errors back into the vendor's words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from vitascope.dialects._http import MAX_INTEGER, Fields, picture_of, shown
from vitascope.domain import schedulers
from vitascope.domain.choice import Choice
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import (
    OUTPUT_FORMATS,
    TEMP_SECONDS,
    GenerationRequest,
    ImprovedSampling,
    Lora,
    OutputFormat,
    Upscale,
    num_frames_for,
)
from vitascope.domain.webhook import Webhook
from vitascope.service import Sent
from vitascope.service.inputs import Content

from .calls import Call
from .reading import Reader
from .shapes import read_shape

FORMAT = "enterprise"
"""Of the webhook that `webhook` asks for."""

NOTES = "enterprise"
"""Under which a job remembers how its client spoke."""

MAX_NAME_CHARS = 255
MAX_COUNTED_SECONDS = 1e6
MAX_LISTED = 5
MAX_LORAS_CHARS = 4096

MAX_SHOWN_CHARS = 2000
"""Of what was sent and is shown again: replies and the database are no place for a picture."""

PARAMETERS = (
    "model_id", "prompt", "negative_prompt", "seed", "width", "height", "num_frames", "num_inference_steps",
    "guidance_scale", "clip_skip", "upscale_height", "upscale_width", "upscale_strength", "upscale_guidance_scale",
    "upscale_num_inference_steps", "use_improved_sampling", "improved_sampling_seed", "fps", "output_type",
    "instant_response", "temp", "base64", "webhook", "track_id", "scheduler", "enhance_prompt", "strength", "init_image",
    "init_video", "loadbalancer", "samples", "min_guidance_scale", "max_guidance_scale", "resolution", "portrait",
    "sample_shift", "shift_sample", "aspect_ratio", "duration", "lora_models", "lora_strength", "vae",
)  # fmt: skip
"""All that is followed."""

WITHOUT_EFFECT = {
    "motion_bucket_id": "models of this server take no amount of motion",
    "noise_aug_strength": "models of this server add no noise to the picture",
    "latent_interpolation_method": "it is of models that this server does not have",
    "to_animate": "it is of models that this server does not have",
    "controlnet": "this server has none",
    "controlnet_images": "this server has none",
    "ip_adapter_id": "this server has none",
    "ip_adapter_image": "this server has none",
    "motion_module": "a model's card names its own",
    "motion_loras": "this server takes `lora_models`",
    "adapter_lora": "this server takes `lora_models`",
    "camera_fixed": "models of this server take no such wish",
    "generate_audio": "no model here makes sound",
    "init_audio": "no model here makes sound",
    "public_figure_threshold": "what may be asked for is the operator's to set",
    "watermark": "which mark videos bear is the operator's to set",
    "safety_checker": "what may be asked for is the operator's to set",
}
"""Documented for one call or another; here the reply's `tip` says that they change nothing."""

WITHOUT_VALUE = frozenset(
    {"ip_adapter_scale", "domain_lora_scale", "motion_lora_strength", "model", "key", "file_prefix"}
)
"""What changes nothing of itself, and is not worth a word."""

PICTURES_PROMPT = "the scene comes to life with gentle, natural movement"
"""Of a picture that comes without one, where the model reads one."""

NAMES = {
    "model": "model_id",
    "image": "init_image",
    "last_image": "init_image",
    "video": "init_video",
    "format": "output_type",
    "num_videos": "samples",
    "flow_shift": "sample_shift",
    "loras": "lora_models",
    "improved_sampling": "use_improved_sampling",
    "improved_sampling.seed": "improved_sampling_seed",
    "upscale": "upscale_height",
    "upscale.height": "upscale_height",
    "upscale.width": "upscale_width",
    "upscale.strength": "upscale_strength",
    "upscale.guidance_scale": "upscale_guidance_scale",
    "upscale.num_inference_steps": "upscale_num_inference_steps",
}
"""Ours, and the vendor's where that is another."""

Resolve = Callable[[str | None, str | None], tuple[ModelSpec, tuple[Choice, ...]]]


@dataclass(slots=True)
class Order:
    """A request in our words, and what is needed to speak of it in the client's."""

    call: Call
    spec: ModelSpec
    request: GenerationRequest
    sent: Sent = field(default_factory=Sent)
    choices: list[Choice] = field(default_factory=list)
    #: Sentences for the client: what had no effect, or another one.
    tips: list[str] = field(default_factory=list)
    #: What `meta` shows that is in no plan.
    echo: dict[str, Any] = field(default_factory=dict)
    #: Whether the client wants no waiting.
    is_instant: bool = False
    #: The client's names of our parameters.
    names: dict[str, str] = field(default_factory=lambda: dict(NAMES))

    def change(self, **values: Any) -> None:
        self.request = dataclasses.replace(self.request, **values)

    def tell(self, name: str, value: str, reason: str) -> None:
        """Note what is made otherwise than it was asked for, where the job keeps it and the client reads it."""
        self.choices.append(Choice(name, value, reason))
        self.tips.append(f"{name}: {value}, as {reason}")

    def noted(self) -> GenerationRequest:
        """Return the request with all that its replies need."""
        notes = {
            "call": self.call.name,
            "prefix": self.call.prefix,
            "meta": list(self.call.meta),
            "is_bare": self.call.is_bare,
            "repeats_links": self.call.repeats_links,
            "tips": self.tips,
            "echo": self.echo,
        }
        return dataclasses.replace(self.request, notes={**self.request.notes, NOTES: notes})

    def in_clients_words(self, error: InvalidParameter) -> InvalidParameter:
        """Say the same of the field that the client sent."""
        name = self.names.get(error.parameter) or self.names.get(error.parameter.partition("[")[0])
        name = name or error.parameter
        value, nearest = error.value, error.nearest
        if name == "duration":  # the client has counted seconds
            value = self.echo["duration"]
            if nearest is not None:
                frames, fps = int(str(nearest)), self.request.fps or self.spec.fps
                nearest = frames // fps or round(frames / fps, 3)
        return InvalidParameter(name, value, error.rule, nearest=nearest, hint=error.hint)


def to_order(fields: Fields, call: Call, resolve: Resolve) -> Order:
    """Read a body.

    Raises:
        InvalidParameter: a field is of the wrong type, below a documented minimum, or makes no sense.
        UnknownModel: there is no such model, and settings want that to be an error.
    """
    asked = fields.text("model_id", max_chars=MAX_NAME_CHARS) or None
    spec, fallen_back = resolve(asked, fields.text("vae", max_chars=MAX_NAME_CHARS) or None)
    order = Order(call, spec, GenerationRequest(prompt=fields.text("prompt") or "", model=spec.id))
    order.choices += fallen_back
    order.tips += [f"{choice.reason}: {choice.value} was used" for choice in fallen_back]
    is_another = any(choice.name == "model" for choice in fallen_back)
    order.echo["model_id"] = spec.id if is_another or asked is None else asked
    reader = Reader(fields, call, order.choices)
    _read_sent(order, reader)
    _read_prompt(order, reader)
    read_shape(order, reader, spec)
    _read_length(order, reader)
    _read_denoising(order, reader)
    _read_upscale(order, reader)
    _read_delivery(order, reader)
    _tell_of_the_rest(order, fields)
    return order


def _read_sent(order: Order, reader: Reader) -> None:
    """A picture or a video by URL, as `data:` URL or as base64; of two pictures the second is the last frame."""
    fields = reader.fields
    pictures = [
        picture_of("init_image", value)
        for value in fields.listing("init_image", 2)
        if value not in ("", "null")
    ]
    video = None if reader.given("init_video") is None else picture_of("init_video", fields.raw("init_video"))
    image: Content | None = pictures[0] if pictures else None
    last = pictures[1] if len(pictures) > 1 else None
    if order.call.needs == "init_image" and image is None:
        raise InvalidParameter("init_image", "missing", "it must be a picture: a URL or base64")
    if order.call.needs == "init_video" and video is None:
        raise InvalidParameter("init_video", "missing", "it must be a video: a URL or base64")
    if video is not None and image is not None:
        order.tell("init_image", "ignored", "`init_video` is given too, from which the video is made")
        image = last = None
    if last is not None and "last_image" not in order.spec.pipelines:
        order.tell("init_image", "the first alone", f"model {order.spec.id} takes no picture to end with")
        last = None
    order.sent = Sent(image=image, last_image=last, video=video)
    order.echo["init_image"] = _url(fields.raw("init_image"))
    order.echo["init_video"] = _url(fields.raw("init_video"))


def _url(value: Any) -> str | None:
    """What is shown again of a picture: where it is, and never the picture itself."""
    return _shown_again(value) if isinstance(value, str) and value[:4].lower() == "http" else None


def _shown_again(value: Any) -> Any:
    """What `meta` shows of a value that nobody has checked: nothing of what is long, or cannot be written."""
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) <= MAX_INTEGER):
        return value
    text = None if value is None else shown(value)
    return text if isinstance(text, str) and len(text) <= MAX_SHOWN_CHARS and text.isprintable() else None


def _read_prompt(order: Order, reader: Reader) -> None:
    prompt, spec = order.request.prompt, order.spec
    if not prompt.strip() and spec.takes_prompt:
        if order.sent.image is None and order.sent.video is None:
            raise InvalidParameter("prompt", prompt or "missing", "it must say what the video shows")
        order.tell("prompt", PICTURES_PROMPT, f"none was given, and model {spec.id} reads one")
        prompt = PICTURES_PROMPT
    enhances = reader.flag("enhance_prompt")
    is_asked = enhances is not None
    order.change(
        prompt=prompt,
        negative_prompt=reader.fields.text("negative_prompt") or "",
        enhance_prompt=enhances if is_asked else order.call.enhances,
    )
    order.echo["enhance_prompt"] = bool(order.request.enhance_prompt)
    order.echo["asked_to_enhance"] = bool(enhances)


def _read_length(order: Order, reader: Reader) -> None:
    fps, seconds = reader.integer("fps"), reader.seconds("duration")
    num_frames = reader.integer("num_frames") if reader.given("num_frames") or seconds is None else None
    if num_frames is not None and seconds is not None:
        order.tell("duration", "no effect", "`num_frames` says how long the video is")
    if num_frames is None and seconds is not None:
        order.names["num_frames"] = "duration"
        num_frames = num_frames_for(min(seconds, MAX_COUNTED_SECONDS), fps or order.spec.fps)
    if order.sent.video is not None and reader.given("num_frames", "duration") is None:
        num_frames = None  # as long as what is changed
    order.change(fps=fps, num_frames=num_frames)
    order.echo["duration"] = int(seconds) if seconds is not None and seconds == int(seconds) else seconds


def _read_denoising(order: Order, reader: Reader) -> None:
    spec, fields = order.spec, reader.fields
    if reader.given("min_guidance_scale") and reader.given("max_guidance_scale"):
        reason = "guidance is one number here, and `max_guidance_scale` is taken for it"
        order.tell("min_guidance_scale", "no effect", reason)
    low, high = reader.number("min_guidance_scale"), reader.number("max_guidance_scale")
    guidance = reader.number("guidance_scale")
    if high is not None and (reader.given("guidance_scale") is None or guidance is None):
        guidance = high
    scheduler = None
    if name := (fields.text("scheduler", max_chars=MAX_NAME_CHARS) or "").strip():
        scheduler, told = schedulers.for_vendor(name, spec)
        if told is not None:
            order.choices.append(Choice("scheduler", scheduler or schedulers.OWN, told))
            order.tips.append(told)
    is_improved, improved_seed = (
        reader.flag("use_improved_sampling"),
        fields.integer("improved_sampling_seed"),
    )
    seed = fields.integer("seed")
    order.change(
        seed=_unless_random(seed),
        num_inference_steps=reader.integer("num_inference_steps"),
        guidance_scale=guidance,
        scheduler=scheduler,
        flow_shift=_shift(reader),
        clip_skip=reader.integer("clip_skip"),
        improved_sampling=ImprovedSampling(seed=_unless_random(improved_seed)) if is_improved else None,
        loras=_loras(reader),
    )
    order.echo |= {
        "min_guidance_scale": low,
        "max_guidance_scale": high,
        "scheduler": fields.text("scheduler"),
        "improved_sampling_seed": 42 if improved_seed is None else improved_seed,
        "lora_models": fields.text("lora_models", max_chars=MAX_LORAS_CHARS),
    }
    _read_strength(order, reader)


def _read_strength(order: Order, reader: Reader) -> None:
    strength = reader.number("strength")
    order.echo["strength"] = strength
    if order.sent.video is None and order.sent.image is None:
        if reader.given("strength"):
            reason = "it says how much of an init image or video is changed, and none was sent"
            order.tell("strength", "no effect", reason)
    elif order.sent.video is None and "video" not in order.spec.pipelines:
        if reader.given("strength"):
            reason = f"model {order.spec.id} starts from the picture itself and cannot change it"
            order.tell("strength", "no effect", reason)
    elif order.sent.last_image is None and (order.sent.video is not None or reader.given("strength")):
        order.change(strength=strength)


def _unless_random(seed: int | None) -> int | None:
    """Take -1 for a wish that one be drawn, as many programs have it."""
    return None if seed == -1 else seed


def _shift(reader: Reader) -> float | None:
    """The vendor's own examples misspell it."""
    if reader.given("sample_shift") is None and (value := reader.fields.number("shift_sample")) is not None:
        reader = reader.with_value("sample_shift", value)
    return reader.number("sample_shift")


def _loras(reader: Reader) -> tuple[Lora, ...]:
    """Names with commas between them, and as many strengths, as the vendor's pages have it."""
    names = [name.strip() for name in (reader.fields.text("lora_models") or "").split(",") if name.strip()]
    strengths = str(reader.fields.raw("lora_strength") or "").split(",")
    found = []
    for index, name in enumerate(names):
        said = strengths[min(index, len(strengths) - 1)]
        scale = Fields({"lora_strength": said}).number("lora_strength")
        found.append(Lora(name) if scale is None else Lora(name, scale))
    return tuple(found)


def _read_upscale(order: Order, reader: Reader) -> None:
    """A second pass is made where a size for it is given; the rest says how."""
    is_wanted = reader.given("upscale_height") or reader.given("upscale_width")
    height, width = (reader.side(name) for name in ("upscale_height", "upscale_width"))
    strength = reader.number("upscale_strength")
    guidance, steps = reader.number("upscale_guidance_scale"), reader.integer("upscale_num_inference_steps")
    if is_wanted:
        order.change(upscale=Upscale(height=height, width=width, strength=strength, guidance_scale=guidance,
                                     num_inference_steps=steps))  # fmt: skip
    order.echo |= {
        "upscale_strength": strength,
        "upscale_guidance_scale": guidance,
        "upscale_num_inference_steps": steps,
    }


def _read_delivery(order: Order, reader: Reader) -> None:
    """How the file is kept and handed over, and where its end is told."""
    fields, call = reader.fields, order.call
    is_temp = reader.flag("temp")
    is_temp = call.is_temp if is_temp is None else is_temp
    url = (fields.text("webhook") or "").strip()
    kind = reader.word("output_type", OUTPUT_FORMATS) or call.format
    order.is_instant = bool(reader.flag("instant_response"))
    samples = reader.integer("samples")
    order.change(
        format=cast(OutputFormat, kind),
        num_videos=1 if samples is None else samples,
        expires_in_seconds=TEMP_SECONDS if is_temp else None,
        webhook=Webhook(url, FORMAT) if url and url != "null" else None,
        track_id=_track_id(fields),
        may_hand_over=bool(reader.flag("loadbalancer")),
    )
    order.echo |= {
        "temp": is_temp,
        "instant_response": order.is_instant,
        "base64": bool(reader.flag("base64")) and not call.takes_base64,
        "webhook": url if url and url != "null" else None,
        "portrait": bool(reader.flag("portrait")),
        "resolution": _shown_again(fields.raw("resolution")),
        "aspect_ratio": fields.text("aspect_ratio", max_chars=MAX_NAME_CHARS),
    }


def _track_id(fields: Fields) -> str | int | None:
    value = fields.raw("track_id")
    if isinstance(value, int) and not isinstance(value, bool):
        return fields.integer("track_id")
    return fields.text("track_id", max_chars=MAX_NAME_CHARS) or None


def _tell_of_the_rest(order: Order, fields: Fields) -> None:
    """Say what of a body changed nothing: the vendor ignores it, and a misspelt name should be noticed."""
    for name, reason in WITHOUT_EFFECT.items():
        if fields.raw(name) not in (None, "", False, "no", "false", "null"):
            order.tell(name, "no effect", reason)
            order.echo[name] = _shown_again(fields.raw(name))
    known = {*PARAMETERS, *WITHOUT_EFFECT, *WITHOUT_VALUE}
    unknown = [name[:40] for name in fields.values() if name not in known]
    unknown = [name if name.isprintable() else ascii(name) for name in unknown]
    if unknown:
        names = ", ".join(unknown[:MAX_LISTED]) + (", …" if len(unknown) > MAX_LISTED else "")
        order.tell(names, "ignored", "there is no such parameter")

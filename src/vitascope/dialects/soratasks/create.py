"""Create calls: from the vendor's fields to a request in our words, and errors back into the vendor's words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vitascope.dialects._http import Fields, picture_of, shown
from vitascope.domain.choice import Choice
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.marks import MarkRules
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import GenerationRequest, Shot, Watermark, num_frames_for
from vitascope.domain.windows import MAX_SHOTS, scaled_lengths
from vitascope.service import Sent

from .names import MODELS, OLDER_MODELS, Kind, kind_of, preset

PARAMETERS = (
    "model", "prompt", "imageData", "imageUrl", "aspectRatio", "nFrames", "size", "removeWatermark", "isPublic",
    "shots",
)  # fmt: skip

OLDER_PARAMETERS = (
    "model", "prompt", "imageData", "imageUrl", "url", "aspectRatio", "duration", "removeWatermark", "isPublic",
    "remixTargetId", "characters",
)  # fmt: skip

#: Width and height, lying.
SIZES: Mapping[str, tuple[int, int]] = {"standard": (1280, 720), "high": (1792, 1024)}

#: Whether it stands.
SHAPES: Mapping[str, bool] = {"landscape": False, "portrait": True, "16:9": False, "9:16": True}

DEFAULT_SECONDS = 10

MARK = "Vitascope"
"""What is drawn where a watermark is wanted and the operator has none of its own."""

MAX_NAME_CHARS = 255

_NOT_HERE = {
    "remixTargetId": "this server makes no remixes by this call",
    "characters": "this server knows no characters by this call",
}

Resolve = Callable[[str | None], tuple[ModelSpec, tuple[Choice, ...]]]


@dataclass(frozen=True, slots=True)
class Reader:
    """What is to be known of the server to read a body."""

    #: Finds a model by any name.
    resolve: Resolve
    #: What the operator wants of all files.
    marks: MarkRules


@dataclass(slots=True)
class Order:
    """A request in our words, and what is needed to speak of it in the client's."""

    request: GenerationRequest
    kind: Kind
    spec: ModelSpec
    choices: list[Choice]
    sent: Sent = field(default_factory=Sent)
    #: The client's names of our parameters.
    names: dict[str, str] = field(default_factory=dict)
    #: What the client has said of a parameter of ours, where that is something else.
    values: dict[str, Any] = field(default_factory=dict)

    def change(self, **values: Any) -> None:
        """Set something of the request."""
        self.request = dataclasses.replace(self.request, **values)

    def tell(self, name: str, value: str, reason: str) -> None:
        """Note what was decided without being asked for."""
        self.choices.append(Choice(name, value, reason))

    def in_clients_words(self, error: InvalidParameter) -> InvalidParameter:
        """Say the same of the field that the client sent."""
        ours = error.parameter
        if ours not in self.names:
            return error
        value, nearest, hint = self.values.get(ours, error.value), error.nearest, error.hint
        if ours.endswith("num_frames"):  # it is counted in something else than the field
            nearest = None
            hint = (
                hint
                or f"model `{self.spec.id}` cannot make this length: the server needs another model for it"
            )
        elif ours in ("width", "height"):
            nearest = None
        return InvalidParameter(self.names[ours], value, error.rule, nearest=nearest, hint=hint)


def read_pro(fields: Fields, reader: Reader) -> Order:
    """Translate a body of `sora-pro`.

    Raises:
        InvalidParameter: a field is missing, or of the wrong type or form; named as the client named it.
        UnknownModel: `reader` knows no model in the place of the one that was named.
    """
    fields.check_names(PARAMETERS)
    order = _begun(fields, reader, MODELS)
    if order.kind.start == "shots":
        _read_storyboard(order, fields)
    else:
        _read_prompt(order, fields)
        _read_length(order, fields, "nFrames", DEFAULT_SECONDS)
        if fields.raw("shots"):
            order.tell("shots", "ignored", "only sora-2-pro-storyboard takes them")
    _read_picture(order, fields, ("imageData", "imageUrl"))
    _read_size(order, fields, "landscape")
    _read_watermark(order, fields, reader.marks)
    return order


def read_older(fields: Fields, reader: Reader) -> Order:
    """Translate a body of `sora-video`; raises the same."""
    fields.check_names(OLDER_PARAMETERS)
    for name, rule in _NOT_HERE.items():
        if fields.raw(name) not in (None, "", []):
            raise InvalidParameter(name, "given", rule, hint="leave it out")
    order = _begun(fields, reader, OLDER_MODELS)
    _read_prompt(order, fields)
    _read_length(order, fields, "duration", DEFAULT_SECONDS)
    _read_picture(order, fields, ("imageData", "imageUrl", "url"))
    _read_size(order, fields, "9:16")
    _read_watermark(order, fields, reader.marks)
    return order


def _begun(fields: Fields, reader: Reader, known: Mapping[str, Kind]) -> Order:
    name = (fields.text("model", max_chars=MAX_NAME_CHARS) or "").strip()
    kind = kind_of(name, known)
    spec, choices = reader.resolve(name)
    steps, told = preset(kind, spec)
    is_public = fields.boolean("isPublic")
    request = GenerationRequest(
        prompt="",
        model=spec.id,
        num_inference_steps=steps,
        speed=kind.speed,
        is_public=True if is_public is None else is_public,
    )
    return Order(request, kind, spec, [*choices, *told])


def _read_prompt(order: Order, fields: Fields) -> None:
    prompt = fields.text("prompt") or ""
    if not prompt.strip():
        raise InvalidParameter("prompt", "missing", "it must say what the video shows")
    order.change(prompt=prompt)


# length


def _read_length(order: Order, fields: Fields, name: str, default: float) -> int:
    """Set the whole length, in the seconds that the model's name allows; returns its frames."""
    asked, lengths = fields.number(name), order.kind.lengths
    wanted = default if asked is None else asked
    seconds = min(lengths, key=lambda length: (abs(length - wanted), length))
    if asked is not None and seconds != asked:
        legal = ", ".join(str(length) for length in lengths)
        order.tell(name, str(seconds), f"{asked:g} was asked for, and this model has {legal}")
    num_frames = num_frames_for(seconds, order.spec.fps)
    order.names["num_frames"] = name
    order.values["num_frames"] = str(seconds)
    order.change(num_frames=num_frames)
    return num_frames


def _read_storyboard(order: Order, fields: Fields) -> None:
    """Read shots, whose lengths are brought to the whole one. What `prompt` says is for the client's eyes only."""
    told = [_shot(index, entry) for index, entry in enumerate(fields.listing("shots", MAX_SHOTS))]
    if not told:
        raise InvalidParameter("shots", "missing", "a storyboard needs at least one {Scene, duration}")
    whole = sum(seconds for _, seconds in told)
    num_frames = _read_length(order, fields, "nFrames", whole)
    counts = scaled_lengths([seconds for _, seconds in told], num_frames)
    shots = []
    for index, ((scene, seconds), count) in enumerate(zip(told, counts, strict=True)):
        name = f"shots[{index}]"
        order.names |= {f"{name}.prompt": f"{name}.Scene", f"{name}.num_frames": f"{name}.duration"}
        order.values[f"{name}.num_frames"] = f"{seconds:g}"
        shots.append(Shot(scene, count, "continue"))
    if num_frames_for(whole, order.spec.fps) != num_frames:
        lengths = " + ".join(f"{shot.num_frames / order.spec.fps:.3g}" for shot in shots if shot.num_frames)
        order.tell("shots", lengths, f"seconds: their {whole:g} are scaled to the whole length")
    if fields.text("prompt"):
        order.tell("prompt", "ignored", "a storyboard shows what its shots say")
    order.change(shots=tuple(shots))


def _shot(index: int, entry: Any) -> tuple[str, float]:
    """Return what a shot shows, and its seconds."""
    name = f"shots[{index}]"
    if not isinstance(entry, dict):
        raise InvalidParameter(name, shown(entry), "it must be an object with `Scene` and `duration`")
    shot = Fields(entry)
    try:
        shot.check_names(("Scene", "duration"))
        scene, seconds = shot.text("Scene") or "", shot.number("duration")
    except InvalidParameter as error:
        raise InvalidParameter(
            f"{name}.{error.parameter}", error.value, error.rule, hint=error.hint
        ) from None
    if not scene.strip():
        raise InvalidParameter(f"{name}.Scene", "missing", "it must say what the shot shows")
    if seconds is None or seconds <= 0:
        value = "missing" if seconds is None else shown(entry["duration"])
        raise InvalidParameter(f"{name}.duration", value, "it must be a number of seconds above 0")
    return scene, seconds


# picture


def _read_picture(order: Order, fields: Fields, names: tuple[str, ...]) -> None:
    """Read the first of these fields that is given, where the model's name takes a picture."""
    start = order.kind.start
    given = next((name for name in names if not _is_nothing(fields.raw(name))), None)
    if given is None:
        if start == "image":
            hint = "send one, or choose a text-to-video model"
            raise InvalidParameter("imageData", "missing", "this model needs it, or `imageUrl`", hint=hint)
        return
    if start in ("text", "shots"):
        order.tell(given, "ignored", "the model's name asks for a video from text")
        return
    order.names["image"] = given
    order.sent = Sent(image=_picture(given, fields.raw(given)))


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _picture(name: str, value: Any) -> bytes | str:
    if not isinstance(value, str):
        raise InvalidParameter(name, shown(value), "it must be text")
    value = value.strip()
    is_url = value[:8].lower().startswith(("http://", "https://"))
    if name == "imageData":
        if value[:5].lower() != "data:":
            hint = "send a URL as `imageUrl`" if is_url else None
            rule = "it must be a data URL in base64, such as data:image/png;base64,…"
            raise InvalidParameter(name, value, rule, hint=hint)
        if value[:11].lower() != "data:image/":
            raise InvalidParameter(name, value, "it must be the data URL of an image")
    elif not is_url:
        hint = "send a data URL as `imageData`" if value[:5].lower() == "data:" else None
        raise InvalidParameter(name, value, "it must be an http or https URL", hint=hint)
    try:
        content = picture_of(name, value)
    except InvalidParameter as error:
        rule = "its base64 is broken, cut short or missing: it must be a whole data URL, such as data:image/png;base64,…"
        raise InvalidParameter(name, error.value, rule) from None
    assert content is not None
    return content


# size and marks


def _read_size(order: Order, fields: Fields, default_shape: str) -> None:
    shape = _one_of(fields, "aspectRatio", SHAPES) or default_shape
    size = "standard"
    if order.kind.has_sizes:
        size = _one_of(fields, "size", SIZES) or size
    elif fields.raw("size") not in (None, "", size):  # whatever it is, it was not looked at
        order.tell("size", size, "pro models alone have others")
    width, height = SIZES[size]
    if SHAPES[shape]:
        width, height = height, width
    order.names |= {"width": "size", "height": "size"}
    order.values |= {"width": size, "height": size}
    order.change(width=width, height=height)


def _one_of(fields: Fields, name: str, known: Mapping[str, Any]) -> str | None:
    text = (fields.text(name) or "").strip().lower()
    if not text or text in known:
        return text or None
    raise InvalidParameter(name, text, f"it must be one of {', '.join(known)}")


def _read_watermark(order: Order, fields: Fields, marks: MarkRules) -> None:
    """By default there is none, but where the operator wants its own on everything."""
    removes = fields.boolean("removeWatermark")
    order.names |= {"watermark": "removeWatermark", "watermark.text": "removeWatermark"}
    if removes is False:
        if marks.watermark is None:
            order.tell("watermark", MARK, "`removeWatermark` is false")
            order.change(watermark=Watermark(text=MARK))
    elif marks.watermark is not None and not marks.is_watermark_fixed:
        order.change(watermark=Watermark())

"""POST /v1/videos: from the vendor's fields to a request in our words, and errors back into the vendor's words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from vitascope.dialects._http import picture_of
from vitascope.domain.choice import Choice
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import GenerationRequest, OutputFormat, num_frames_for
from vitascope.domain.sizes import nearest_side
from vitascope.service import FileId

from .file_ids import named_file

DEFAULT_SECONDS = 4.0
"""What the vendor's documentation says."""

MAX_COUNTED_SECONDS = 1e6
"""Longer than anything that can be made, and short enough to count in frames without overflow."""

MAX_NAME_CHARS = 255

_SIZE = re.compile(r"\s*(\d{1,6})\s*[xX*]\s*(\d{1,6})\s*", re.ASCII)

Resolve = Callable[[str | None], tuple[ModelSpec, tuple[Choice, ...]]]


class FieldReader(Protocol):
    """What is needed of the decoded body; every getter raises InvalidParameter."""

    def raw(self, name: str) -> Any: ...
    def first(self, *names: str) -> str: ...
    def text(self, name: str, *, max_chars: int | None = None) -> str | None: ...
    def integer(self, name: str) -> int | None: ...
    def number(self, name: str) -> float | None: ...
    def mapping(self, name: str) -> dict[str, Any]: ...


@dataclass(slots=True)
class Order:
    """A request in our words, and what is needed to speak of it in the client's."""

    request: GenerationRequest
    #: Bytes, URL or uploaded file of the picture that the video shall start from.
    image: bytes | str | FileId | None = None
    #: What was decided without the client's asking.
    choices: list[Choice] = field(default_factory=list)
    #: The client's name of our parameter, where it is another.
    names: dict[str, str] = field(default_factory=dict)
    #: The client's value of a parameter that is made of several of ours, or counted otherwise.
    values: dict[str, Any] = field(default_factory=dict)
    is_length_given: bool = True
    frames_per_second: int = 1

    def in_clients_words(self, error: InvalidParameter) -> InvalidParameter:
        """Say the same of the field that the client sent."""
        name = self.names.get(error.parameter, error.parameter)
        value, rule, nearest = error.value, error.rule, error.nearest
        if name == "size":
            value = self.values["size"]
            rule = rule.replace("it must", f"its {error.parameter} must", 1)
            nearest = None if nearest is None else self._size_with(error.parameter, nearest)
        elif name in ("seconds", "duration"):
            value = self.values[name]
            nearest = None if nearest is None else _seconds(int(str(nearest)), self.frames_per_second)
        return InvalidParameter(name, value, rule, nearest=nearest, hint=error.hint)

    def _size_with(self, side: str, pixels: object) -> str:
        sides = {"width": self.request.width, "height": self.request.height, side: pixels}
        width, height = (nearest_side(float(str(sides[name]))) for name in ("width", "height"))
        return f"{width}x{height}"

    def shortened(self, error: InvalidParameter) -> Order | None:
        """Where no length was asked for and the default one is too long: the order for the nearest legal one."""
        if error.parameter != "num_frames" or self.is_length_given or error.nearest is None:
            return None
        num_frames = int(str(error.nearest))
        seconds = _seconds(num_frames, self.frames_per_second)
        choice = Choice("seconds", str(seconds), f"none were asked for, and {error.rule}")
        request = dataclasses.replace(self.request, num_frames=num_frames)
        return dataclasses.replace(
            self, request=request, choices=[*self.choices, choice], is_length_given=True
        )


def to_order(fields: FieldReader, resolve: Resolve) -> Order:
    """Translate a decoded body.

    Raises:
        InvalidParameter: a field is of the wrong type or form; named as the client named it.
        UnknownModel: there is no such model, and `resolve` knows none in its place.
    """
    prompt = fields.text("prompt")
    if prompt is None:
        raise InvalidParameter("prompt", "missing", "it must say what the video shows")
    if fields.integer("n") not in (None, 1):
        raise InvalidParameter("n", fields.raw("n"), "one request makes one video", nearest=1)
    steps, image_format = fields.first("num_inference_steps", "steps"), fields.text("output_format") or "mp4"
    order = Order(
        GenerationRequest(
            prompt=prompt,
            model=fields.text("model", max_chars=MAX_NAME_CHARS) or "",
            negative_prompt=fields.text("negative_prompt") or "",
            fps=fields.integer("fps"),
            num_frames=fields.integer("num_frames"),
            num_inference_steps=fields.integer(steps),
            guidance_scale=fields.number("guidance_scale"),
            scheduler=fields.text("scheduler", max_chars=MAX_NAME_CHARS) or None,
            strength=fields.number("strength"),
            seed=fields.integer("seed"),
            # an illegal name is refused by the plan, with the legal ones
            format=cast(OutputFormat, image_format.strip().lower()),
            metadata=fields.mapping("metadata"),
            user=fields.text("user", max_chars=MAX_NAME_CHARS),
        ),
        names={"num_inference_steps": steps, "format": "output_format"},
    )
    spec = _choose_model(order, resolve)
    _read_length(order, fields, spec)
    _read_size(order, fields)
    _read_image(order, fields)
    return order


def _choose_model(order: Order, resolve: Resolve) -> ModelSpec:
    name = order.request.model
    spec, choices = resolve(name or None)
    order.choices.extend(choices)
    if choices or not name:
        order.request = dataclasses.replace(order.request, model=spec.id)
    return spec


def _read_length(order: Order, fields: FieldReader, spec: ModelSpec) -> None:
    """`num_frames` wins over `seconds`, which wins over `duration`; without any, the documented default."""
    rate = order.frames_per_second = max(1, order.request.fps or spec.fps)
    name = fields.first("seconds", "duration")
    seconds = fields.number(name)
    if order.request.num_frames is not None:
        if (
            seconds is not None
            and num_frames_for(min(seconds, MAX_COUNTED_SECONDS), rate) != order.request.num_frames
        ):
            order.choices.append(
                Choice("num_frames", str(order.request.num_frames), f"`num_frames` was given beside `{name}`")
            )
        return
    order.is_length_given = seconds is not None
    order.names["num_frames"] = name
    order.values[name] = fields.raw(name)
    if seconds is None:
        seconds = DEFAULT_SECONDS
    if seconds <= 0:
        rule = "it must be a number of seconds above 0"
        raise InvalidParameter(name, order.values[name], rule, nearest=_seconds(1, rate))
    num_frames = num_frames_for(min(seconds, MAX_COUNTED_SECONDS), rate)
    order.request = dataclasses.replace(order.request, num_frames=num_frames)


def _seconds(num_frames: int, rate: int) -> float:
    """How long so many frames last; 4 rather than 4.0, as messages show it."""
    seconds = round(num_frames / rate, 3)
    return int(seconds) if seconds.is_integer() else seconds


def _read_size(order: Order, fields: FieldReader) -> None:
    """`size` wins over `width` and `height`; without any, the model's own size."""
    width, height = fields.integer("width"), fields.integer("height")
    size = (fields.text("size") or "").strip()
    if size and size != "auto":
        match = _SIZE.fullmatch(size)
        if match is None:
            raise InvalidParameter("size", size, "it must be WIDTHxHEIGHT in pixels, such as 1280x720")
        asked = int(match[1]), int(match[2])
        if (width or asked[0], height or asked[1]) != asked:
            order.choices.append(Choice("size", size, "`size` was given beside `width` and `height`"))
        width, height = asked
        order.names.update(width="size", height="size")
        order.values["size"] = size
    order.request = dataclasses.replace(order.request, width=width, height=height)


def _read_image(order: Order, fields: FieldReader) -> None:
    name = fields.first("input_reference", "image")
    value = fields.raw(name)
    if value is None or value == "":
        return
    if name == "input_reference" and fields.raw("image") not in (None, ""):
        raise InvalidParameter("image", "given", "it must not be given beside `input_reference`")
    if isinstance(value, dict):
        name, value = _referenced(name, value)
    order.names["image"] = name
    order.image = value if isinstance(value, FileId) else picture_of(name, value)


def _referenced(name: str, value: dict[str, Any]) -> tuple[str, object]:
    file_id = value.get("file_id")
    if file_id:
        if value.get("image_url"):
            raise InvalidParameter(
                f"{name}[image_url]", "given", f"it must not be given beside `{name}[file_id]`"
            )
        return f"{name}[file_id]", named_file(file_id, f"{name}[file_id]")
    if not value.get("image_url"):
        raise InvalidParameter(f"{name}[image_url]", "missing", "it must be a URL")
    return f"{name}[image_url]", value["image_url"]

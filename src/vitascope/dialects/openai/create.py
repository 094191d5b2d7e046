"""Making a video: from the clients' fields to a request in our words, and errors back into theirs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from vitascope.dialects._http import Fields
from vitascope.domain.access import Caller
from vitascope.domain.choice import Choice
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import MAX_PROMPT_CHARS
from vitascope.domain.request import MAX_NUM_VIDEOS, MAX_SEED, GenerationRequest, OutputFormat
from vitascope.domain.sizes import nearest_side
from vitascope.service import Draft, Sent, Service

from . import shapes, superset
from .adapters import read_loras
from .parameters import MAX_STYLE_CHARS, QUALITY_LEVELS
from .pictures import read_pictures

EXPIRE_SECONDS = 24 * 3600
"""How long a video is kept that was asked for here, where neither its request nor the setting `storage.expire_seconds` says."""

MAX_NAME_CHARS = 255

NOTES = "openai"
"""Under this name a request remembers how its client spoke."""

Resolve = Callable[[str | None], tuple[ModelSpec, tuple[Choice, ...]]]


@dataclass(slots=True)
class Order:
    """A request in our words, and what is needed to speak of it in the client's."""

    request: GenerationRequest
    #: Pictures and videos that came with it, or their URLs.
    sent: Sent = field(default_factory=Sent)
    #: What was decided without the client's asking.
    choices: list[Choice] = field(default_factory=list)
    #: The client's name of our parameter, where it is another.
    names: dict[str, str] = field(default_factory=dict)
    #: The client's value of a parameter that is made of several of ours, or counted otherwise.
    values: dict[str, Any] = field(default_factory=dict)
    #: How the client spoke; given back in the reply.
    notes: dict[str, Any] = field(default_factory=dict)
    #: Parameters that a video from which another is made has said, and not the client.
    inherited: frozenset[str] = frozenset()
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
            nearest = (
                None if nearest is None else shapes.seconds_of(int(str(nearest)), self.frames_per_second)
            )
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
        seconds = shapes.seconds_of(num_frames, self.frames_per_second)
        choice = Choice("seconds", str(seconds), f"none were asked for, and {error.rule}")
        request = dataclasses.replace(self.request, num_frames=num_frames)
        return dataclasses.replace(
            self, request=request, choices=[*self.choices, choice], is_length_given=True
        )

    def change(self, **values: Any) -> None:
        """Set fields of the request."""
        self.request = dataclasses.replace(self.request, **values)

    def tell(self, name: str, value: object, reason: str) -> None:
        """Keep what was decided, and why."""
        self.choices.append(Choice(name, str(value), reason))


def to_order(fields: Fields, resolve: Resolve) -> Order:
    """Translate a decoded body.

    Raises:
        InvalidParameter: a field is of the wrong type or form, or looks misspelt; named as the client named it.
        UnknownModel: there is no such model, and `resolve` knows none in its place.
    """
    fields, choices = superset.unfolded(fields)
    unknown = superset.unknown(fields)
    prompt = fields.text("prompt")
    if prompt is None:
        raise InvalidParameter("prompt", "missing", "it must say what the video shows")
    given = fields.mapping("metadata")
    metadata, more_choices = superset.kept(given, unknown)
    steps = fields.first("num_inference_steps", "steps")
    image_format = fields.text("output_format") or "mp4"
    num_steps, other_steps = fields.integer(steps), fields.integer("steps")
    order = Order(
        GenerationRequest(
            prompt=prompt,
            model=fields.text("model", max_chars=MAX_NAME_CHARS) or "",
            fps=fields.integer("fps"),
            num_frames=fields.integer("num_frames"),
            num_inference_steps=num_steps,
            guidance_scale=fields.number("guidance_scale"),
            scheduler=fields.text("scheduler", max_chars=MAX_NAME_CHARS) or None,
            flow_shift=fields.number("flow_shift"),
            strength=fields.number("strength"),
            enhance_prompt=fields.boolean("enhance_prompt"),
            # an illegal name is refused by the plan, with the legal ones
            format=cast(OutputFormat, image_format.strip().lower()),
            expires_in_seconds=fields.integer("expires_in_seconds"),
            metadata=metadata,
            user=fields.text("user", max_chars=MAX_NAME_CHARS) or None,
        ),
        choices=[*choices, *more_choices, *superset.told(fields)],
        names={"num_inference_steps": steps, "format": "output_format"},
    )
    if other_steps not in (None, num_steps):
        order.tell(steps, num_steps, f"`steps` is {other_steps}, and `{steps}` wins over it")
    spec = _choose_model(order, resolve)
    words = _Words(fields, Fields(given))
    _read_prompts(order, words)
    _read_quality(order, words, spec)
    _read_number(order, fields)
    _read_seed(order, fields)
    _read_response_format(order, fields)
    read_loras(order, fields)
    order.sent = read_pictures(order, fields, spec)
    shapes.read_length(order, fields, spec)
    shapes.read_size(order, fields, spec)
    if order.notes:
        order.change(notes={NOTES: order.notes})
    return order


def prepare(service: Service, order: Order, caller: Caller) -> Draft:
    """Plan an order; without an asked length for as long as its model can. Raises what the service's function raises."""
    if order.request.expires_in_seconds is None and service.drafts.rules.expire_seconds is None:
        order.change(expires_in_seconds=EXPIRE_SECONDS)
    try:
        return service.drafts.prepare(order.request, caller, order.sent, order.choices)
    except InvalidParameter as error:
        shorter = order.shortened(error)
        if shorter is None:
            raise
        return service.drafts.prepare(shorter.request, caller, shorter.sent, shorter.choices)


@dataclass(frozen=True, slots=True)
class _Words:
    """Texts that stand beside the others or in the metadata, where the first wins."""

    fields: Fields
    metadata: Fields

    def read(self, order: Order, name: str, max_chars: int = MAX_PROMPT_CHARS) -> tuple[str, str]:
        """Return the client's name of it and the text, which may be empty."""
        text = (self.fields.text(name) or "").strip()
        inner = f"metadata[{name}]"
        try:
            in_metadata = (self.metadata.text(name) or "").strip()
        except InvalidParameter as error:
            raise InvalidParameter(inner, error.value, error.rule) from None
        if text and in_metadata and text != in_metadata:
            order.tell(name, "the field", f"`{inner}` says something else, and the field beside it wins")
        name, text = (name, text) if text else (inner, in_metadata)
        if len(text) > max_chars:
            rule = f"it must have at most {max_chars} characters"
            raise InvalidParameter(name, f"{len(text)} characters long", rule)
        return name, text


def _choose_model(order: Order, resolve: Resolve) -> ModelSpec:
    name = order.request.model
    spec, choices = resolve(name or None)
    order.choices.extend(choices)
    if choices or not name:
        order.change(model=spec.id)
    return spec


def _read_prompts(order: Order, words: _Words) -> None:
    """A style stands after the prompt; the reply shows the prompt as it was sent."""
    order.names["negative_prompt"], negative = words.read(order, "negative_prompt")
    order.change(negative_prompt=negative)
    name, style = words.read(order, "style", MAX_STYLE_CHARS)
    prompt = order.request.prompt.strip()
    if not style or not prompt or len(prompt) > MAX_PROMPT_CHARS:
        return
    whole = f"{prompt.rstrip(' .,;')}, {style}"
    if len(whole) > MAX_PROMPT_CHARS:
        rule = f"the prompt and it must have at most {MAX_PROMPT_CHARS} characters together"
        raise InvalidParameter(name, style, rule)
    order.notes["prompt"] = order.request.prompt
    order.change(prompt=whole)
    order.tell("prompt", f"…, {style}", f"`{name}` extends it")


def _read_quality(order: Order, words: _Words, spec: ModelSpec) -> None:
    name, level = words.read(order, "quality_level")
    if not level:
        return
    share = QUALITY_LEVELS.get(level.lower())
    if share is None:
        rule = f"it must be one of {', '.join(QUALITY_LEVELS)}"
        raise InvalidParameter(name, level, rule, nearest="standard")
    steps = spec.num_inference_steps
    if order.request.num_inference_steps is not None:
        asked = order.names["num_inference_steps"]
        order.tell("num_inference_steps", order.request.num_inference_steps, f"`{asked}` wins over `{name}`")
        return
    count = int(min(max(round(steps.default * share), steps.minimum), steps.maximum))
    order.names["num_inference_steps"] = name
    order.change(num_inference_steps=count)
    order.tell(
        "num_inference_steps",
        count,
        f"`{name}` {level.lower()} is {share:g} of the model's {steps.default:g}",
    )


def _read_number(order: Order, fields: Fields) -> None:
    name = fields.first("n", "num_outputs_per_prompt")
    number, other = fields.integer(name), fields.integer("num_outputs_per_prompt")
    order.names["num_videos"] = name
    order.change(num_videos=1 if number is None else number)
    if number is not None and other not in (None, number):
        order.tell("n", number, f"`num_outputs_per_prompt` is {other}, and `n` wins over it")


def _read_seed(order: Order, fields: Fields) -> None:
    """A list holds the seed of each video; they are made with seeds that count up by one."""
    value = fields.raw("seed")
    if not isinstance(value, list):
        order.change(seed=fields.integer("seed"))
        return
    seeds = [Fields({"seed": seed}).integer("seed") for seed in value[:MAX_NUM_VIDEOS]]
    wanted = order.request.num_videos
    first = seeds[0] if seeds else None
    if (
        first is None
        or len(value) != wanted
        or seeds != [(first + i) % (MAX_SEED + 1) for i in range(wanted)]
    ):
        rule = f"a list must hold {wanted} whole numbers, each one more than the one before"
        raise InvalidParameter("seed", "a list", rule, hint="send the first one alone")
    order.change(seed=first)


def _read_response_format(order: Order, fields: Fields) -> None:
    asked = (fields.text("response_format") or "").strip().lower()
    if asked not in ("", "url", "b64_json"):
        raise InvalidParameter("response_format", asked, "it must be url or b64_json", nearest="url")
    if asked:
        order.notes["response_format"] = asked

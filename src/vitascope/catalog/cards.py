"""Cards: TOML in, `ModelSpec` out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from vitascope.domain import schedulers
from vitascope.domain.errors import InvalidParameter, SettingsError
from vitascope.domain.lora_names import ADAPTED
from vitascope.domain.loras import LORA_SCALES
from vitascope.domain.model_spec import (
    MODES,
    Bounds,
    CardLora,
    FrameRule,
    ModelSpec,
    SchedulerFamily,
    Size,
    UpscaleRule,
)
from vitascope.domain.plan import FLOW_SHIFTS
from vitascope.domain.price import MAX_PRICE, Price, StepClass, price_of_class

_SIZE = re.compile(r"(\d+)x(\d+)")
MODEL_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""Of a card. It is a part of paths of the API, and at most a hub's OWNER/NAME."""

_LORA_SOURCE = re.compile(r"file:.+\.safetensors|hub:[\w.-]+/[\w.-]+/.+\.safetensors")

_KEYS = {
    "id", "title", "description", "source", "revision", "license", "pipeline", "modes", "size", "frames", "fps",
    "steps", "guidance", "schedulers", "call", "dtype", "aliases", "family", "scheduler_family", "strength", "overlap",
    "clip_layers", "prompt", "negative_prompt", "memory", "price", "components", "loras", "quantization",
    "upscale", "scheduler", "flow_shift",
}  # fmt: skip


DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("auto", "none", "int8", "fp8")


@cache
def pipeline_defaults() -> dict[str, dict[str, Any]]:
    """What `pipelines.toml` says, by diffusers pipeline class."""
    classes = tomllib.loads(resources.files(__package__).joinpath("pipelines.toml").read_text("utf-8"))

    def whole(name: str) -> dict[str, Any]:
        own = dict(classes[name])
        return {**whole(own.pop("like")), **own} if "like" in own else own

    return {name: whole(name) for name in classes}


def read_card(path: Path) -> ModelSpec:
    """Read one card file.

    Raises:
        SettingsError: the file is not a card; says what is wrong with which key, in which line.
    """
    text = ""
    try:
        text = path.read_text("utf-8")
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"the card `{path.name}` cannot be read: {error}") from None
    try:
        if not MODEL_ID.fullmatch(values["id"]):
            raise ValueError(f"`id` is {values['id']!r}, but it must be letters, digits, and . _ - inside")  # noqa: TRY301
        return spec_from(values)
    except KeyError as error:
        raise SettingsError(f"the card `{path.name}` is not complete: `{error.args[0]}` is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"the card `{path.name}` is not right{_line(text, str(error))}: {error}"
        ) from None


def _line(text: str, message: str) -> str:
    """Say in which line of a card the key stands that a message names first; nothing if it is in none."""
    named = re.search(r"`([\w.]+)`", message)
    for key in named[1].split(".") if named else ():
        found = re.search(rf"^[ \t]*{re.escape(key)}[ \t]*=|^[ \t]*\[{re.escape(key)}\]", text, re.MULTILINE)
        if found:
            return f" in line {text.count(chr(10), 0, found.start()) + 1}"
    return ""


def spec_from(card: Mapping[str, Any]) -> ModelSpec:
    """Make a spec of a card's values over the defaults of its pipeline class."""
    unknown = sorted(set(card) - _KEYS)
    if unknown:
        raise ValueError(f"unknown key `{unknown[0]}`")
    values = {**pipeline_defaults().get(card["pipeline"], {}), **card}
    _check(values)
    frames, size = values["frames"], values["size"]
    return ModelSpec(
        id=values["id"],
        title=values.get("title", values["id"]),
        description=values.get("description", ""),
        family=values.get("family", "generic"),
        source=values["source"],
        revision=values.get("revision"),
        license=values.get("license", "unknown"),
        pipelines=dict(values["modes"]),
        sizes=tuple(_size(text) for text in size["native"]),
        size_multiple=size["multiple"],
        max_pixels=size.get("max_pixels", 0),
        frames=FrameRule(frames["multiple"], frames["offset"], frames["minimum"], frames["maximum"]),
        default_num_frames=frames["default"],
        fps=values["fps"],
        num_inference_steps=Bounds(**values["steps"]),
        guidance_scale=Bounds(**values["guidance"]),
        schedulers=tuple(values.get("schedulers", ())),
        call=dict(values.get("call", {})),
        components=dict(values.get("components", {})),
        loras=_loras(values.get("loras", [])),
        scheduler_family=values.get("scheduler_family", "flow"),
        scheduler=values.get("scheduler"),
        flow_shift=values.get("flow_shift"),
        strength=Bounds(**values["strength"]) if "strength" in values else Bounds(0.7, 0.0, 1.0),
        upscale=_upscale(values.get("upscale", True)),
        overlap=values.get("overlap", 1),
        clip_layers=values.get("clip_layers", 0),
        takes_negative_prompt=values.get("negative_prompt", True),
        takes_prompt=values.get("prompt", True),
        memory_gb=values.get("memory", 0.0),
        price_class=_price_class(values.get("price", "standard")),
        price=_price(values.get("price", "standard")),
        dtype=values.get("dtype", "auto"),
        quantization=values.get("quantization", "auto"),
        aliases=tuple(values.get("aliases", ())),
    )


def _price_class(value: Any) -> str:
    """Read under which name the operator may set a price."""
    name = value.get("class", "standard") if isinstance(value, dict) else value
    if not isinstance(name, str) or not name:
        raise TypeError("`price` must be the name of a price class, or a table")
    return name


def _price(value: Any) -> Price:
    """Read what videos cost: by a class's name, or a table of credits for a megapixel-second and factors for up to so many steps."""
    standard = price_of_class(_price_class(value))
    if not isinstance(value, dict):
        return standard
    if unknown := sorted(set(value) - {"class", "per_megapixel_second", "steps"}):
        raise ValueError(f"unknown key `price.{unknown[0]}`")
    per = value.get("per_megapixel_second", standard.per_megapixel_second)
    factors = value.get("steps", {})
    numbers = [per, *(factors.values() if isinstance(factors, dict) else [None])]
    if not all(
        isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one <= MAX_PRICE
        for one in numbers
    ):
        raise TypeError(
            f"`price` must hold numbers from 0 to {MAX_PRICE:.0f}: `per_megapixel_second`, and `steps` by the most steps"
        )
    if not all(name == "more" or name.isdecimal() for name in factors):
        raise ValueError('the keys of `price.steps` must be numbers of steps, or "more"')
    if not factors:
        return Price(float(per))
    classes = sorted((int(name), float(factor)) for name, factor in factors.items() if name != "more")
    last = factors.get("more", classes[-1][1] if classes else 1.0)
    return Price(float(per), (*(StepClass(*one) for one in classes), StepClass(None, float(last))))


_UPSCALE_KEYS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "model": (str, "text"),
    "strength": (dict, "a table"),
    "guidance": ((int, float), "a number"),
    "steps": (int, "a whole number"),
    "max_pixels": (int, "a whole number"),
}


def _upscale(value: Any) -> UpscaleRule | None:
    """Read how the second pass is made: false if there is none, else what differs from the first pass."""
    if isinstance(value, bool):
        return UpscaleRule() if value else None
    if not isinstance(value, dict):
        raise TypeError("`upscale` must be a table, or false for a model that makes no second pass")
    unknown = sorted(set(value) - set(_UPSCALE_KEYS))
    if unknown:
        raise ValueError(f"unknown key `upscale.{unknown[0]}`")
    for key, given in value.items():
        kind, name = _UPSCALE_KEYS[key]
        if not isinstance(given, kind) or isinstance(given, bool):
            raise TypeError(f"`upscale.{key}` must be {name}")
        if key in ("steps", "max_pixels") and isinstance(given, int) and given < 1:
            raise ValueError(f"`upscale.{key}` is {given}, but it must be at least 1")
    asked = Bounds(**{**asdict(UpscaleRule().strength), **value.get("strength", {})})
    if not 0 <= asked.minimum <= asked.default <= asked.maximum <= 1:
        raise ValueError(
            "the default of `upscale.strength` must be from its minimum to its maximum, from 0 to 1"
        )
    return UpscaleRule(
        model=value.get("model"),
        strength=asked,
        guidance_scale=value.get("guidance"),
        num_inference_steps=value.get("steps"),
        max_pixels=value.get("max_pixels", 0),
    )


def _check(values: Mapping[str, Any]) -> None:
    """Refuse what would only break when a request comes."""
    kinds = {
        "id": str,
        "source": str,
        "modes": dict,
        "size": dict,
        "frames": dict,
        "steps": dict,
        "guidance": dict,
    }
    for key, kind in {**kinds, "fps": int}.items():
        if not isinstance(values[key], kind):
            raise TypeError(
                f"`{key}` must be {'text' if kind is str else 'a table' if kind is dict else 'a whole number'}"
            )
    if not values["size"]["native"] or not values["modes"]:
        raise ValueError("`size.native` and `modes` must not be empty")
    for key, number in {
        "fps": values["fps"],
        "size.multiple": values["size"]["multiple"],
        "frames.multiple": values["frames"]["multiple"],
        "frames.minimum": values["frames"]["minimum"],
    }.items():
        if number < 1:
            raise ValueError(f"`{key}` is {number}, but it must be at least 1")
    for key in ("frames", "steps", "guidance"):
        if not values[key]["minimum"] <= values[key]["default"] <= values[key]["maximum"]:
            raise ValueError(f"the default of `{key}` must be from its minimum to its maximum")
    _check_names(values)
    _check_schedule(values)
    if not 1 <= values.get("overlap", 1) < values["frames"]["maximum"]:
        raise ValueError("`overlap` must be at least 1 and below the largest number of frames")


def _check_schedule(values: Mapping[str, Any]) -> None:
    """Refuse defaults of the noise schedule that no request could ask for."""
    name, shift = values.get("scheduler"), values.get("flow_shift")
    if name is not None:
        family = values.get("scheduler_family", "flow")
        try:
            standing = schedulers.resolve(name, family, pipeline=values["pipeline"]).standing
        except InvalidParameter as error:
            raise ValueError(f"`scheduler` is {name!r}, but {error.rule}") from None
        if standing != "native":
            raise ValueError(f"`scheduler` is {name!r}, which does not run as it is over a {family} model")
    if shift is not None:
        if isinstance(shift, bool) or not isinstance(shift, int | float):
            raise TypeError("`flow_shift` must be a number")
        if not FLOW_SHIFTS.minimum <= shift <= FLOW_SHIFTS.maximum:
            raise ValueError(
                f"`flow_shift` is {shift}, but it must be from {FLOW_SHIFTS.minimum:g} to {FLOW_SHIFTS.maximum:g}"
            )


def _check_names(values: Mapping[str, Any]) -> None:
    for mode in values["modes"]:
        if mode not in MODES:
            raise ValueError(f"`modes` has {mode!r}, but a mode is one of {', '.join(MODES)}")
    family = values.get("scheduler_family", "flow")
    if family not in get_args(SchedulerFamily):
        known = ", ".join(get_args(SchedulerFamily))
        raise ValueError(f"`scheduler_family` is {family!r}, but it must be one of {known}")
    for key, legal in {"dtype": DTYPES, "quantization": QUANTIZATIONS}.items():
        if values.get(key, "auto") not in legal:
            raise ValueError(f"`{key}` is {values[key]!r}, but it must be one of {', '.join(legal)}")


def _loras(rows: Any) -> tuple[CardLora, ...]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TypeError("`loras` must be a list of tables, each with a `source`")
    return tuple(_lora(row) for row in rows)


def _lora(values: Mapping[str, Any]) -> CardLora:
    source = values.get("source")
    if not isinstance(source, str) or not _LORA_SOURCE.fullmatch(source):
        raise ValueError(
            f"`loras` has the source {source!r}, but it must be file:PATH.safetensors or "
            "hub:OWNER/NAME/FILE.safetensors"
        )
    unknown = sorted(set(values) - {"source", "scale", "component", "revision"})
    if unknown:
        raise ValueError(f"`loras` has the unknown key `{unknown[0]}`")
    scale = float(values.get("scale", LORA_SCALES.default))
    if not LORA_SCALES.minimum <= scale <= LORA_SCALES.maximum:
        raise ValueError(
            f"`loras` has the scale {scale:g}, but it must be from {LORA_SCALES.minimum:g} to {LORA_SCALES.maximum:g}"
        )
    component = values.get("component")
    if component not in (None, *ADAPTED):
        raise ValueError(
            f"`loras` has the component {component!r}, but it must be one of {', '.join(ADAPTED)}"
        )
    return CardLora(source, scale, component, values.get("revision"))


def _size(text: str) -> Size:
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"size {text!r} is not of the form 832x480 (width x height)")
    return Size(height=int(match[2]), width=int(match[1]))

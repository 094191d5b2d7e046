"""Cards: TOML in, `ModelSpec` out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from vitascope.domain.errors import SettingsError
from vitascope.domain.model_spec import Bounds, FrameRule, ModelSpec, Size

_SIZE = re.compile(r"(\d+)x(\d+)")
_KEYS = {
    "id", "title", "description", "source", "revision", "license", "pipeline", "modes", "size", "frames", "fps",
    "steps", "guidance", "schedulers", "call", "dtype", "aliases", "family",
}  # fmt: skip


@cache
def pipeline_defaults() -> dict[str, dict[str, Any]]:
    """What `pipelines.toml` says, by diffusers pipeline class."""
    text = resources.files(__package__).joinpath("pipelines.toml").read_text("utf-8")
    return tomllib.loads(text)


def read_card(path: Path) -> ModelSpec:
    """Read one card file.

    Raises:
        SettingsError: the file is not a card; says what is wrong with which key.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"the card `{path.name}` cannot be read: {error}") from None
    try:
        return spec_from(values)
    except (KeyError, TypeError, ValueError) as error:
        what = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else str(error)
        raise SettingsError(f"the card `{path.name}` is not complete: {what}") from None


def spec_from(card: Mapping[str, Any]) -> ModelSpec:
    """Make a spec of a card's values over the defaults of its pipeline class."""
    unknown = sorted(set(card) - _KEYS)
    if unknown:
        raise ValueError(f"unknown key `{unknown[0]}`")
    values = {**pipeline_defaults().get(card["pipeline"], {}), **card}
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
        dtype=values.get("dtype", "auto"),
        aliases=tuple(values.get("aliases", ())),
    )


def _size(text: str) -> Size:
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"size {text!r} is not of the form 832x480 (width x height)")
    return Size(height=int(match[2]), width=int(match[1]))

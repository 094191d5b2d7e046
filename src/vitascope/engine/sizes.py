"""What a checkpoint's components are and how large, from their configurations and the headers of their files.

Nothing is loaded. Knows nothing of torch, nor of what device the weights go to.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

Role = Literal["denoiser", "autoencoder", "encoder"]
"""What a component is for: the steps; pictures from latents and back; reading the text or the first frame."""

ROLES: tuple[Role, ...] = get_args(Role)

MAX_HEADER_BYTES = 100_000_000
"""A longer header is none: the format's own limit."""

_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
_DENOISERS = ("transformer", "unet", "motion_adapter", "controlnet", "prior", "decoder")
_AUTOENCODERS = ("vae", "audio_vae", "vocoder", "vqvae", "movq")
KEPT_WHOLE = re.compile(
    r"embed|shared|norm|(^|\.)(proj_in|proj_out|lm_head|conv_in|conv_out|relative_attention_bias)\b"
)
"""Names of layers that quantisation leaves as they are: the first and the last, and what is looked up."""

_BLOCK = re.compile(r"^(.*?\.\d+)\.")


@dataclass(frozen=True, slots=True)
class Component:
    """One component's weights, counted in values, so that they can be reckoned in any dtype."""

    name: str
    role: Role
    #: Floating point values.
    num_values: int
    #: Of these, in matrices and kernels: what quantisation keeps in one byte each.
    num_matrix_values: int
    #: In the largest of its blocks.
    num_block_values: int
    #: In none of its blocks.
    num_rest_values: int = 0
    #: In the largest of its layers.
    num_layer_values: int = 0
    #: Bytes of everything that is not floating point.
    other_bytes: int = 0
    #: Its `config.json`.
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def class_name(self) -> str:
        """The diffusers or transformers class, as the checkpoint names it."""
        named = self.config.get("_class_name") or next(iter(self.config.get("architectures") or ()), "")
        return str(named)


@dataclass(frozen=True, slots=True)
class Sizes:
    """A checkpoint's components; empty where its files could not be read."""

    components: tuple[Component, ...] = ()

    def of(self, role: Role) -> tuple[Component, ...]:
        return tuple(component for component in self.components if component.role == role)

    @property
    def num_values(self) -> int:
        return sum(component.num_values for component in self.components)


def read_sizes(location: str, parts: Mapping[str, str] | None = None) -> Sizes:
    """Read the sizes of a pipeline in diffusers' format; what cannot be read counts nothing (loading it says why).

    Args:
        location: its folder.
        parts: folders of components that are elsewhere, by their names.
    """
    parts = parts or {}
    folder = Path(location)
    names = [name for name, _, _ in components_of(location)]
    folders = {name: folder / name for name in names} | {name: Path(path) for name, path in parts.items()}
    read = (_component(name, where) for name, where in folders.items())
    return Sizes(tuple(component for component in read if component.num_values or component.other_bytes))


def components_of(location: str) -> list[tuple[str, str, str]]:
    """Name, library and class of each component that the pipeline's folder lists."""
    listed = _json(Path(location) / "model_index.json").items()
    return [(name, *of) for name, of in listed if isinstance(of, list) and len(of) == 2 and None not in of]


def is_module(location: str, name: str) -> bool:
    """Whether a component has weights, unlike a tokenizer or a scheduler."""
    return any((Path(location) / name).glob("*.safetensors"))


def _component(name: str, folder: Path) -> Component:
    values = matrices = other = layer = 0
    blocks: dict[str, int] = {}
    for key, dtype, shape, num_bytes in _tensors(folder):
        if dtype not in _FLOAT_BYTES:
            other += num_bytes
            continue
        number = math.prod(shape)
        values += number
        layer = max(layer, number)
        if len(shape) > 1 and key.endswith(".weight") and not KEPT_WHOLE.search(key):
            matrices += number
        found = _BLOCK.match(key)
        if found:
            blocks[found[1]] = blocks.get(found[1], 0) + number
    rest = values - sum(blocks.values())
    config = _json(folder / "config.json")
    block = max(blocks.values(), default=0)
    return Component(name, role_of(name), values, matrices, block, rest, layer, other, config)


def role_of(name: str) -> Role:
    """Tell from a component's name, which diffusers' pipelines choose alike, what it is for."""
    if name.startswith(_AUTOENCODERS):
        return "autoencoder"
    return "denoiser" if name.startswith(_DENOISERS) else "encoder"


def _tensors(folder: Path) -> Iterator[tuple[str, str, list[int], int]]:
    """Name, dtype, shape and bytes of each tensor that is loaded."""
    for path in sorted(folder.glob("*.safetensors")):
        if "." in path.stem:
            continue  # a variant such as `model.fp16.safetensors` is a further copy
        for key, entry in _header(path).items():
            try:
                begin, end = entry["data_offsets"]
                yield key, entry["dtype"], [int(side) for side in entry["shape"]], end - begin
            except (KeyError, TypeError, ValueError):
                continue  # its metadata, or a damaged file, of which loading says so


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
    except (OSError, ValueError, struct.error):
        return {}
    return header if isinstance(header, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

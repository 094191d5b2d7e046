"""What a LoRA file's tensors change in a model: pure functions of names and shapes, for all formats that are met.

A file names a layer in one of several ways: as diffusers does (`transformer.blocks.0.attn1.to_q`), as the model's first authors
did (`diffusion_model.blocks.0.self_attn.q`, what ComfyUI has), and either of them in one word (`lora_unet_blocks_0_self_attn_q`,
kohya's and musubi's). Which dots an underscore stands for cannot be told from the word. So nothing is parsed: all names that
each layer of the model could have are written down, and the file's are looked up.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""By the names of parameters, such as `blocks.0.attn1.to_q.weight`; or of a file's tensors."""

DENOISERS = ("transformer", "transformer_2", "unet")
"""Components that a file means whose names do not say which."""

ADAPTED = (*DENOISERS, "text_encoder", "text_encoder_2", "text_encoder_3", "connectors")
"""All components that adapters change."""

METADATA = "lora_adapter_metadata"
"""Under this name diffusers and peft keep a file's alpha values in its header."""


class Misfit(ValueError):
    """The file is not one of an adapter for this model; says why, as the rest of the sentence "it …"."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two matrices whose product is added to a weight."""

    component: str
    #: The parameter that they change.
    parameter: str
    #: Names of the tensors in the file: from the layer's input to the rank, and from there to its output.
    down: str
    up: str
    #: Of a tensor that holds it, where the file has one.
    alpha: str | None
    #: What the product is multiplied with, where no tensor says so.
    factor: float
    #: Of a tensor that is added to the layer's output before the factor.
    bias: str | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """A tensor that is added to a parameter of the same shape."""

    component: str
    parameter: str
    tensor: str


@dataclass(frozen=True, slots=True)
class Fit:
    """What a file changes in a model."""

    pairs: tuple[Pair, ...]
    differences: tuple[Difference, ...]


def fit(tensors: Shapes, metadata: Mapping[str, str], model: ModelLayers, only: str | None = None) -> Fit:
    """Find out what a file changes in a model.

    Args:
        tensors: the file's.
        metadata: of its header.
        model: the model's layers.
        only: the one component that the file is for; None for all that its names fit.

    Raises:
        Misfit: it is of another kind, or for another architecture.
    """
    if not tensors:
        raise Misfit("holds no tensors")
    layers = _layers(tensors)
    settings = _settings(metadata)
    pairs: list[Pair] = []
    differences: list[Difference] = []
    unknown: list[str] = []
    for layer in layers.values():
        places = [place for place in model.find(layer.name) if only in (None, place.component)]
        if not places:
            unknown.append(layer.name)
            continue
        for place in places:
            pairs += _pairs(layer, place, tensors, settings)
            differences += _differences(layer, place, tensors)
    changed = Counter((part.component, part.parameter) for part in pairs)
    if twice := [parameter for (_, parameter), times in changed.items() if times > 1]:
        raise Misfit(f"changes `{twice[0]}` twice, under two names")
    if unknown:
        raise Misfit(_unknown(unknown, len(layers)))
    return Fit(tuple(pairs), tuple(differences))


def _unknown(names: list[str], num_layers: int) -> str:
    more = f" and {len(names) - 1} of its other {num_layers - 1}" if len(names) > 1 else ""
    return f"was made for another architecture: the model has no layer `{_cut(names[0])}`{more}"


@dataclass(slots=True)
class _Layer:
    """What a file says of one layer: its tensors' names by what they are."""

    name: str
    tensors: dict[str, str] = field(default_factory=dict)


_ROLES = {
    "lora_A.weight": "down", "lora_B.weight": "up", "lora_B.bias": "bias",
    "lora_A.default.weight": "down", "lora_B.default.weight": "up", "lora_B.default.bias": "bias",
    "lora_down.weight": "down", "lora_up.weight": "up", "lora_up.bias": "bias",
    "lora.down.weight": "down", "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down", "lora_linear_layer.up.weight": "up",
    "alpha": "alpha", "diff": "diff", "diff_b": "diff_b",
}  # fmt: skip
_ROLE = re.compile(rf"(.+?)[._]({'|'.join(re.escape(end) for end in sorted(_ROLES, key=len, reverse=True))})")

_OTHER_KINDS = {
    "hada_w": "a LoHa", "lokr_w": "a LoKr", "dora_scale": "a DoRA", "lora_magnitude_vector": "a DoRA",
    "lora_mid": "a LoCon with three matrices", "oft_": "an OFT", "boft_": "an OFT", "vera_lambda": "a VeRA",
}  # fmt: skip
"""By a part of tensors' names: methods that are close to this one, and cannot be applied."""


def _layers(tensors: Shapes) -> dict[str, _Layer]:
    found: dict[str, _Layer] = {}
    for tensor in tensors:
        for mark, kind in _OTHER_KINDS.items():
            if mark in tensor:
                raise Misfit(f"is {kind}, and only plain LoRA is applied (`{_cut(tensor)}`)")
        match = _ROLE.fullmatch(tensor)
        if match is None:
            raise Misfit(f"is no LoRA: it holds `{_cut(tensor)}`")
        name = match[1].replace(".processor.", ".")  # as old versions of diffusers wrote attention
        found.setdefault(name, _Layer(name)).tensors[_ROLES[match[2]]] = tensor
    for layer in found.values():
        roles = layer.tensors.keys()
        if (
            ("down" in roles) != ("up" in roles)
            or roles == {"alpha"}
            or ("bias" in roles and "up" not in roles)
        ):
            raise Misfit(f"is not complete: of `{_cut(layer.name)}` a part is missing")
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """A layer of the model."""

    component: str
    name: str
    parameters: Shapes

    def parameter(self, kind: str) -> str:
        """Name the layer's weight or bias; a parameter that stands alone is its own weight."""
        whole = f"{self.name}.{kind}"
        return self.name if kind == "weight" and whole not in self.parameters else whole


_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.")
_WORDS = {"lora_unet_": DENOISERS, "lora_transformer_": DENOISERS, "lora_te_": ("text_encoder",)} | {
    f"lora_te{number}_": ("text_encoder" if number == 1 else f"text_encoder_{number}",)
    for number in (1, 2, 3)
}
"""What names in one word begin with, and the components that are meant."""


class ModelLayers:
    """The layers of a model by all names that they could have.

    Args:
        model: by component, its parameters.
    """

    def __init__(self, model: Mapping[str, Shapes]) -> None:
        self.components = tuple(model)
        self._model = model
        self._by_name = {component: dict(_spellings(shapes)) for component, shapes in model.items()}
        self._by_word = {
            component: {name.replace(".", "_"): layer for name, layer in names.items()}
            for component, names in self._by_name.items()
        }

    def find(self, name: str) -> list[Place]:
        """Find a file's layer; in two components where both have it and the name does not say which is meant."""
        for prefix, components in _WORDS.items():
            if name.startswith(prefix):
                return self._look_up(
                    self._by_word, name.removeprefix(prefix).removeprefix("text_model_"), components
                )
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        component, _, rest = name.partition(".")
        if component in self._model or component in DENOISERS:
            # a model's only denoiser may be called otherwise in the file's format; of two the first is meant, or both
            components = (component,) if component in self._model else DENOISERS
            rest = rest.removeprefix("text_model.")
            found = self._look_up(self._by_name, rest, components)
            if found:
                return found
        return self._look_up(self._by_name, name, DENOISERS)

    def _look_up(
        self, names: Mapping[str, Mapping[str, str]], name: str, components: Iterable[str]
    ) -> list[Place]:
        return [
            Place(component, names[component][name], self._model[component])
            for component in components
            if name in names.get(component, ())
        ]


def _spellings(parameters: Shapes) -> Iterator[tuple[str, str]]:
    """Yield all names of each layer with the model's own: the first authors' first, so that its own win over them."""
    layers = dict.fromkeys(re.sub(r"\.(weight|bias)$", "", parameter) for parameter in parameters)
    for layer in layers:
        for rules in _ORIGINALS:
            name = layer
            for pattern, replacement in rules:
                name = pattern.sub(replacement, name)
            if name != layer:
                yield name, layer
    for layer in layers:
        yield layer.removeprefix("text_model."), layer


def _rules(*pairs: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


_ORIGINALS = (
    # Wan 2.1 and 2.2, and what is made of them (SkyReels-V2, VACE)
    _rules(
        (r"(blocks\.\d+)\.attn1\b", r"\1.self_attn"),
        (r"(blocks\.\d+)\.attn2\b", r"\1.cross_attn"),
        (r"_attn\.to_([qkv])$", r"_attn.\1"),
        (r"_attn\.to_out\.0$", "_attn.o"),
        (r"_attn\.add_([kv])_proj$", r"_attn.\1_img"),
        (r"_attn\.norm_added_k$", "_attn.norm_k_img"),
        (r"(blocks\.\d+)\.norm2$", r"\1.norm3"),
        (r"(blocks\.\d+)\.scale_shift_table$", r"\1.modulation"),
        (r"(blocks\.\d+)\.ffn\.net\.0\.proj$", r"\1.ffn.0"),
        (r"(blocks\.\d+)\.ffn\.net\.2$", r"\1.ffn.2"),
        (r"^(vace_blocks\.\d+)\.proj_in$", r"\1.before_proj"),
        (r"^(vace_blocks\.\d+)\.proj_out$", r"\1.after_proj"),
        (r"^condition_embedder\.time_embedder\.linear_1$", "time_embedding.0"),
        (r"^condition_embedder\.time_embedder\.linear_2$", "time_embedding.2"),
        (r"^condition_embedder\.text_embedder\.linear_1$", "text_embedding.0"),
        (r"^condition_embedder\.text_embedder\.linear_2$", "text_embedding.2"),
        (r"^condition_embedder\.time_proj$", "time_projection.1"),
        (r"^condition_embedder\.image_embedder\.norm1$", "img_emb.proj.0"),
        (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj$", "img_emb.proj.1"),
        (r"^condition_embedder\.image_embedder\.ff\.net\.2$", "img_emb.proj.3"),
        (r"^condition_embedder\.image_embedder\.norm2$", "img_emb.proj.4"),
        (r"^scale_shift_table$", "head.modulation"),
        (r"^proj_out$", "head.head"),
    ),
    # LTX-Video and LTX-2. Source: diffusers' scripts/convert_ltx_to_diffusers.py and convert_ltx2_to_diffusers.py
    _rules(
        (r"^proj_in$", "patchify_proj"),
        (r"^audio_proj_in$", "audio_patchify_proj"),
        (r"^time_embed\b", "adaln_single"),
        (r"^audio_time_embed\b", "audio_adaln_single"),
        (r"^av_cross_attn_video_scale_shift\b", "av_ca_video_scale_shift_adaln_single"),
        (r"^av_cross_attn_video_a2v_gate\b", "av_ca_a2v_gate_adaln_single"),
        (r"^av_cross_attn_audio_scale_shift\b", "av_ca_audio_scale_shift_adaln_single"),
        (r"^av_cross_attn_audio_v2a_gate\b", "av_ca_v2a_gate_adaln_single"),
        (r"\.norm_([qk])$", r".\1_norm"),
    ),
)  # fmt: skip
"""From diffusers' names to the first authors'. Source of Wan's: diffusers 0.42, scripts/convert_wan_to_diffusers.py."""


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a file's header says of its alpha values; empty if it says nothing."""

    alpha: float | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    is_rank_stabilized: bool = False

    def factor(self, layer: str, rank: int) -> float:
        found = (value for name, value in self.alphas.items() if _is_of(name, layer))
        alpha = next(found, self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)


def _is_of(name: str, layer: str) -> bool:
    """Whether peft means a layer by a name: one with a roof is the whole name, others are its end."""
    return layer == name[1:] if name.startswith("^") else layer == name or layer.endswith(f".{name}")


def _settings(metadata: Mapping[str, str]) -> dict[str, _Settings]:
    """Read what peft wrote, by component: diffusers puts its name before each key. Files of peft's own have none: empty."""
    try:
        values: dict[str, Any] = json.loads(metadata.get(METADATA, "{}"))
        by_component: dict[str, dict[str, Any]] = {}
        for whole, value in values.items():
            component, _, name = whole.rpartition(".")
            by_component.setdefault(component, {})[name] = value
        return {component: _settings_of(named) for component, named in by_component.items()}
    except Misfit:
        raise
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise Misfit(f"has a header that cannot be read (`{METADATA}`)") from None


def _settings_of(named: Mapping[str, Any]) -> _Settings:
    if named.get("use_dora"):
        raise Misfit("is a DoRA, and only plain LoRA is applied")
    alphas = {str(name): _finite(value) for name, value in (named.get("alpha_pattern") or {}).items()}
    alpha = named.get("lora_alpha")
    return _Settings(None if alpha is None else _finite(alpha), alphas, bool(named.get("use_rslora")))


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):  # JSON has no such numbers, but Python reads them
        raise ValueError
    return number


def _pairs(layer: _Layer, place: Place, tensors: Shapes, settings: Mapping[str, _Settings]) -> Iterator[Pair]:
    if "down" not in layer.tensors:
        return
    parameter = f"{place.name}.weight"
    if parameter not in place.parameters:
        raise Misfit(f"changes `{_cut(layer.name)}`, which the model has as no matrix")
    down, up = layer.tensors["down"], layer.tensors["up"]
    weight = place.parameters[parameter]
    _check_pair(layer.name, weight, tensors[down], tensors[up])
    bias, alpha = layer.tensors.get("bias"), layer.tensors.get("alpha")
    if bias is not None and tensors[bias] != weight[:1]:
        raise Misfit(_wrong(layer.name, tensors[bias], weight[:1]))
    if alpha is not None and math.prod(tensors[alpha]) != 1:
        raise Misfit(f"has {math.prod(tensors[alpha])} alpha values of `{_cut(layer.name)}`")
    names = (place.component, *(DENOISERS if place.component in DENOISERS else ()), "")
    known = next((settings[name] for name in names if name in settings), _Settings())
    factor = known.factor(place.name, tensors[down][0])
    yield Pair(place.component, parameter, down, up, alpha, factor, bias)


def _check_pair(name: str, weight: Shape, down: Shape, up: Shape) -> None:
    """Compare what goes in and out; of a convolution of one pixel the matrices may come flat, and the other way round."""
    if len(weight) < 2 or len(down) < 2 or len(up) < 2:
        raise Misfit(f"changes `{_cut(name)}`, which the model has as no matrix")
    fits_kernel = down[2:] == weight[2:] or math.prod(down[2:]) == math.prod(weight[2:]) == 1
    if (up[0], down[1]) != weight[:2] or not fits_kernel or math.prod(up[2:]) != 1:
        raise Misfit(_wrong(name, (up[0], *down[1:]), weight))
    if up[1] != down[0] or down[0] < 1:
        raise Misfit(f"is damaged: the two matrices of `{_cut(name)}` have ranks {down[0]} and {up[1]}")


def _differences(layer: _Layer, place: Place, tensors: Shapes) -> Iterator[Difference]:
    for role, kind in (("diff", "weight"), ("diff_b", "bias")):
        tensor = layer.tensors.get(role)
        if tensor is None:
            continue
        parameter = place.parameter(kind)
        expected = place.parameters.get(parameter)
        if expected is None:
            raise Misfit(f"changes the {kind} of `{_cut(layer.name)}`, of which the model has none")
        if tensors[tensor] != expected:
            raise Misfit(_wrong(layer.name, tensors[tensor], expected))
        yield Difference(place.component, parameter, tensor)


def _wrong(name: str, found: Shape, expected: Shape) -> str:
    theirs, ours = ("x".join(map(str, shape)) for shape in (found, expected))
    return (
        f"was made for another architecture: it changes `{_cut(name)}` as {theirs}, and the model has {ours}"
    )


def _cut(name: str) -> str:
    """Shorten a name of a file's author, which may be anything."""
    shown = "".join(letter if letter.isprintable() and letter != "`" else "?" for letter in name[:80])
    return shown if len(name) <= 80 else f"{shown}…"

"""Load a model's pipelines from its checkpoint, as its placement says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import torch

from vitascope.domain.choice import Choice
from vitascope.domain.errors import ModelUnavailable
from vitascope.domain.model_spec import Mode, ModelSpec
from vitascope.domain.plan import Plan

from . import bert, meta_kernels
from .activations import largest_extent, work_of
from .attention import choose_attention, use
from .background import apart
from .compact import compact
from .compiling import Compiling, choose_compile
from .convolutions import choose_layout, lay_out, quicken
from .device import measure
from .families.quirks import prepare
from .kernel_times import KernelTimes
from .offloading import Offloading, pin
from .placement import TILING, VALUE_BYTES, Placement, place
from .sizes import Sizes, components_of, is_module, read_sizes, role_of
from .slots import Slot, Slots, build_pipeline

_PLAINLY_BUILT = {"WanTransformer3DModel", "AutoencoderKLWan", "BertModel"}
"""Before their files are read, their tensors without numbers are made, and nothing is computed of them."""

AS_BEFORE = "as in an earlier try at the job"
"""Why something is chosen that would be otherwise now."""


@dataclass(frozen=True)
class LoadedModel:
    """A model's pipelines by mode, over one set of weights."""

    spec: ModelSpec
    pipelines: dict[Mode, Any]
    choices: tuple[Choice, ...]
    slots: Slots
    placement: Placement
    sizes: Sizes
    compiling: Compiling

    def settled(self, tiling: tuple[Choice, ...]) -> dict[str, str]:
        """Tell what pictures depend on: how it is loaded, and whether they are decoded in tiles."""
        tiles = next((choice.value for choice in tiling), "off")
        return {"dtype": self.placement.dtype, "quantization": self.placement.quantization, TILING: tiles}

    def choose_tiling(self, plan: Plan, slot: Slot) -> tuple[Choice, ...]:
        """Have a slot decode this plan's frames in tiles, or whole; in tiles too where an earlier try at the job did."""
        extent = largest_extent(self.spec, plan)
        value_bytes = VALUE_BYTES[self.placement.dtype]
        choice = self.placement.tiles_for(work_of(self.sizes, extent, value_bytes=value_bytes), extent)
        if choice is None and dict(plan.settled).get(TILING) == "on":
            choice = Choice(TILING, "on", AS_BEFORE)
        vae: Any = slot.modules().get("vae")
        loaded: Any = next(iter(self.pipelines.values())).components.get("vae")
        if not hasattr(vae, "use_tiling"):
            return ()
        # a slot is used again: it begins as it was loaded, and some autoencoders do nothing without tiles
        vae.use_tiling = loaded.use_tiling
        if choice is not None and choice.value == "on":
            vae.enable_tiling()
        return () if choice is None else (choice,)

    @property
    def num_bytes(self) -> int:
        """What the weights take."""
        components = [part for pipe in self.pipelines.values() for part in pipe.components.values()]
        modules = {id(part): part for part in components if isinstance(part, torch.nn.Module)}
        tensors = {
            id(tensor): tensor
            for module in modules.values()
            for tensor in (*module.parameters(), *module.buffers())
        }
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def load_model(
    spec: ModelSpec,
    location: str,
    device: torch.device,
    device_choice: Choice,
    parts: Mapping[str, str] = MappingProxyType({}),
    *,
    sizes: Sizes | None = None,
    placement: Placement | None = None,
    attention: str = "auto",
    compiles: str = "auto",
    channels_last: str = "auto",
    kernel_times: KernelTimes | None = None,
) -> LoadedModel:
    """Load a model's pipelines. Safetensors only; classes are named by the card, never by the checkpoint's own code.

    Args:
        spec: the model.
        location: a folder in diffusers' format.
        device: where it works.
        device_choice: why there.
        parts: folders of the components that are not in `location`, by their names.
        sizes: of its components, where they were read before.
        placement: how it is loaded; by default what fits now.
        attention: kernels that the operator asks for.
        compiles: whether they want blocks compiled.
        channels_last: whether they want the autoencoder so.
        kernel_times: what is known of attention kernels.

    Raises:
        ModelUnavailable: the files are not there, not complete, or not what the card says.
        ModelTooLarge: its weights have no room.
    """
    sizes = sizes or read_sizes(location, parts)
    if not {component.class_name for component in sizes.components} <= _PLAINLY_BUILT:
        meta_kernels.import_all()
    placement = placement or place(spec, sizes, measure(device))
    classes = {mode: _pipeline_class(name) for mode, name in spec.pipelines.items()}
    first = "text" if "text" in classes else next(iter(classes))
    pipe = _from_pretrained(classes[first], spec, location, placement, parts)
    pipe.set_progress_bar_config(disable=True)
    modules = _modules(pipe)
    for module in modules.values():
        module.eval().requires_grad_(requires_grad=False)
        quicken(module, device)
    layouts = _layout_choice(modules, device, channels_last)
    offloading = _bring(pipe, modules, placement, device)
    prepare(pipe)
    pipelines = {
        mode: pipe if mode == first else build_pipeline(cls, pipe.components, pipe.config)
        for mode, cls in classes.items()
    }
    choices = (
        device_choice,
        *placement.choices,
        *_attention_choice(modules, placement, device, attention, _num_tokens(spec), kernel_times),
    )
    choices += (*layouts, *_decode_choices(modules))
    denoisers = [module for name, module in modules.items() if role_of(name) == "denoiser"]
    compiling = Compiling(choose_compile(compiles, device, placement, denoisers))
    slots = Slots(pipelines, device, offloading, compiling)
    return LoadedModel(spec, pipelines, choices, slots, placement, sizes, compiling)


def _modules(pipe: Any) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def _bring(
    pipe: Any, modules: dict[str, torch.nn.Module], placement: Placement, device: torch.device
) -> Offloading | None:
    """Put the weights where they wait: on the device, or in main memory with someone who brings them."""
    if placement.offload == "none":
        with apart():
            pipe.to(device)
        return None
    if device.type == "cuda":
        with apart():
            pin(modules)
    autoencoders = frozenset(name for name in modules if role_of(name) == "autoencoder")
    return Offloading(placement.offload, device, whole=autoencoders)


def _attention_choice(
    modules: dict[str, torch.nn.Module],
    placement: Placement,
    device: torch.device,
    asked: str,
    num_tokens: int,
    kernel_times: KernelTimes | None,
) -> tuple[Choice, ...]:
    denoisers = [module for name, module in modules.items() if role_of(name) == "denoiser"]
    if not denoisers:
        return ()
    dtype = getattr(torch, placement.dtype)
    choice = choose_attention(asked, denoisers[0], device, dtype, num_tokens, kernel_times)
    for denoiser in denoisers:
        use(denoiser, choice)
    return (choice,)


def _num_tokens(spec: ModelSpec) -> int:
    """Reckon how many tokens a clip of the default size has: most models have one for 4 frames of 16x16 pixels."""
    extent = largest_extent(spec)
    return extent.num_frames * extent.pixels // 1024


def _layout_choice(
    modules: dict[str, torch.nn.Module], device: torch.device, asked: str
) -> tuple[Choice, ...]:
    autoencoders = [module for name, module in modules.items() if role_of(name) == "autoencoder"]
    if not autoencoders:
        return ()
    choice = choose_layout(asked, type(autoencoders[0]).__name__, device)
    if choice.value == "on":
        for autoencoder in autoencoders:
            lay_out(autoencoder)
    return (choice,)


def _decode_choices(modules: dict[str, torch.nn.Module]) -> tuple[Choice, ...]:
    """Let an autoencoder of images decode one frame after the other: pipelines hand it all of them as one batch."""
    vae: Any = modules.get("vae")
    if not isinstance(vae, diffusers.AutoencoderKL):
        return ()
    vae.enable_slicing()
    reason = "the autoencoder is one of images: so it needs little memory, and a cancel takes effect at once"
    return (Choice("decode", "frame by frame", reason),)


def _pipeline_class(name: str) -> Any:
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise ModelUnavailable(f"this version of diffusers has no pipeline class `{name}`")
    return found


def _from_pretrained(
    pipeline_class: Any, spec: ModelSpec, location: str, placement: Placement, parts: Mapping[str, str]
) -> Any:
    try:
        given = _components_of_others(pipeline_class, getattr(torch, placement.dtype), parts)
        given |= _compacted(location, placement, given)
        ours = _without_transformers(location, placement, given)
        pipe = pipeline_class.from_pretrained(
            location,
            dtype=getattr(torch, placement.dtype),
            use_safetensors=True,
            revision=spec.revision,
            **given,
            **dict.fromkeys(ours),  # the library compares classes of what it is given
        )
        pipe.register_modules(**ours)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        # diffusers and transformers raise any of these for a missing, cut or foreign file
        reason = str(error).strip().split("\n", 1)[0].replace(str(Path(location)), "the model's folder")
        raise ModelUnavailable(f"model `{spec.id}` could not be loaded: {reason[:300]}") from error
    for name, module in _modules(pipe).items():
        missing = [each for each, tensor in module.named_parameters() if tensor.is_meta]
        if missing:  # diffusers only warns of them
            message = (
                f"model `{spec.id}` could not be loaded: the files of its {name} lack `{missing[0][:100]}`"
            )
            raise ModelUnavailable(message, hint=f"{len(missing)} tensors are missing")
        if name not in given or name in parts:
            _compact(name, module, placement)
    return pipe


def _compacted(location: str, placement: Placement, given: Mapping[str, Any]) -> dict[str, Any]:
    """Load the large components one after the other, each made compact before the next one comes.

    Else all of them would have to fit into main memory as they are in the files.
    """
    if placement.quantization == "none":
        return {}
    import transformers

    found = {}
    for name, library, kind in components_of(location):
        loader = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), kind, None)
        is_compacted = role_of(name) != "autoencoder" and is_module(location, name)
        if name in given or loader is None or not is_compacted:
            continue
        module = loader.from_pretrained(
            location, subfolder=name, dtype=getattr(torch, placement.dtype), use_safetensors=True
        )
        _compact(name, module, placement)
        found[name] = module
    return found


def _without_transformers(location: str, placement: Placement, given: Mapping[str, Any]) -> dict[str, Any]:
    """Load a text encoder and its tokenizer that we have ourselves: what else needs transformers is not loaded with them."""
    found = {name: kind for name, library, kind in components_of(location) if library == "transformers"}
    folder = Path(location)
    is_ours = found == _BERT and not found.keys() & given.keys() and bert.is_plain(folder / "text_encoder")
    if not is_ours or not (folder / "tokenizer" / "tokenizer.json").is_file():
        return {}
    with apart():
        return {
            "text_encoder": bert.load_encoder(folder / "text_encoder", getattr(torch, placement.dtype)),
            "tokenizer": bert.load_tokenizer(folder / "tokenizer"),
        }


_BERT = {"text_encoder": "BertModel", "tokenizer": "BertTokenizer"}
"""All that a checkpoint has of transformers, where this is what it has."""


def _compact(name: str, module: torch.nn.Module, placement: Placement) -> None:
    if role_of(name) != "autoencoder":
        with apart():
            compact(module, placement.quantization)


def _components_of_others(
    pipeline_class: Any, dtype: torch.dtype, parts: Mapping[str, str]
) -> dict[str, Any]:
    """Load what other repositories hold; the classes are those that the pipeline's constructor names."""
    kinds = pipeline_class._get_signature_types() if parts else {}
    return {
        name: kinds[name][0].from_pretrained(folder, dtype=dtype, use_safetensors=True)
        for name, folder in parts.items()
    }

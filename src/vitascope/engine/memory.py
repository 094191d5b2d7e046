"""Load and unload, and on what: each automatic choice with its reason."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import psutil
import torch

from vitascope.domain.choice import Choice
from vitascope.domain.errors import ModelUnavailable, SettingsError
from vitascope.domain.model_spec import Mode, ModelSpec

from .families.quirks import prepare
from .slots import Slots, build_pipeline


@dataclass(frozen=True)
class LoadedModel:
    """A model's pipelines by mode, over one set of weights."""

    spec: ModelSpec
    pipelines: dict[Mode, Any]
    choices: tuple[Choice, ...]
    slots: Slots


def choose_device(asked: str) -> tuple[torch.device, Choice]:
    """Take the asked device, or with "auto" the first of CUDA (also ROCm), XPU, MPS and CPU that is there."""
    if asked != "auto":
        try:
            device = torch.empty(0, device=asked).device
        except (RuntimeError, AssertionError):
            message = f"setting `engine.device`: there is no device `{asked[:40]}` here"
            raise SettingsError(message, hint="`auto` takes the best one that there is") from None
        return device, Choice("device", asked, "set by engine.device")
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        return torch.device("cuda:0"), Choice("device", "cuda:0", f"found {name}")
    if torch.xpu.is_available():
        return torch.device("xpu:0"), Choice("device", "xpu:0", "found an Intel GPU")
    if torch.backends.mps.is_available():
        return torch.device("mps"), Choice("device", "mps", "found Apple's GPU")
    return torch.device("cpu"), Choice("device", "cpu", "no GPU was found")


def device_kind(device: torch.device) -> str:
    """Name the kind of a device, for speeds that were measured on it: a GPU by its model, a CPU by its threads."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    if device.type == "xpu":
        return f"xpu {torch.xpu.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu {platform.machine()} with {torch.get_num_threads()} threads"
    return str(device.type)


def choose_dtype(asked: str, device: torch.device) -> tuple[torch.dtype, Choice]:
    """Take the card's dtype, or with "auto" bfloat16 where the device computes it fast, else float32.

    float16 is never chosen on a CPU: measured 100 to 400 times slower than bfloat16 (docs/experiments.md).
    """
    if asked != "auto":
        return getattr(torch, asked), Choice("dtype", asked, "the model's card says so")
    if device.type != "cpu":
        return torch.bfloat16, Choice("dtype", "bfloat16", f"{device.type} computes it at full rate")
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16, Choice("dtype", "bfloat16", "this CPU has bfloat16 instructions")
    return torch.float32, Choice("dtype", "float32", "this CPU has no bfloat16 instructions")


def choose_threads(asked: int) -> Choice:
    """Set torch's CPU threads: as asked, or one per physical core (a second one on a core only adds traffic)."""
    if asked:
        torch.set_num_threads(asked)
        return Choice("threads", str(asked), "set by engine.threads")
    cores = psutil.cpu_count(logical=False) or 1
    usable = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else cores
    threads = max(1, min(cores, usable))
    torch.set_num_threads(threads)
    return Choice("threads", str(threads), "one per physical core that this process may use")


def load_model(
    spec: ModelSpec,
    location: str,
    device: torch.device,
    device_choice: Choice,
    parts: Mapping[str, str] = MappingProxyType({}),
) -> LoadedModel:
    """Load a model's pipelines. Safetensors only; classes are named by the card, never by the checkpoint's own code.

    Args:
        spec: the model.
        location: a folder in diffusers' format.
        device: where its weights go.
        device_choice: why there.
        parts: folders of the components that are not in `location`, by their names.

    Raises:
        ModelUnavailable: the files are not there, not complete, or not what the card says.
    """
    dtype, dtype_choice = choose_dtype(spec.dtype, device)
    classes = {mode: _pipeline_class(name) for mode, name in spec.pipelines.items()}
    first = "text" if "text" in classes else next(iter(classes))
    pipe = _from_pretrained(classes[first], spec, location, dtype, parts)
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    prepare(pipe)
    pipelines = {
        mode: pipe if mode == first else build_pipeline(cls, pipe.components, pipe.config)
        for mode, cls in classes.items()
    }
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(requires_grad=False)
    choices = (device_choice, dtype_choice, *_decode_choice(pipe))
    return LoadedModel(spec, pipelines, choices, Slots(pipelines, device))


def _decode_choice(pipe: Any) -> tuple[Choice, ...]:
    """Let an autoencoder of images decode one frame after the other: pipelines hand it all of them as one batch."""
    vae = getattr(pipe, "vae", None)
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
    pipeline_class: Any, spec: ModelSpec, location: str, dtype: torch.dtype, parts: Mapping[str, str]
) -> Any:
    try:
        return pipeline_class.from_pretrained(
            location,
            dtype=dtype,
            use_safetensors=True,
            revision=spec.revision,
            **_components_of_others(pipeline_class, dtype, parts),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        # diffusers and transformers raise any of these for a missing, cut or foreign file
        reason = str(error).strip().split("\n", 1)[0].replace(str(Path(location)), "the model's folder")
        raise ModelUnavailable(f"model `{spec.id}` could not be loaded: {reason[:300]}") from error


def _components_of_others(
    pipeline_class: Any, dtype: torch.dtype, parts: Mapping[str, str]
) -> dict[str, Any]:
    """Load what other repositories hold; the classes are those that the pipeline's constructor names."""
    kinds = pipeline_class._get_signature_types() if parts else {}
    return {
        name: kinds[name][0].from_pretrained(folder, dtype=dtype, use_safetensors=True)
        for name, folder in parts.items()
    }

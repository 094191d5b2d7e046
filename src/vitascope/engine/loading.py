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

from .device import choose_dtype
from .families.quirks import prepare
from .slots import Slots, build_pipeline


@dataclass(frozen=True)
class LoadedModel:
    """A model's pipelines by mode, over one set of weights."""

    spec: ModelSpec
    pipelines: dict[Mode, Any]
    choices: tuple[Choice, ...]
    slots: Slots


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

"""Slots: module skeletons of their own over shared weights, one per running request.

Pipelines keep state on their modules (feature caches, step caches, hooks). Two requests in one module would mix it, and two
copies of the weights would not fit: a slot has modules of its own whose tensors are the loaded model's.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch

from vitascope.domain.model_spec import Mode


def clone_module(module: torch.nn.Module) -> torch.nn.Module:
    """Copy the skeleton of a module; parameters and buffers stay the same tensors, persistent or not.

    Python's deepcopy is told that each tensor is already copied: as itself. That keeps what a rebuild from the
    configuration loses, such as attention processors and attributes set after loading.
    """
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, memo={id(tensor): tensor for tensor in tensors})


class Slot:
    """One request's place in a loaded model: pipelines by mode over cloned modules.

    Args:
        pipelines: the loaded model's pipelines by mode; they share their components.
    """

    def __init__(self, pipelines: dict[Mode, Any]) -> None:
        clones: dict[int, Any] = {}

        def own(component: Any) -> Any:
            if not isinstance(component, torch.nn.Module):
                return component
            if id(component) not in clones:
                clones[id(component)] = clone_module(component)
            return clones[id(component)]

        self.pipelines = {
            mode: build_pipeline(
                type(pipe), {name: own(c) for name, c in pipe.components.items()}, pipe.config
            )
            for mode, pipe in pipelines.items()
        }

    def modules(self) -> dict[str, torch.nn.Module]:
        """The slot's own modules by component name."""
        found: dict[str, torch.nn.Module] = {}
        for pipe in self.pipelines.values():
            found |= {name: c for name, c in pipe.components.items() if isinstance(c, torch.nn.Module)}
        return found


def build_pipeline(pipeline_class: Any, components: dict[str, Any], config: Any) -> Any:
    """Make a pipeline of the components that another pipeline has, for instance the image one of the text one.

    Args:
        pipeline_class: a class of diffusers' DiffusionPipeline.
        components: modules, tokenizers and schedulers by name.
        config: the other pipeline's configuration, for flags such as `expand_timesteps`.
    """
    arguments = {}
    for name, parameter in inspect.signature(pipeline_class).parameters.items():
        if name in components:
            arguments[name] = components[name]
        elif name in config:
            arguments[name] = config[name]
        elif parameter.default is inspect.Parameter.empty:
            arguments[name] = None  # an optional component, such as Wan's image encoder
    pipe = pipeline_class(**arguments)
    pipe.set_progress_bar_config(disable=True)
    _know_the_scale(pipe)
    return pipe


def _know_the_scale(pipe: Any) -> None:
    """Tell a pipeline how much smaller latents are than pixels, where the autoencoder says so itself.

    WanVideoToVideoPipeline (diffusers 0.42) counts the autoencoder's layers instead, which is wrong for Wan 2.2's.
    """
    scale = getattr(getattr(pipe, "vae", None), "config", {}).get("scale_factor_spatial")
    if scale and getattr(pipe, "vae_scale_factor_spatial", scale) != scale:
        pipe.vae_scale_factor_spatial = scale
        pipe.video_processor.register_to_config(vae_scale_factor=scale)

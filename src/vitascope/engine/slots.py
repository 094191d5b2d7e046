"""Slots: module skeletons of their own over shared weights, one per running request.

Pipelines keep state on their modules (feature caches, step caches, hooks). Two requests in one module would mix it, and two
copies of the weights would not fit: a slot has modules of its own whose tensors are the loaded model's.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Hashable, Iterator
from typing import Any
from weakref import ref

import torch
from diffusers import ConfigMixin

from vitascope.domain.model_spec import Mode

from .compiling import NOT_COMPILING, Compiling
from .generation import pause_at_blocks
from .offloading import Offloading
from .step_caches import Reuse
from .torch_state import TorchState


def clone_module(module: torch.nn.Module) -> torch.nn.Module:
    """Copy the skeleton of a module; parameters and buffers stay the same tensors, persistent or not.

    Python's deepcopy is told that each tensor is already copied: as itself. That keeps what a rebuild from the
    configuration loses, such as attention processors and attributes set after loading.
    """
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, memo={id(tensor): tensor for tensor in tensors})


REPLACED = frozenset({"scheduler", "guider"})
"""Components that keep state too, but of which each request gets one of its own."""


class Slot:
    """One request's place in a loaded model: pipelines by mode over cloned modules.

    Args:
        pipelines: the loaded model's pipelines by mode; they share their components.
        shared: what requests find out about the model, for all its slots.
    """

    def __init__(self, pipelines: dict[Mode, Any], shared: dict[str, Any] | None = None) -> None:
        clones: dict[int, Any] = {}

        def own(name: str, component: Any) -> Any:
            if name in REPLACED:
                return component
            if id(component) not in clones:
                clones[id(component)] = _own(component)
            return clones[id(component)]

        self.pipelines = {
            mode: build_pipeline(
                type(pipe), {name: own(name, c) for name, c in pipe.components.items()}, pipe.config
            )
            for mode, pipe in pipelines.items()
        }
        pause_at_blocks(self.modules())
        self.shared = {} if shared is None else shared
        #: Names of the components that the running request's adapters change.
        self.adapted: frozenset[str] = frozenset()
        #: What requests have changed of its modules for good; see `Slots.take`.
        self.arrangement: Hashable = None
        #: Compiles what computes its denoisers.
        self.compiling = NOT_COMPILING
        #: What the running request's step cache comes to.
        self.reuse = Reuse()
        #: The running request's part of what torch keeps per thread.
        self.state: TorchState | None = None

    @property
    def is_plain(self) -> bool:
        """Whether its modules are as they were loaded: no adapters change them."""
        return not self.adapted

    def modules(self) -> dict[str, torch.nn.Module]:
        """The slot's own modules by component name."""
        found: dict[str, torch.nn.Module] = {}
        for pipe in self.pipelines.values():
            found |= {name: c for name, c in pipe.components.items() if isinstance(c, torch.nn.Module)}
        return found


def _own(component: Any) -> Any:
    """Copy what keeps state from call to call: modules and further schedulers; tokenizers and processors do not."""
    if isinstance(component, torch.nn.Module):
        return clone_module(component)
    return copy.deepcopy(component) if isinstance(component, ConfigMixin) else component


class Slots:
    """The slots of one loaded model, made when they are first needed.

    Args:
        pipelines: the loaded model's, by mode. They never run, so that every slot begins without state.
        device: where they work.
        offloading: brings their weights there, where they wait elsewhere. Then only one slot may be lent at a time.
        compiling: of their blocks.
    """

    def __init__(
        self,
        pipelines: dict[Mode, Any],
        device: torch.device,
        offloading: Offloading | None = None,
        compiling: Compiling = NOT_COMPILING,
    ) -> None:
        self._pipelines = pipelines
        self._device = device
        self._offloading = offloading
        self._compiling = compiling
        self._idle: list[Slot] = []
        self._shared: dict[str, Any] = {}

    @contextlib.contextmanager
    def take(self, seed: int, arrangement: Hashable = None) -> Iterator[Slot]:
        """Lend a slot to a request with this seed. One whose request failed or was cancelled is not used again.

        A pipeline tidies its modules up (step caches, feature maps) only where its call ends; a new slot costs some tens of
        milliseconds and no weights (docs/experiments.md).

        Args:
            seed: of the request.
            arrangement: what the request changes of its modules for good. None is nothing.
        """
        slot = self._idle_one(arrangement) or self._make(arrangement)
        slot.state, slot.reuse = TorchState(seed, self._device), Reuse()
        with self._offloading.lent() if self._offloading is not None else contextlib.nullcontext():
            try:
                yield slot
            except BaseException:
                if self._offloading is not None:
                    self._offloading.forget()
                raise
        slot.state = None
        self._idle.append(slot)

    def _idle_one(self, arrangement: Hashable) -> Slot | None:
        for slot in reversed(self._idle):
            if slot.arrangement == arrangement:
                self._idle.remove(slot)
                return slot
        return None

    def _make(self, arrangement: Hashable) -> Slot:
        slot = Slot(self._pipelines, self._shared)
        slot.arrangement = arrangement
        if self._offloading is not None:
            self._offloading.arrange(slot.modules())
        slot.compiling = self._compiling
        this = ref(slot)  # weak: what a cancelled request leaves in a slot goes at once
        if arrangement is None:
            self._compiling.arrange(slot.modules(), lambda: (found := this()) is not None and found.is_plain)
        return slot


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

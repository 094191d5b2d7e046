"""The diffusers engine: one model loaded, a few generations open at a time, each in a slot of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import diffusers
import torch
import transformers

from vitascope.domain.choice import Choice
from vitascope.domain.errors import OutOfMemory
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.step import STAGE_STARTS, Step

from .contract import NO_INPUTS, Clip, Inputs, Locate
from .families import generic
from .memory import LoadedModel, choose_device, choose_threads, device_kind, load_model
from .places import Places
from .slots import Slot
from .torch_state import TorchState

if TYPE_CHECKING:
    pass

_ORDER = list(STAGE_STARTS)


class DiffusersEngine:
    """Drives real checkpoints.

    Args:
        locate: tells where a model's weights are.
        device: torch device, or "auto".
        threads: CPU threads of torch; 0 is one per physical core.
        slots: generations that may be open at the same time.
    """

    def __init__(self, locate: Locate, *, device: str = "auto", threads: int = 0, slots: int = 4) -> None:
        diffusers.utils.logging.set_verbosity_error()
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        diffusers.utils.logging.disable_progress_bar()
        self._locate = locate
        self._device, device_choice = choose_device(device)
        self._choices = (device_choice, choose_threads(threads))
        self._places = Places(slots)
        self._loaded: LoadedModel | None = None

    @property
    def runs_on_cpu(self) -> bool:
        return bool(self._device.type == "cpu")

    @property
    def device(self) -> str:
        return device_kind(self._device)

    @property
    def loaded_models(self) -> tuple[str, ...]:
        return () if self._loaded is None else (self._loaded.spec.id,)

    def capacity(self, spec: ModelSpec) -> int:
        return self._places.free(spec)

    def generate(
        self, plan: Plan, spec: ModelSpec, inputs: Inputs = NO_INPUTS
    ) -> Generator[Step | Clip, None, None]:
        with self._places.take(spec), _memory_errors(spec):
            yield Step("load")
            if spec.second is not None and plan.upscale is not None:
                self._locate(spec.second)  # one that is not there shall not be missed after half of the work
            self._load(spec)
            yield Step("load", 1)
            clip = yield from _rising(self._passes(plan, spec, inputs))
        yield clip

    def _passes(self, plan: Plan, spec: ModelSpec, inputs: Inputs) -> Generator[Step | None, None, Clip]:
        """Run one pass or two; the second in the first one's slot, unless another checkpoint makes it."""
        larger = NO_INPUTS if inputs.larger is None else inputs.larger
        model = self._load(spec)
        with model.slots.take(plan.seed) as slot:
            frames = yield from generic.generate(plan, spec, slot, inputs)
            choices = (*model.choices, *self._choices[1:], *_scheduler_choice(plan, slot))
            choices += generic.prompt_choice(plan, spec, slot)
            if plan.upscale is not None and plan.upscale.model is None:
                frames = yield from generic.upscale(plan, spec, slot, larger, frames)
        if spec.second is not None and plan.upscale is not None and plan.upscale.model is not None:
            del model, slot  # its weights may go, if another generation does not hold them
            yield None
            with self._load(spec.second).slots.take(plan.seed) as slot:
                frames = yield from generic.upscale(plan, spec.second, slot, larger, frames)
        return Clip(frames, choices)

    def load(self, spec: ModelSpec) -> None:
        with self._places.take(spec), _memory_errors(spec):
            self._load(spec)

    def unload(self, model_id: str) -> bool:
        if model_id not in self.loaded_models:
            return False
        self.close()
        return True

    def clear_caches(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        self._places.require_idle("unload")
        self._unload()

    def _load(self, spec: ModelSpec) -> LoadedModel:
        """Load the model if it is not there. All open generations are of it, so that none loses its weights."""
        if self._loaded is None or self._loaded.spec != spec:
            self._unload()  # before the next one comes: two large models rarely fit
            location = self._locate(spec)
            parts = {name: self._locate(part) for name, part in spec.parts.items()}
            with TorchState(0, self._device).entered():  # modules draw numbers where their weights then come
                self._loaded = load_model(spec, location, self._device, self._choices[0], parts)
        return self._loaded

    def _unload(self) -> None:
        self._loaded = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _rising(steps: Generator[Step | None, None, Clip]) -> Generator[Step, None, Clip]:
    """Pass pauses on, but never let the stage fall back.

    The autoencoder also runs before denoising (to read a first frame) and between windows, and every window encodes the
    text again: such a pause repeats the step that was reached, so that cancelling works there too.
    """
    reached = Step("encode_prompt")
    with contextlib.closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as finished:
                clip: Clip = finished.value
                return clip
            if step is not None and _is_ahead(step, reached):
                reached = dataclasses.replace(step, preview=None)  # told once
                yield step
            else:
                yield reached


def _is_ahead(step: Step, reached: Step) -> bool:
    is_early = step.stage == "decode_latents" and reached.index < reached.of
    return not is_early and _ORDER.index(step.stage) >= _ORDER.index(reached.stage)


def _scheduler_choice(plan: Plan, slot: Slot) -> tuple[Choice, ...]:
    if plan.scheduler is not None:
        return ()
    name = type(slot.pipelines[plan.mode].scheduler).__name__
    return (Choice("scheduler", name, "the checkpoint's own"),)


@contextlib.contextmanager
def _memory_errors(spec: ModelSpec) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0
        message = f"the device ran out of memory with model `{spec.id}` (peak {peak:.1f} GiB)"
        raise OutOfMemory(message, hint="a smaller size or fewer frames need less") from error
    except MemoryError as error:
        message = f"this machine ran out of memory with model `{spec.id}`"
        raise OutOfMemory(message, hint="a smaller size or fewer frames need less") from error

"""The diffusers engine: one model loaded, one generation at a time, through a slot."""

from __future__ import annotations

import contextlib
import gc
import logging
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
from .generation import pause_at_blocks
from .memory import LoadedModel, choose_device, choose_threads, device_kind, load_model
from .slots import Slot

if TYPE_CHECKING:
    from .contract import Frames

logger = logging.getLogger(__name__)


class DiffusersEngine:
    """Drives real checkpoints.

    Making one turns gradients off for the calling thread: greenlets share torch's gradient mode, and a pipeline that stands
    still inside its own `no_grad` would leave it off for the others anyway.
    """

    def __init__(self, locate: Locate, *, device: str = "auto", threads: int = 0) -> None:
        torch.set_grad_enabled(mode=False)
        diffusers.utils.logging.set_verbosity_error()
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        diffusers.utils.logging.disable_progress_bar()
        self._locate = locate
        self._device, device_choice = choose_device(device)
        self._choices = (device_choice, choose_threads(threads))
        self._loaded: LoadedModel | None = None
        self._slot: Slot | None = None

    @property
    def runs_on_cpu(self) -> bool:
        return bool(self._device.type == "cpu")

    @property
    def device(self) -> str:
        return device_kind(self._device)

    @property
    def loaded_models(self) -> tuple[str, ...]:
        return () if self._loaded is None else (self._loaded.spec.id,)

    def generate(
        self, plan: Plan, spec: ModelSpec, inputs: Inputs = NO_INPUTS
    ) -> Generator[Step | Clip, None, None]:
        with _memory_errors(spec):
            yield Step("load")
            slot = self._slot_of(spec)
            yield Step("load", 1)
            frames = yield from _rising(generic.generate(plan, spec, slot, inputs))
        assert self._loaded is not None
        choices = (*self._loaded.choices, *self._choices[1:], *_scheduler_choice(plan, slot))
        yield Clip(frames, choices + generic.prompt_choice(plan, spec, slot))

    def load(self, spec: ModelSpec) -> None:
        with _memory_errors(spec):
            self._slot_of(spec)

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
        self._loaded = self._slot = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _slot_of(self, spec: ModelSpec) -> Slot:
        if self._loaded is None or self._slot is None or self._loaded.spec != spec:
            self.close()  # before the next one comes: two large models rarely fit
            self._loaded = load_model(spec, self._locate(spec), self._device, self._choices[0])
            self._slot = Slot(self._loaded.pipelines)
            pause_at_blocks(self._slot.modules())
        return self._slot


def _rising(steps: Generator[Step, None, Frames]) -> Generator[Step, None, Frames]:
    """Pass pauses on, but never let the stage fall back.

    The autoencoder also runs before denoising (to read a first frame) and between windows, and every window encodes the
    text again: such a pause repeats the step that was reached, so that cancelling works there too.
    """
    order = list(STAGE_STARTS)
    reached = Step("encode_prompt")
    with contextlib.closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as finished:
                frames: Frames = finished.value
                return frames
            is_early = step.stage == "decode_latents" and reached.index < reached.of
            if not is_early and order.index(step.stage) >= order.index(reached.stage):
                reached = step
            yield reached


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

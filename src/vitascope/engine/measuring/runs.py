"""Single runs with their times: of plain diffusers, of the engine, and of several generations at a time in the engine."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitascope.domain.choice import Choice
from vitascope.domain.errors import ModelUnavailable
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.step import Step
from vitascope.engine.contract import Clip, Engine, Sharing
from vitascope.engine.meter import Meter

from .arithmetic import Counted, synchronize

if TYPE_CHECKING:
    from vitascope.engine.contract import Frames

Report = Callable[[int, int], None]
"""Told how many steps of how many are done."""


@dataclass(slots=True)
class Run:
    """A video that was made, and what it took."""

    #: Of each denoising step.
    step_seconds: list[float]
    #: Text, denoising and decoding.
    stage_seconds: dict[str, float]
    #: Most memory in use: of the GPU, without the weights of what it is compared with, else of this process.
    peak_bytes: int
    #: Of all cores.
    processor_seconds: float
    frames: Frames
    choices: tuple[Choice, ...] = ()

    @property
    def seconds(self) -> float:
        return sum(self.stage_seconds.values())


def weights_on(device: torch.device, pipelines: Iterable[Any]) -> int:
    """Count the bytes that pipelines' weights take of a device with memory of its own: whatever else is measured there has them beside.

    On a CPU it is 0: most are mapped files, and nobody can tell whose pages of them are in memory.
    """
    parts = {id(part): part for pipe in pipelines for part in pipe.components.values()}
    modules = [part for part in parts.values() if isinstance(part, torch.nn.Module)]
    tensors = {id(each): each for part in modules for each in (*part.parameters(), *part.buffers())}
    is_there = device.type != "cpu"
    return sum(each.nbytes for each in tensors.values() if is_there and each.device.type == device.type)


@dataclass(slots=True)
class Plain:
    """A pipeline of diffusers as its documentation runs it, on the same weights and in the same dtype."""

    pipe: Any
    device: torch.device
    #: Of one denoising step, all its forwards.
    step_flops: float | None = None

    @classmethod
    def load(cls, spec: ModelSpec, location: str, device: torch.device, dtype: torch.dtype) -> Plain:
        """Load it.

        Raises:
            ModelUnavailable: the model is not one checkpoint that makes videos from text.
        """
        import diffusers

        name = spec.pipelines.get("text")
        if name is None or spec.parts:
            reason = (
                "it has no text-to-video pipeline"
                if name is None
                else "its parts come from several checkpoints"
            )
            raise ModelUnavailable(f"plain diffusers cannot load `{spec.id}`: {reason}")
        pipe = getattr(diffusers, name).from_pretrained(location, dtype=dtype, use_safetensors=True)
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe.to(device), device)

    def run(self, plan: Plan, spec: ModelSpec, meter: Meter, report: Report) -> Run:
        """Make the first window of a plan; the first run counts its operations too."""
        modules = [
            module
            for name, module in self.pipe.components.items()
            if name.startswith(("transformer", "unet")) and module is not None
        ]
        meter.forget_peak()
        counted, steps = Counted(), _Steps(self.device, plan.steps_per_window, report)
        own_step = self.pipe.scheduler.step

        def step(*args: Any, **arguments: Any) -> Any:
            result = own_step(*args, **arguments)
            steps.note(steps.num_done + 1)
            return result

        self.pipe.scheduler.step = step
        try:
            with counted.of(modules, with_flops=self.step_flops is None):
                output = self.pipe(**_arguments(self.pipe, plan, spec))
                synchronize(self.device)
        finally:
            del self.pipe.scheduler.step
        if counted.flops is not None:
            self.step_flops = counted.flops * counted.num_forwards / max(1, steps.num_done)
        frames = np.round(np.asarray(output.frames[0]) * 255).clip(0, 255).astype(np.uint8)
        return steps.run(meter.peak_bytes(), frames)


@dataclass(slots=True)
class _Steps:
    """When steps were done."""

    device: torch.device
    total: int
    report: Report
    at: list[float] = field(default_factory=list)
    num_done: int = 0
    begun: float = field(default_factory=time.perf_counter)
    processor_begun: float = field(default_factory=time.process_time)

    def note(self, num_done: int) -> None:
        if num_done <= self.num_done:
            return
        synchronize(self.device)
        self.at.append(time.perf_counter())
        self.num_done = num_done
        self.report(num_done, self.total)

    def run(self, peak_bytes: int, frames: Frames, choices: tuple[Choice, ...] = ()) -> Run:
        """Take a run apart. Nobody says when its first step begins: it is taken to be as long as the others."""
        ended, processor = time.perf_counter(), time.process_time() - self.processor_begun
        begun = self.begun
        seconds = [float(each) for each in np.diff(self.at)]
        first = float(np.median(seconds)) if seconds else self.at[0] - begun
        first = min(first, self.at[0] - begun)
        stages = {
            "encode_prompt": self.at[0] - begun - first,
            "denoise": self.at[-1] - self.at[0] + first,
            "decode_latents": ended - self.at[-1],
        }
        return Run(seconds or [first], stages, peak_bytes, processor, frames, choices)


def _arguments(pipe: Any, plan: Plan, spec: ModelSpec) -> dict[str, Any]:
    import inspect

    known = inspect.signature(type(pipe).__call__).parameters
    window = plan.windows[0]
    asked = {
        "prompt": plan.prompt,
        "negative_prompt": plan.negative_prompt,
        "height": plan.native_height,
        "width": plan.native_width,
        "num_frames": window.num_frames,
        "num_inference_steps": plan.num_inference_steps,
        "guidance_scale": plan.guidance_scale,
        "generator": torch.Generator("cpu").manual_seed(plan.seed),
        "output_type": "np",
        **spec.call,
    }
    return {name: value for name, value in asked.items() if name in known}


def run_alone(
    engine: Engine, plan: Plan, spec: ModelSpec, device: torch.device, meter: Meter, report: Report
) -> Run:
    """Make a plan's video with the engine, whose caches are empty."""
    engine.clear_caches()
    meter.forget_peak()
    steps = _Steps(device, plan.total_steps, report)
    for event in engine.generate(plan, spec):
        if isinstance(event, Clip):
            synchronize(device)
            return steps.run(meter.peak_bytes(), event.frames, event.choices)
        if event.stage == "denoise":
            steps.note(event.index)
    raise AssertionError("a generation ends with its clip")


@dataclass(slots=True, eq=False)
class _Open:
    generation: Generator[Step | Clip, None, None]
    sharing: Sharing
    num_steps: int = 0
    #: Whether its model is there: only then the engine can tell what room it leaves.
    is_begun: bool = False


def run_together(
    engine: Engine, plans: Sequence[Plan], spec: ModelSpec, device: torch.device, report: Report
) -> tuple[float, float]:
    """Make several videos at a time that may share forwards; returns the seconds for all of them, and the processor's.

    Those for which the engine has no room wait, as at a worker: weights that come and go work for one at a time.
    """
    engine.clear_caches()
    total = sum(plan.total_steps for plan in plans)
    begun, processor_begun = time.perf_counter(), time.process_time()
    waiting = deque(plans)
    running: list[_Open] = []
    ended_steps = 0
    with contextlib.ExitStack() as held:
        while waiting or running:
            if waiting and all(each.is_begun for each in running) and (not running or engine.capacity(spec)):
                sharing = Sharing(is_allowed=True)
                generation = engine.generate(waiting.popleft(), spec, sharing=sharing)
                running.append(_Open(held.enter_context(contextlib.closing(generation)), sharing))
            this = min(running, key=_turn)
            event = next(this.generation)
            if isinstance(event, Clip):
                ended_steps += this.num_steps
                running.remove(this)
                continue
            this.is_begun = this.is_begun or event.stage != "load"
            if event.stage == "denoise" and event.index > this.num_steps:
                this.num_steps = event.index
                report(ended_steps + sum(each.num_steps for each in running), total)
        synchronize(device)
        return time.perf_counter() - begun, time.process_time() - processor_begun


def _turn(this: _Open) -> tuple[bool, bool, int]:
    """Who was answered costs nothing and comes to stand before its next forward; then who is behind, so that all stand there."""
    return not this.sharing.is_answered, this.is_begun, this.num_steps


def of_other_seed(plan: Plan, number: int) -> Plan:
    """The same plan as another request would have it: its seed was drawn."""
    return replace(plan, seed=plan.seed + number, is_seed_drawn=True)

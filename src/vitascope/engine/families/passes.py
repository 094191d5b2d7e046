"""One pass of a pipeline: from noise, or from given latents at one of the later steps, to frames.

A window of a plan is one pass, or several: what differs from pass to pass stands in `Pass`, and what all have in common in
the plan.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
import torch

from vitascope.domain.errors import InvalidOutput
from vitascope.domain.model_spec import ModelSpec, SchedulerFamily
from vitascope.domain.plan import Plan
from vitascope.domain.step import Step
from vitascope.engine.courses import in_rounds, place_of
from vitascope.engine.generation import pause, run_in_steps
from vitascope.engine.previews import Previews
from vitascope.engine.schedulers import family_of, make_scheduler, on_each_step
from vitascope.engine.slots import Slot
from vitascope.engine.step_caches import caching

from .clip import without_last_layers
from .conditions import Start, arguments_of
from .improved_sampling import FreeInit
from .middle import beginning_in
from .quirks import no_picture

if TYPE_CHECKING:
    from vitascope.engine.contract import Frames

ALSO_CALLED = {
    "video_length": "num_frames",  # Latte
    "frames": "num_frames",  # Sana-Video
    "frame_rate": "fps",  # LTX
    "max_guidance_scale": "guidance_scale",  # Stable Video Diffusion: it rises to this over the frames
}
"""Names that single pipelines have for what is called otherwise in all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one call of a pipeline makes."""

    start: Start
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    #: Of a given video that is changed.
    strength: float | None
    scheduler: str | None
    flow_shift: float | None
    #: Steps that run, and how many of the plan's ran before them.
    num_steps: int
    steps_before: int
    #: Frames that it goes on with, of `shape`: its steps are the last ones, over these as they are with noise.
    base: Frames | None = None
    #: How often all its steps run, each time from the low frequencies of what the time before made.
    rounds: int = 1
    #: Draws the high frequencies, of the rounds after the first.
    round_noise: torch.Generator | None = None

    @classmethod
    def of_window(
        cls, plan: Plan, index: int, start: Start, round_noise: torch.Generator | None = None
    ) -> Pass:
        """Make the pass of the plan's window with this index, at its native size."""
        improved = plan.improved_sampling
        return cls(
            start=start,
            height=plan.native_height,
            width=plan.native_width,
            num_inference_steps=plan.num_inference_steps,
            guidance_scale=plan.guidance_scale,
            strength=plan.strength,
            scheduler=plan.scheduler,
            flow_shift=plan.flow_shift,
            num_steps=plan.steps_per_window,
            steps_before=index * plan.steps_per_window,
            rounds=1 if improved is None else improved.iterations or 1,
            round_noise=round_noise,
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of its frames."""
        return self.start.window.num_frames, self.height, self.width, 3


def run_pass(
    this: Pass, plan: Plan, spec: ModelSpec, slot: Slot, generator: torch.Generator
) -> Generator[Step | None, None, Frames]:
    """Run one pass in the slot's pipeline for its mode.

    Args:
        this: the pass.
        plan: which it is part of.
        spec: of the model in the slot.
        slot: of the request.
        generator: draws the pass's noise, after that of the passes before.

    Returns:
        uint8 frames of `this.shape`

    Raises:
        InvalidOutput: what came out is not what was planned, or no picture.
    """
    pipe = slot.pipelines[this.start.window.mode]

    def after_step(done: int, total: int, latents: torch.Tensor) -> None:
        note_step(*place_of(scheduler(), done, total))
        if done >= total and not latents.isfinite().all():
            raise no_picture()  # decoding would take long, and some autoencoders turn it into black
        done_steps = (
            this.num_steps * done // total
        )  # only a step that is done counts, and some take two calls
        index = this.steps_before + done_steps
        pause(Step("denoise", index, plan.total_steps, previews.after(done_steps)))

    arguments = _arguments(pipe, this, plan, spec, generator)
    skipped = (
        plan.clip_skip if spec.clip_layers > (plan.clip_skip or 0) else None
    )  # another checkpoint may have none
    clip_skip = without_last_layers(getattr(pipe, "text_encoder", None), skipped)
    with (
        _own_state(pipe, this) as family,
        clip_skip,
        _beginning(pipe, this, family, generator),
        contextlib.closing(Previews(slot, pipe, plan, this.shape[:3])) as previews,
        caching(pipe, plan.step_cache, slot.reuse) as note_step,
    ):
        scheduler = ref(pipe.scheduler)  # weak: its class keeps what is called after its steps
        on_each_step(pipe.scheduler, after_step, generator)
        output = yield from run_in_steps(lambda: pipe(**arguments), slot.state)
    frames = _to_uint8(output.frames[0])
    _check_shape(frames, this.shape, spec)
    return frames


def _beginning(
    pipe: Any, this: Pass, family: SchedulerFamily, generator: torch.Generator
) -> AbstractContextManager[None]:
    if this.base is None or this.start.video is not None:
        return contextlib.nullcontext()
    return beginning_in(pipe, this.base, this.num_inference_steps - this.num_steps, family, generator)


@contextlib.contextmanager
def _own_state(pipe: Any, this: Pass) -> Iterator[SchedulerFamily]:
    """Lend the pipeline a scheduler, and a guider where it has one, for this pass only: both keep their position."""
    checkpoint = {name: getattr(pipe, name) for name in ("scheduler", "guider") if hasattr(pipe, name)}
    pipe.scheduler = make_scheduler(pipe.scheduler, this.scheduler, this.flow_shift)
    if this.rounds > 1:
        assert this.round_noise is not None
        in_rounds(pipe.scheduler, FreeInit(pipe, this.shape[:3], this.rounds, this.round_noise))
    if "guider" in checkpoint:
        pipe.guider = pipe.guider.new(guidance_scale=this.guidance_scale)
    try:
        yield family_of(checkpoint["scheduler"])
    finally:
        for name, component in checkpoint.items():
            setattr(pipe, name, component)


def _arguments(
    pipe: Any, this: Pass, plan: Plan, spec: ModelSpec, generator: torch.Generator
) -> dict[str, Any]:
    """Everything that the pass, the plan and the card say, as far as the pipeline's call has a parameter for it."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    arguments: dict[str, Any] = {
        "prompt": this.start.window.prompt or plan.prompt,
        "negative_prompt": plan.negative_prompt,
        "height": this.height,
        "width": this.width,
        "num_frames": this.start.window.num_frames,
        "num_inference_steps": this.num_inference_steps,
        "guidance_scale": this.guidance_scale,
        "generator": generator,
        "output_type": "np",
        "fps": plan.native_fps,
    }
    arguments |= {other: arguments[name] for other, name in ALSO_CALLED.items()}
    arguments |= spec.call
    arguments |= arguments_of(this.start, parameters, this.strength)
    return {name: value for name, value in arguments.items() if name in parameters}


def _to_uint8(frames: np.ndarray[Any, Any]) -> Frames:
    """Turn float frames in [0, 1] into uint8.

    Raises:
        InvalidOutput: there are numbers that are no brightness.
    """
    if not np.isfinite(frames).all():
        raise no_picture()
    return np.round(frames * 255).clip(0, 255).astype(np.uint8)


def _check_shape(frames: Frames, planned: tuple[int, ...], spec: ModelSpec) -> None:
    """Some pipelines round what they are asked for, or decide on their own: the card must say what they then make.

    Raises:
        InvalidOutput: the frames are not what was planned.
    """
    if frames.shape != planned:
        made, said = (f"{n} frames of {w}x{h}" for n, h, w, _ in (frames.shape, planned))
        message = f"model `{spec.id}` made {made} instead of {said}"
        raise InvalidOutput(message, hint="its card gives sizes or frame counts that the model does not make")

"""The family that drives any diffusers video pipeline unchanged."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitascope.domain.choice import Choice
from vitascope.domain.errors import InvalidOutput
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.step import Step
from vitascope.engine.contract import Inputs
from vitascope.engine.generation import pause, run_in_steps
from vitascope.engine.previews import Previews
from vitascope.engine.schedulers import make_scheduler, on_each_step
from vitascope.engine.slots import Slot

from .clip import without_last_layers
from .conditions import Start, arguments_of, start_of
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


def generate(plan: Plan, spec: ModelSpec, slot: Slot, inputs: Inputs) -> Generator[Step | None, None, Frames]:
    """Run the plan's windows one after the other; a window that continues starts from frames of the one before.

    Returns:
        uint8 (native_num_frames, native_height, native_width, 3), without what was there before
    """
    # Noise is drawn on the CPU, so that a seed means the same on every device; the windows share one stream of it.
    generator = torch.Generator("cpu").manual_seed(plan.seed)
    done = inputs.before
    num_given = 0 if done is None else len(done)
    for index, window in enumerate(plan.windows):
        at = 0 if done is None else len(done) - window.overlap
        start = start_of(window, inputs, done, at)
        frames = yield from _run_window(plan, spec, slot, index, start, generator)
        done = frames if done is None else _joined(done, frames, window.overlap)
    assert done is not None, "a plan has at least one window"
    return done[num_given:]


def _joined(before: Frames, after: Frames, overlap: int) -> Frames:
    """Put windows together; where they overlap, one fades into the other. A single shared frame stays the earlier one's."""
    if overlap <= 1:
        return np.concatenate([before, after[overlap:]])
    weight = (np.arange(1, overlap + 1, dtype=np.float32) / (overlap + 1))[:, None, None, None]
    shared = before[-overlap:] * (1 - weight) + after[:overlap] * weight
    return np.concatenate([before[:-overlap], np.round(shared).astype(np.uint8), after[overlap:]])


def prompt_choice(plan: Plan, spec: ModelSpec, slot: Slot) -> tuple[Choice, ...]:
    """Say so if the text encoder read only the beginning of the prompt: pipelines cut it without a word."""
    pipe = slot.pipelines[plan.mode]
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is None:
        return ()
    call = inspect.signature(type(pipe).__call__).parameters
    default = call["max_sequence_length"].default if "max_sequence_length" in call else None
    limit = spec.call.get("max_sequence_length", default) or tokenizer.model_max_length
    prompts = {window.prompt or plan.prompt for window in plan.windows}
    num_tokens = max(len(tokenizer(prompt).input_ids) for prompt in prompts)
    if num_tokens <= int(limit):
        return ()
    reason = f"{'a' if len(prompts) > 1 else 'the'} prompt has {num_tokens} tokens, and the model's text encoder reads {limit}: the rest had no effect"
    return (Choice("prompt", f"first {limit} tokens", reason),)


def _run_window(
    plan: Plan, spec: ModelSpec, slot: Slot, index: int, start: Start, generator: torch.Generator
) -> Generator[Step | None, None, Frames]:
    pipe = slot.pipelines[start.window.mode]
    steps = plan.steps_per_window

    def after_step(done: int, total: int, latents: torch.Tensor) -> None:
        if done >= total and not latents.isfinite().all():
            raise no_picture()  # decoding would take long, and some autoencoders turn it into black
        done_steps = steps * done // total  # only a step that is done counts, and some take two calls
        pause(Step("denoise", index * steps + done_steps, plan.total_steps, previews.after(done_steps)))

    arguments = _arguments(pipe, plan, spec, start, generator)
    clip_skip = without_last_layers(getattr(pipe, "text_encoder", None), plan.clip_skip)
    with (
        _own_state(pipe, plan),
        clip_skip,
        contextlib.closing(Previews(slot, pipe, plan, start.window)) as previews,
    ):
        on_each_step(pipe.scheduler, after_step, generator)
        output = yield from run_in_steps(lambda: pipe(**arguments), slot.state)
    frames = _to_uint8(output.frames[0])
    _check_shape(frames, (start.window.num_frames, plan.native_height, plan.native_width, 3), spec)
    return frames


@contextlib.contextmanager
def _own_state(pipe: Any, plan: Plan) -> Iterator[None]:
    """Lend the pipeline a scheduler, and a guider where it has one, for this request only: both keep their position."""
    checkpoint = {name: getattr(pipe, name) for name in ("scheduler", "guider") if hasattr(pipe, name)}
    pipe.scheduler = make_scheduler(pipe.scheduler, plan.scheduler, plan.flow_shift)
    if "guider" in checkpoint:
        pipe.guider = pipe.guider.new(guidance_scale=plan.guidance_scale)
    try:
        yield
    finally:
        for name, component in checkpoint.items():
            setattr(pipe, name, component)


def _arguments(
    pipe: Any, plan: Plan, spec: ModelSpec, start: Start, generator: torch.Generator
) -> dict[str, Any]:
    """Everything that the plan and the card say, as far as the pipeline's call has a parameter for it."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    arguments: dict[str, Any] = {
        "prompt": start.window.prompt or plan.prompt,
        "negative_prompt": plan.negative_prompt,
        "height": plan.native_height,
        "width": plan.native_width,
        "num_frames": start.window.num_frames,
        "num_inference_steps": plan.num_inference_steps,
        "guidance_scale": plan.guidance_scale,
        "generator": generator,
        "output_type": "np",
        "fps": plan.native_fps,
    }
    arguments |= {other: arguments[name] for other, name in ALSO_CALLED.items()}
    arguments |= spec.call
    arguments |= arguments_of(start, parameters, plan.strength)
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

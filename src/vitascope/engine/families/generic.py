"""The family that drives any diffusers video pipeline unchanged."""

from __future__ import annotations

import inspect
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from vitascope.domain.choice import Choice
from vitascope.domain.errors import InvalidOutput
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.step import Step
from vitascope.domain.windows import Window
from vitascope.engine.generation import pause, run_in_steps
from vitascope.engine.previews import Previews
from vitascope.engine.schedulers import make_scheduler, on_each_step
from vitascope.engine.slots import Slot

if TYPE_CHECKING:
    from vitascope.engine.contract import Frames


def generate(
    plan: Plan, spec: ModelSpec, slot: Slot, image: Frames | None
) -> Generator[Step | None, None, Frames]:
    """Run the plan's windows one after the other; each starts from the last frame of the one before.

    Returns:
        uint8 (native_num_frames, native_height, native_width, 3)
    """
    # Noise is drawn on the CPU, so that a seed means the same on every device; the windows share one stream of it.
    generator = torch.Generator("cpu").manual_seed(plan.seed)
    parts: list[Frames] = []
    for index, window in enumerate(plan.windows):
        start = parts[-1][-window.overlap] if window.continues else image
        frames = yield from _run_window(plan, spec, slot, index, window, start, generator)
        parts.append(frames[window.overlap :])
    return np.concatenate(parts)


def prompt_choice(plan: Plan, spec: ModelSpec, slot: Slot) -> tuple[Choice, ...]:
    """Say so if the text encoder read only the beginning of the prompt: pipelines cut it without a word."""
    pipe = slot.pipelines[plan.mode]
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is None:
        return ()
    call = inspect.signature(type(pipe).__call__).parameters
    default = call["max_sequence_length"].default if "max_sequence_length" in call else None
    limit = spec.call.get("max_sequence_length", default) or tokenizer.model_max_length
    num_tokens = len(tokenizer(plan.prompt).input_ids)
    if num_tokens <= int(limit):
        return ()
    reason = f"the prompt has {num_tokens} tokens, and the model's text encoder reads {limit}: the rest had no effect"
    return (Choice("prompt", f"first {limit} tokens", reason),)


def _run_window(
    plan: Plan,
    spec: ModelSpec,
    slot: Slot,
    index: int,
    window: Window,
    start: Frames | None,
    generator: torch.Generator,
) -> Generator[Step | None, None, Frames]:
    pipe = slot.pipelines["text" if start is None else "image"]
    checkpoint_scheduler = pipe.scheduler
    pipe.scheduler = make_scheduler(checkpoint_scheduler, plan.scheduler)
    done_before = index * plan.num_inference_steps
    previews = Previews(slot, pipe, plan, window)

    def after_step(done: int, total: int) -> None:
        steps = round(plan.num_inference_steps * done / total)
        pause(Step("denoise", done_before + steps, plan.total_steps, previews.after(steps)))

    on_each_step(pipe.scheduler, after_step)
    arguments = _arguments(pipe, plan, spec, window, start, generator)
    try:
        output = yield from run_in_steps(lambda: pipe(**arguments), slot.state)
    finally:
        pipe.scheduler = checkpoint_scheduler
    return _to_uint8(output.frames[0])


def _arguments(
    pipe: Any, plan: Plan, spec: ModelSpec, window: Window, start: Frames | None, generator: torch.Generator
) -> dict[str, Any]:
    """Everything that the plan and the card say, as far as the pipeline's call has a parameter for it."""
    arguments: dict[str, Any] = {
        "prompt": plan.prompt,
        "negative_prompt": plan.negative_prompt,
        "height": plan.native_height,
        "width": plan.native_width,
        "num_frames": window.num_frames,
        "num_inference_steps": plan.num_inference_steps,
        "guidance_scale": plan.guidance_scale,
        "generator": generator,
        "output_type": "np",
        "frame_rate": plan.native_fps,
        **spec.call,
    }
    if start is not None:
        arguments["image"] = Image.fromarray(start)
    parameters = inspect.signature(type(pipe).__call__).parameters
    return {name: value for name, value in arguments.items() if name in parameters}


def _to_uint8(frames: np.ndarray[Any, Any]) -> Frames:
    """Turn float frames in [0, 1] into uint8.

    Raises:
        InvalidOutput: there are numbers that are no brightness.
    """
    if not np.isfinite(frames).all():
        message = "the model gave numbers that are not a picture"
        raise InvalidOutput(message, hint="another seed, a lower guidance_scale or dtype float32 may help")
    return np.round(frames * 255).clip(0, 255).astype(np.uint8)

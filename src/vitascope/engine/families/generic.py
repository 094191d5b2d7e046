"""The family that drives any diffusers video pipeline unchanged."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from vitascope.domain.choice import Choice
from vitascope.domain.model_spec import ModelSpec, Size
from vitascope.domain.plan import Plan
from vitascope.domain.step import Step
from vitascope.engine.contract import Inputs
from vitascope.engine.slots import Slot

from .conditions import held, start_of
from .passes import Pass, run_pass

if TYPE_CHECKING:
    from vitascope.engine.contract import Frames


def generate(plan: Plan, spec: ModelSpec, slot: Slot, inputs: Inputs) -> Generator[Step | None, None, Frames]:
    """Run the plan's windows one after the other; a window that continues starts from frames of the one before.

    Returns:
        uint8 (native_num_frames, native_height, native_width, 3), without what was there before
    """
    # Noise is drawn on the CPU, so that a seed means the same on every device; the windows share one stream of it.
    generator = torch.Generator("cpu").manual_seed(plan.seed)
    improved = plan.improved_sampling
    round_noise = None if improved is None else torch.Generator("cpu").manual_seed(improved.seed or 0)
    done = inputs.before
    num_given = 0 if done is None else len(done)
    for index, window in enumerate(plan.windows):
        at = 0 if done is None else len(done) - window.overlap
        start = start_of(window, inputs, done, at)
        this = Pass.of_window(plan, index, start, round_noise)
        frames = yield from run_pass(this, plan, spec, slot, generator)
        done = frames if done is None else _joined(done, frames, window.overlap)
        done = done[: len(done) - window.surplus]
    assert done is not None, "a plan has at least one window"
    return done[num_given:]


def upscale(
    plan: Plan, spec: ModelSpec, slot: Slot, inputs: Inputs, first: Frames
) -> Generator[Step | None, None, Frames]:
    """Run the second pass: the same windows over the first result, resized.

    Args:
        plan: with a second pass.
        spec: of the model that makes it, which is in the slot.
        slot: of the request.
        inputs: what it starts from, at its size.
        first: of the first pass.

    Returns:
        uint8 (native_num_frames, *plan.made, 3), without what was there before
    """
    second = plan.second
    assert second is not None
    generator = torch.Generator("cpu").manual_seed(_second_seed(plan.seed))
    done = inputs.before
    num_given = 0 if done is None else len(done)
    base = enlarged(first, plan.shown, plan.made)
    if done is not None:
        base = np.concatenate([done, base])
    for index, window in enumerate(second.windows):
        at = 0 if done is None else len(done) - window.overlap
        own = base[: at + window.num_frames - window.surplus]  # what follows is the next shot's
        part = held(own, at, window.num_frames)
        start = start_of(window, dataclasses.replace(inputs, video=own), done, at)
        this = dataclasses.replace(Pass.of_window(second, index, start), base=part)
        this = dataclasses.replace(this, steps_before=this.steps_before + plan.first_steps)
        frames = yield from run_pass(this, plan, spec, slot, generator)
        done = frames if done is None else _joined(done, frames, window.overlap)
        done = done[: len(done) - window.surplus]
    assert done is not None, "a plan has at least one window"
    return done[num_given:]


def _second_seed(seed: int) -> int:
    """Another number for each seed: with the same one, the second pass's noise would be the first one's, laid out otherwise.

    Source: the step of Knuth's linear congruential generator MMIX.
    """
    return (seed * 6364136223846793005 + 1442695040888963407) % 2**63


def enlarged(frames: Frames, shown: Size, size: Size) -> Frames:
    """Cut frames to what of them is shown, and resize that."""
    height, width = frames.shape[1:3]
    top, left = (height - shown.height) // 2, (width - shown.width) // 2
    box = (left, top, left + shown.width, top + shown.height)
    asked = (size.width, size.height)
    pictures = (Image.fromarray(frame).resize(asked, Image.Resampling.LANCZOS, box=box) for frame in frames)
    return np.stack([np.asarray(picture) for picture in pictures])


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

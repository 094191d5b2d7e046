"""What must hold of every pipeline class and mode: true progress, a cancel that is one, memory that comes back, seeds."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from tests import tiny
from vitascope.domain.model_spec import Mode, ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.step import Step, percent
from vitascope.engine import Clip, Engine, Inputs

Frames = NDArray[np.uint8]

DENOISERS = ("Transformer3DModel", "VideoTransformer", "UNet3DConditionModel", "UNetMotionModel")
SPATIO_TEMPORAL_UNET = "UNetSpatioTemporalConditionModel"

GIVEN: dict[Mode, dict[str, Any]] = {
    "text": {},
    "image": {"image": "given"},
    "last_image": {"image": "given", "last_image": "given"},
    "video": {"video": "given", "strength": 1.0},  # all steps
    "reference": {"references": ("given",)},
}
"""What a request of each mode says beside its prompt."""


@dataclass
class Row:
    """One line of the table: a class in a mode."""

    name: str
    mode: Mode
    pipeline: str
    steps_expected: int = 0
    steps_seen: int = 0
    #: Calls of the denoiser in a whole run, and in one that was cancelled after `cancelled_at` steps.
    forwards: int = 0
    cancelled_at: int = 0
    forwards_when_cancelled: int = 0
    #: Calls of the autoencoder's decoder, likewise.
    decodes: int = 0
    decodes_when_cancelled: int = 0
    #: Resident memory in MB and live tensors, after the first run and after all others.
    rss_before: float = 0.0
    rss_after: float = 0.0
    tensors_before: int = 0
    tensors_after: int = 0
    same_seed: bool = False
    other_seed: bool = False
    num_frames: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def require(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)


@dataclass
class Calls:
    """How often modules of a kind were called while it was counted."""

    forwards: int = 0
    decodes: int = 0


@contextlib.contextmanager
def counted() -> Iterator[Calls]:
    """Count the calls of every denoiser and every autoencoder's decoder in this process, wherever the engine keeps them."""
    calls = Calls()

    def hook(module: torch.nn.Module, _inputs: object) -> None:
        kind = type(module).__name__
        if kind.endswith(DENOISERS) or kind == SPATIO_TEMPORAL_UNET:
            calls.forwards += 1
        elif kind.endswith(("Decoder3d", "Decoder3D")) or kind in ("Decoder", "TemporalDecoder"):
            calls.decodes += 1

    handle = torch.nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        yield calls
    finally:
        handle.remove()


def check(engine: Engine, name: str, spec: ModelSpec, mode: Mode, *, steps: int = 5) -> Row:
    """Run a class in a mode four times: whole, cancelled, again, with another seed.

    Args:
        engine: with nothing else to do.
        name: of the class or layout, for the table.
        spec: of its tiny checkpoint.
        mode: one of the spec's.
        steps: denoising steps of a run; the cancelled one stops before the last.
    """
    spec = replace(spec, dtype="float32")  # bfloat16 is slow at these sizes, and what is checked is the same
    with _small_heap():
        return _check(engine, name, spec, mode, steps)


def _check(engine: Engine, name: str, spec: ModelSpec, mode: Mode, steps: int) -> Row:
    row = Row(name, mode, spec.pipelines[mode], steps_expected=steps, cancelled_at=max(1, steps // 2))
    begun = time.monotonic()
    plan = plan_of(spec, mode, num_inference_steps=steps)
    with counted() as calls:
        first = _whole(engine, spec, plan, row)
    row.forwards, row.decodes = calls.forwards, calls.decodes
    row.require(calls.forwards >= steps, f"the denoiser was called {calls.forwards} times in {steps} steps")
    row.require(calls.decodes > 0, "no decoder was seen at work")
    row.rss_before, row.tensors_before = _memory()
    _cancelled(engine, spec, plan, row)
    row.same_seed = np.array_equal(first, _frames(engine, spec, plan))
    row.require(row.same_seed, "the same seed gave other frames")
    other = plan_of(spec, mode, num_inference_steps=steps, seed=plan.seed + 1)
    row.other_seed = not np.array_equal(first, _frames(engine, spec, other))
    row.require(row.other_seed, "another seed gave the same frames")
    del first
    row.rss_after, row.tensors_after = _memory()
    grown = row.tensors_after - row.tensors_before
    row.require(grown <= 0, f"{grown} tensors more are alive than after the first run")
    row.seconds = time.monotonic() - begun
    return row


def modes_of(name: str, spec: ModelSpec) -> list[Mode]:
    """Those in which the class itself is at work; the others of its card are other classes' lines."""
    return [mode for mode, pipeline in spec.pipelines.items() if pipeline == name or name in tiny.LAYOUTS]


def plan_of(spec: ModelSpec, mode: Mode, **asked: object) -> Plan:
    return tiny.make_plan(spec, **GIVEN[mode], **asked)


def inputs_of(plan: Plan) -> Inputs:
    """Noise for whatever the plan starts from."""
    drawn = np.random.default_rng(0)

    def frames(*shape: int) -> Frames:
        return drawn.integers(0, 256, (*shape, plan.native_height, plan.native_width, 3), np.uint8)

    return Inputs(
        image=frames() if plan.image else None,
        last_image=frames() if plan.last_image else None,
        video=frames(plan.native_num_frames) if plan.video else None,
        references=tuple(frames() for _ in plan.references),
    )


def _whole(engine: Engine, spec: ModelSpec, plan: Plan, row: Row) -> Frames:
    """Run it to its end and look at every step."""
    *told, clip = engine.generate(plan, spec, inputs_of(plan))
    assert isinstance(clip, Clip)
    steps = [step for step in told if isinstance(step, Step)]
    denoised = [step for step in dict.fromkeys(steps) if step.stage == "denoise" and step.index]
    row.steps_seen = len(denoised)
    expected = [Step("denoise", index, plan.total_steps) for index in range(1, plan.total_steps + 1)]
    row.require(denoised == expected, f"steps {[step.index for step in denoised]} of {plan.total_steps}")
    percents = [percent(step) for step in steps]
    row.require(percents == sorted(percents), "progress fell")
    row.num_frames = len(clip.frames)
    row.require(row.num_frames == plan.native_num_frames, f"{row.num_frames} frames came out")
    row.require(clip.frames.std() > 0, "every pixel is the same")
    return clip.frames


def _cancelled(engine: Engine, spec: ModelSpec, plan: Plan, row: Row) -> None:
    """Stop it at a step: what ran until then is that step's share, and nothing was decoded."""
    with counted() as calls:
        generation = engine.generate(plan, spec, inputs_of(plan))
        for step in generation:
            if isinstance(step, Step) and step.stage == "denoise" and step.index >= row.cancelled_at:
                break
        at_cancel = calls.forwards
        generation.close()
    row.forwards_when_cancelled, row.decodes_when_cancelled = calls.forwards, calls.decodes
    row.require(calls.forwards == at_cancel, f"the denoiser went on {calls.forwards - at_cancel} times")
    share = row.forwards * row.cancelled_at / row.steps_expected
    row.require(calls.forwards <= share, f"the denoiser had run {calls.forwards} times, not {share:g}")
    row.require(calls.decodes == 0, f"the decoder was called {calls.decodes} times")


def _frames(engine: Engine, spec: ModelSpec, plan: Plan) -> Frames:
    *_, clip = engine.generate(plan, spec, inputs_of(plan))
    assert isinstance(clip, Clip)
    return clip.frames


@contextlib.contextmanager
def _small_heap() -> Iterator[None]:
    """Leave what the libraries hold, a million objects, out of each collection."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _memory() -> tuple[float, int]:
    """Resident MB, and how many tensors are alive."""
    gc.collect()
    tensors = sum(1 for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter))
    return psutil.Process().memory_info().rss / 2**20, tensors

"""One pass of a pipeline: where it begins, and from what."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from bench.families.checks import counted
from tiny import make_plan, run
from vitascope.domain.model_spec import ModelSpec
from vitascope.engine import Engine
from vitascope.engine.contract import NO_INPUTS
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.families.conditions import start_of
from vitascope.engine.families.passes import Pass, run_pass

LATENTS = {
    "WanPipeline": (1, 16, 3, 4, 4),
    "LTXPipeline": (1, 192, 8),
    "TextToVideoSDPipeline": (1, 4, 9, 4, 4),
}
"""Shapes that the pipelines take, of nine frames of 32x32."""


def frames_of(engine: Engine, spec: ModelSpec, **differing: Any) -> np.ndarray[Any, Any]:
    plan = make_plan(spec, num_inference_steps=4)
    assert isinstance(engine, DiffusersEngine)
    this = Pass.of_window(plan, 0, start_of(plan.windows[0], NO_INPUTS, None, 0))
    this = dataclasses.replace(this, **differing)
    assert engine._loaded is not None
    with engine._loaded.slots.take(plan.seed) as slot:
        steps = run_pass(this, plan, spec, slot, torch.Generator().manual_seed(plan.seed))
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", LATENTS)
def test_a_pass_may_begin_at_a_later_step_from_given_latents(
    engine: Engine, models: dict[str, ModelSpec], name: str
) -> None:
    spec = dataclasses.replace(models[name], dtype="float32")
    latents = torch.randn(LATENTS[name], generator=torch.Generator().manual_seed(8))
    whole_frames = run(engine, spec, make_plan(spec, num_inference_steps=4))[1].frames
    with counted() as whole:
        from_noise = frames_of(engine, spec)
    assert np.array_equal(from_noise, whole_frames)
    with counted() as part:
        later = frames_of(engine, spec, latents=latents, first_step=3, num_steps=1)
    assert part.forwards * 4 == whole.forwards
    assert np.array_equal(later, frames_of(engine, spec, latents=latents, first_step=3, num_steps=1))
    assert not np.array_equal(later, frames_of(engine, spec, latents=-latents, first_step=3, num_steps=1))
    assert not np.array_equal(later, frames_of(engine, spec, latents=latents))

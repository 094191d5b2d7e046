"""Every scheduler's name through whole pipelines of a few channels: what the table says is what runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tiny import make_plan, run
from vitascope.catalog import locate
from vitascope.domain.errors import ModelUnavailable
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.schedulers import table
from vitascope.domain.step import Step
from vitascope.engine import Engine, open_engine
from vitascope.engine.placement import Wishes
from vitascope.engine.schedulers import make_scheduler


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """In bfloat16 whatever the CPU: in float32 what schedulers do otherwise to so small a model is less than a value of frames."""
    wishes = Wishes(dtype="bfloat16")
    opened = open_engine("diffusers", locate, device="cpu", threads=1, wishes=wishes)
    yield opened
    opened.close()


def clip_of(engine: Engine, spec: ModelSpec, scheduler: str | None, **asked: Any) -> tuple[list[Step], Any]:
    small = {"num_frames": 5, "num_inference_steps": 3, "guidance_scale": 1.0}
    steps, clip = run(engine, spec, make_plan(spec, scheduler=scheduler, **{**small, **asked}))
    denoised = [step.index for step in dict.fromkeys(steps) if step.stage == "denoise"]
    count = asked.get("num_inference_steps", 3)
    assert [index for index in denoised if index] == [*range(1, count + 1)], "evenly, and to the end"
    return steps, clip


@pytest.mark.parametrize("name", ["TextToVideoSDPipeline", "AnimateDiffPipeline"])
def test_every_usable_name_gives_another_video_of_a_noise_model(
    engine: Engine, models: dict[str, ModelSpec], name: str
) -> None:
    spec = models[name]
    natives = [row.name for row in table("discrete") if row.standing == "native"]
    assert len(natives) == 16, "fifteen of the eighteen, and SASolver"
    clips = {each: clip_of(engine, spec, each)[1].frames for each in natives}
    for frames in clips.values():
        assert frames.std() > 0
    for one, other in itertools.combinations(natives, 2):
        assert not np.array_equal(clips[one], clips[other]), (one, other)


@pytest.mark.parametrize("name", ["WanPipeline", "LTXPipeline", "CogVideoXPipeline"])
def test_every_name_runs_as_its_familys_table_says(
    engine: Engine, models: dict[str, ModelSpec], name: str
) -> None:
    spec = models[name]
    rows = [row for row in table(spec.scheduler_family) if row.standing != "refused"]
    natives = [row.name for row in rows if row.standing == "native"]
    clips = {each: clip_of(engine, spec, each)[1].frames for each in natives}
    for one, other in itertools.combinations(natives, 2):
        assert not np.array_equal(clips[one], clips[other]), (one, other)
    for row in rows:
        assert make_plan(spec, scheduler=row.name).scheduler == row.scheduler
        assert row.scheduler in natives
    mapped = next(row for row in rows if row.standing == "mapped")
    assert np.array_equal(clip_of(engine, spec, mapped.name)[1].frames, clips[mapped.scheduler or ""])


def test_the_checkpoints_own_class_by_name_is_the_default(
    engine: Engine, models: dict[str, ModelSpec]
) -> None:
    for name in ("WanPipeline", "LTXPipeline", "CogVideoXPipeline", "TextToVideoSDPipeline"):
        own = clip_of(engine, models[name], None)[1]
        class_name = next(choice.value for choice in own.choices if choice.name == "scheduler")
        assert np.array_equal(clip_of(engine, models[name], class_name)[1].frames, own.frames)


def test_a_stochastic_scheduler_follows_the_seed(engine: Engine, models: dict[str, ModelSpec]) -> None:
    """Wan's pipeline hands its scheduler no generator: the noise must not come from the process's own."""
    spec = models["WanPipeline"]
    clips = []
    for seed, elsewhere in ((1, 10), (1, 20), (2, 10)):
        torch.manual_seed(elsewhere)
        clips.append(clip_of(engine, spec, "EulerAncestralDiscreteScheduler", seed=seed)[1].frames)
    assert np.array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])


@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps(engine: Engine, models: dict[str, ModelSpec], steps: int) -> None:
    spec = models["WanPipeline"]
    for name in ("FlowMatchHeunDiscreteScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler"):
        assert clip_of(engine, spec, name, num_inference_steps=steps)[1].frames.shape == (5, 32, 32, 3)


@pytest.mark.parametrize("name", ["WanPipeline", "LTXPipeline"])
def test_a_shift_moves_the_levels_towards_noise_under_every_solver(
    engine: Engine, models: dict[str, ModelSpec], name: str
) -> None:
    """UniPC and a scheduler that works out shifts of its own, each with its own class and with another solver."""
    spec = models[name]
    for scheduler in (None, "EulerDiscreteScheduler"):
        clips = [clip_of(engine, spec, scheduler, flow_shift=shift)[1].frames for shift in (None, 1.0, 12.0)]
        again = clip_of(engine, spec, scheduler, flow_shift=12.0)[1].frames
        assert np.array_equal(clips[2], again)
        assert not np.array_equal(clips[1], clips[2])
    assert not np.array_equal(clips[0], clips[2])


def test_the_shift_is_the_formula_of_flow_matching() -> None:
    import diffusers

    for checkpoint in (
        diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    ):
        levels = {}
        for shift in (1.0, 5.0):
            scheduler = make_scheduler(checkpoint, None, shift)
            scheduler.set_timesteps(4)
            levels[shift] = scheduler.sigmas[:3].numpy()  # diffusers shifts the last one of its own twice
        base = levels[1.0]
        assert levels[5.0] == pytest.approx(5 * base / (1 + 4 * base), abs=5e-3)
    with pytest.raises(ModelUnavailable, match="have no shift"):
        make_scheduler(diffusers.DDIMScheduler(), None, 3.0)

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
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.schedulers import table
from vitascope.domain.step import Step
from vitascope.engine import Engine, open_engine


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    opened = open_engine("diffusers", locate, device="cpu", threads=1)
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

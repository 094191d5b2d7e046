"""Second passes, improved sampling, adapters and weights that wait elsewhere, two at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny import loras, make_plan, run
from vitascope.catalog import Loras, locate
from vitascope.domain.model_spec import ModelSpec, UpscaleRule
from vitascope.domain.request import ImprovedSampling, Lora, Upscale
from vitascope.domain.step import Step, percent
from vitascope.engine import Inputs, offloading
from vitascope.engine.device import measure
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.placement import NO_WISHES, Machine, Wishes

Models = dict[str, ModelSpec]

IMPROVED = ImprovedSampling(seed=11, iterations=2)
LARGER = Upscale(height=64, width=64, strength=0.5)


def made(
    spec: ModelSpec, folder: Path | None = None, wishes: Wishes = NO_WISHES, **asked: Any
) -> tuple[list[Step], Any]:
    engine = DiffusersEngine(
        locate, device="cpu", threads=1, **({"find_loras": Loras(folder).files} if folder else {})
    )
    engine._models._wishes = wishes  # a setting would be refused: nothing is won by it on a CPU
    try:
        steps, clip = run(
            engine, spec, make_plan(spec, num_inference_steps=4, **asked), Inputs(larger=Inputs())
        )
    finally:
        engine.close()
    return steps, clip.frames


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The CPU stands for a device of its own: what is brought there is a copy."""

    def stand_in() -> None:
        machine = Machine("cuda", "a GPU", 10**12, 10**12, 10**12, measure(torch.device("cpu")).has_bfloat16)
        monkeypatch.setattr(offloading, "fetch", lambda tensor, _device: tensor.clone())
        monkeypatch.setattr("vitascope.engine.keeper.measure", lambda *_: machine)

    return stand_in


@pytest.mark.parametrize("name", ["WanPipeline", "LTXPipeline", "TextToVideoSDPipeline"])
def test_an_improved_first_result_is_made_larger(models: Models, name: str) -> None:
    # in float32 what the rounds change of so small a model is less than a value of frames
    spec, rounding = models[name], Wishes(dtype="bfloat16")
    steps, both = made(spec, wishes=rounding, upscale=LARGER, improved_sampling=IMPROVED)
    percents = [percent(step) for step in steps]
    assert percents == sorted(percents)
    denoised = [step for step in steps if step.stage == "denoise"]
    assert denoised[-1].index == denoised[-1].of
    assert both.shape == (9, 64, 64, 3)
    assert not np.array_equal(both, made(spec, wishes=rounding, upscale=LARGER)[1]), (
        "the rounds count in the second pass too"
    )
    other = replace(IMPROVED, seed=12)
    assert not np.array_equal(both, made(spec, wishes=rounding, upscale=LARGER, improved_sampling=other)[1])


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_weights_that_come_and_go_make_the_same_second_pass(
    models: Models, as_on_a_gpu: Callable[[], None], offload: Any
) -> None:
    spec = models["WanPipeline"]
    here = made(spec, wishes=Wishes(dtype="float32"), upscale=LARGER, improved_sampling=IMPROVED)[1]
    as_on_a_gpu()
    waiting = Wishes(offload=offload, dtype="float32")
    there = made(spec, wishes=waiting, upscale=LARGER, improved_sampling=IMPROVED)[1]
    # some CPUs round by where in memory a weight lies
    np.testing.assert_allclose(here.astype(int), there.astype(int), atol=1)


def test_another_checkpoints_second_pass_goes_without_the_requests_adapter(
    models: Models, tmp_path: Path
) -> None:
    """It was made for the first checkpoint alone: its effect is in what the second one starts from."""
    spec = replace(
        models["TextToVideoSDPipeline"],
        upscale=replace(models["TextToVideoSDPipeline"].upscale or UpscaleRule(), model="second"),
        second=replace(models["VideoToVideoSDPipeline"], id="second"),
    )
    loras.write(tmp_path / "x.safetensors", spec, "unet")
    adapted = made(spec, tmp_path, upscale=LARGER, loras=(Lora("x"),))[1]
    assert adapted.shape == (9, 64, 64, 3)
    assert np.array_equal(adapted, made(spec, tmp_path, upscale=LARGER, loras=(Lora("x"),))[1])
    assert not np.array_equal(adapted, made(spec, tmp_path, upscale=LARGER)[1])

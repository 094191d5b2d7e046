"""Every pipeline class and mode through the engine: the same checks as `python -m bench.families`, with fewer steps."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from bench.families.checks import check, counted, modes_of
from tiny import make_plan, run
from vitascope.domain.errors import InvalidOutput
from vitascope.domain.model_spec import ModelSpec
from vitascope.engine import Engine
from vitascope.engine.fake import FakeEngine

Models = dict[str, ModelSpec]


@pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi's class asks for float32 in it
@pytest.mark.parametrize("name", [*tiny.BUILDERS, *tiny.LAYOUTS])
def test_steps_cancel_memory_and_seeds_hold_in_every_mode(engine: Engine, models: Models, name: str) -> None:
    modes = modes_of(name, models[name])
    assert modes
    problems = {mode: check(engine, name, models[name], mode, steps=2).problems for mode in modes}
    assert problems == {mode: [] for mode in modes}


def test_an_engine_that_runs_no_model_fails_the_checks(models: Models) -> None:
    problems = check(FakeEngine(), "LTXPipeline", models["LTXPipeline"], "text", steps=2).problems
    assert problems == ["the denoiser was called 0 times in 2 steps", "no decoder was seen at work"]


def test_every_class_that_needs_no_card_has_a_checkpoint_here() -> None:
    from vitascope.catalog.cards import pipeline_defaults

    assert set(pipeline_defaults()) == set(tiny.BUILDERS)


#: Latents as a row of tokens, as a video, as pictures; and a family whose own safety check makes black of what is no number.
FAMILIES = ["LTXPipeline", "WanPipeline", "TextToVideoSDPipeline", "CosmosTextToWorldPipeline"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("component", ["denoiser", "vae"])
def test_numbers_that_are_no_picture_fail(
    engine: Engine, models: Models, tmp_path: Path, name: str, component: str
) -> None:
    spec = _with_nan(models[name], tmp_path / "model", component)
    with counted() as calls, pytest.raises(InvalidOutput, match="not a picture"):
        run(engine, spec, make_plan(spec, num_inference_steps=2))
    assert calls.forwards
    assert bool(calls.decodes) == (component == "vae"), "latents that are no numbers are not decoded"


def _with_nan(spec: ModelSpec, folder: Path, component: str) -> ModelSpec:
    """Copy a model and make the last weights of its denoiser, or of its decoder, no numbers."""
    shutil.copytree(spec.source.partition(":")[2], folder)
    if component == "denoiser":
        component = "unet" if (folder / "unet").exists() else "transformer"
    path = folder / component / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    for key, tensor in weights.items():
        if component != "vae" or key.startswith("decoder."):
            weights[key] = torch.full_like(tensor, float("nan"))
    save_file(weights, path, metadata={"format": "pt"})
    return dataclasses.replace(spec, id="broken", source=f"folder:{folder}", dtype="float32")


def test_a_model_that_makes_another_size_than_its_card_says_is_told(engine: Engine, models: Models) -> None:
    small = models["HunyuanVideo15ImageToVideoPipeline"]
    sizes = tuple(dataclasses.replace(size, height=64, width=64) for size in small.sizes)
    spec = dataclasses.replace(small, sizes=sizes, dtype="float32")
    from bench.families.checks import inputs_of, plan_of

    plan = plan_of(spec, "image", num_inference_steps=1)
    with pytest.raises(InvalidOutput, match="9 frames of 32x32 instead of 9 frames of 64x64"):
        run(engine, spec, plan, inputs_of(plan))

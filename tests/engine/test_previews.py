"""Previews: what they show, what they cost, and that they never cost a video."""

from __future__ import annotations

import dataclasses
import io
import logging
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from tiny import make_plan, run
from vitascope.catalog import Catalog, locate
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.step import Step
from vitascope.engine import Engine, previews
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.latents import OtherLatents, unpack
from vitascope.engine.previews import MAX_BYTES, MAX_SIDE, predicted_clean, to_webp
from vitascope.engine.schedulers import is_flow, make_scheduler

Models = dict[str, ModelSpec]


def pictures(preview: bytes) -> np.ndarray[Any, Any]:
    image = Image.open(io.BytesIO(preview))
    assert image.format == "WEBP"
    frames = []
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        frames.append(np.asarray(image.convert("RGB")))
    return np.stack(frames)


def told(steps: list[Any]) -> dict[int, bytes]:
    return {step.index: step.preview for step in steps if isinstance(step, Step) and step.preview}


def test_previews_of_the_embedded_model_come_near_the_video() -> None:
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    spec = Catalog.open().resolve("pocket")
    asked = {"prompt": "a red rocket flies over a city at night", "seed": 7, "num_inference_steps": 6}
    planned = plan(GenerationRequest(model="pocket", preview_every=1, **asked), spec)  # type: ignore[arg-type]
    steps, clip = run(engine, spec, planned)
    shown = told(steps)
    assert list(shown) == [1, 2, 3, 4, 5, 6]
    assert all(len(preview) <= MAX_BYTES for preview in shown.values())
    frames = pictures(shown[1])
    assert frames.shape[1:] == (MAX_SIDE, MAX_SIDE, 3)
    # each stands for four frames, and the first frame for itself
    middle = clip.frames[1:].reshape(len(frames), -1, *clip.frames.shape[1:]).mean(1).astype(np.uint8)
    final = np.stack([np.asarray(Image.fromarray(frame).resize((MAX_SIDE, MAX_SIDE))) for frame in middle])
    likeness = [np.corrcoef(pictures(each).ravel(), final.ravel())[0, 1] for each in shown.values()]
    assert likeness[-1] > 0.8
    assert likeness[-1] > likeness[0] + 0.05
    plain = plan(GenerationRequest(model="pocket", **asked), spec)  # type: ignore[arg-type]
    steps, without = run(engine, spec, plain)
    assert told(steps) == {}
    assert np.array_equal(without.frames, clip.frames), "a preview changes nothing"


@pytest.mark.parametrize(
    "name",
    [
        "WanPipeline",
        "ti2v",
        "LTXPipeline",
        "LTX2Pipeline",
        "CogVideoXPipeline",
        "CosmosTextToWorldPipeline",
        "Kandinsky5T2VPipeline",
        "TextToVideoSDPipeline",
    ],
)
def test_every_layout_of_latents_is_shown(
    engine: Engine, models: Models, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    spec = dataclasses.replace(models[name], dtype="float32")  # not all of them run in bfloat16 on a CPU
    planned = make_plan(spec, preview_every=2, num_inference_steps=5, width=64)
    steps, clip = run(engine, spec, planned)
    assert caplog.messages == []
    shown = told(steps)
    assert list(shown) == [2, 4]
    frames = pictures(shown[4])
    assert frames.shape[1:3] == (64, 128), "the shape of the video"
    assert np.array_equal(
        run(engine, spec, make_plan(spec, num_inference_steps=5, width=64))[1].frames, clip.frames
    )


def test_a_second_window_and_a_start_from_an_image_are_shown(engine: Engine, models: Models) -> None:
    spec = models["ti2v"]
    planned = make_plan(spec, num_frames=17, fps=spec.fps, preview_every=3)
    assert list(told(run(engine, spec, planned)[0])) == [3, 6]


def test_a_preview_is_told_once(engine: Engine, models: Models) -> None:
    spec = models["CogVideoXPipeline"]
    steps, _ = run(engine, spec, make_plan(spec, preview_every=3))
    assert len([step for step in steps if isinstance(step, Step) and step.preview]) == 1


def test_what_cannot_be_shown_is_left_out_and_logged_once(
    engine: DiffusersEngine, models: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_args: Any) -> Any:
        raise RuntimeError("no such kernel")

    spec = models["WanPipeline"]
    without = run(engine, spec, make_plan(spec))[1].frames
    assert engine._loaded is not None
    monkeypatch.setattr(type(engine._loaded.pipelines["text"].vae), "encode", fail)
    for _ in range(2):
        steps, clip = run(engine, spec, make_plan(spec, preview_every=1))
        assert told(steps) == {}
        assert np.array_equal(clip.frames, without)
    assert caplog.messages == ["no previews of `WanPipeline`: no such kernel"]
    assert caplog.records[0].levelno == logging.WARNING


def test_without_previews_the_scheduler_is_left_alone(engine: Engine, models: Models) -> None:
    spec = models["WanPipeline"]
    assert isinstance(engine, DiffusersEngine)
    run(engine, spec, make_plan(spec))
    assert engine._loaded is not None
    (slot,) = engine._loaded.slots._idle
    pipe = slot.pipelines["text"]
    before = type(pipe.scheduler)
    none = previews.Previews(slot, pipe, make_plan(spec), (9, 32, 32))
    assert type(pipe.scheduler) is before
    assert [none.after(step) for step in range(10)] == [None] * 10
    assert not any(isinstance(found, previews.Projection) for found in slot.shared.values()), (
        "nothing was fitted"
    )


def test_the_projection_explains_other_clips_than_it_was_fitted_to(
    engine: DiffusersEngine, models: Models
) -> None:
    spec = Catalog.open().resolve("pocket")
    generation = engine.generate(plan(GenerationRequest(model="pocket", prompt="a cat", seed=1), spec), spec)
    assert [next(generation).stage, next(generation).stage] == ["load", "load"]  # type: ignore[union-attr]
    generation.close()
    assert engine._loaded is not None
    pipe = engine._loaded.pipelines["text"]
    with torch.no_grad():
        projection = previews.fit(pipe)
        latents, colours = previews.samples(pipe, seed=1)
    assert previews.explained(projection, latents, colours) > 0.85


FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
WAN = diffusers.UniPCMultistepScheduler(
    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
)
EPSILON = diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
VELOCITY = diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction")


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [
        (FLOW, None),
        (FLOW, "UniPCMultistepScheduler"),
        (FLOW, "DPMSolverMultistepScheduler"),
        (FLOW, "FlowMatchLCMScheduler"),
        (WAN, "FlowMatchEulerDiscreteScheduler"),
        (WAN, "FlowMatchHeunDiscreteScheduler"),
        (EPSILON, None),
        (EPSILON, "EulerDiscreteScheduler"),
        (EPSILON, "EulerAncestralDiscreteScheduler"),
        (EPSILON, "HeunDiscreteScheduler"),
        (EPSILON, "DPMSolverMultistepScheduler"),
        (EPSILON, "PNDMScheduler"),
        (VELOCITY, None),
        (VELOCITY, "DPMSolverMultistepScheduler"),
    ],
)
def test_a_perfect_model_shows_the_clean_latents_at_every_step(checkpoint: Any, name: str | None) -> None:
    """Of noise and clean latents that are known, each kind of model predicts exactly: the result is the clean ones."""
    scheduler = make_scheduler(checkpoint, name)
    scheduler.set_timesteps(4)
    numbers = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn((1, 4, 8, 8), generator=numbers) for _ in range(2))
    found: list[torch.Tensor] = []
    previews._on_result(scheduler, found.append)
    for index, timestep in enumerate(scheduler.timesteps):
        sample, output = _noisy(scheduler, clean, noise, timestep, index)
        scheduler.step(output, timestep, sample, return_dict=False)
    assert len(found) == len(scheduler.timesteps)
    for shown in found:
        torch.testing.assert_close(shown, clean, rtol=1e-3, atol=2e-2)


def _noisy(
    scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, timestep: Any, index: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sample at a step's noise level, and what a perfect model answers to it."""
    if is_flow(scheduler):
        sigma = scheduler.sigmas[index]
        return (1 - sigma) * clean + sigma * noise, noise - clean
    if float(scheduler.init_noise_sigma) != 1.0:
        return clean + scheduler.sigmas[index] * noise, noise
    square = scheduler.alphas_cumprod[int(timestep)]
    signal, level = square**0.5, (1 - square) ** 0.5
    sample = signal * clean + level * noise
    kind = scheduler.config.prediction_type
    return sample, noise if kind == "epsilon" else signal * noise - level * clean


def test_a_scheduler_that_is_not_understood_shows_its_own_result() -> None:
    scheduler = diffusers.EDMEulerScheduler()
    given = {"model_output": torch.zeros(1), "sample": torch.zeros(1), "timestep": 1}
    assert predicted_clean(scheduler, given, 0) is None


def test_a_copied_scheduler_steps_itself_unseen() -> None:
    """LTX-2 copies it for the sound."""
    import copy

    scheduler = make_scheduler(FLOW, None)
    seen: list[torch.Tensor] = []
    previews._on_result(scheduler, seen.append)
    scheduler.set_timesteps(3)
    other = copy.deepcopy(scheduler)
    for timestep in scheduler.timesteps:
        scheduler.step(torch.zeros(1, 2), timestep, torch.zeros(1, 2))
        other.step(torch.zeros(1, 2), timestep, torch.zeros(1, 2))
    assert len(seen) == 3
    assert (scheduler.step_index, other.step_index) == (3, 3)


@pytest.mark.parametrize(
    ("pipeline", "shape"),
    [
        ("WanPipeline", (1, 5, 2, 3, 4)),
        ("CogVideoXImageToVideoPipeline", (1, 2, 5, 3, 4)),
        ("StableVideoDiffusionPipeline", (1, 2, 5, 3, 4)),
        ("Kandinsky5T2VPipeline", (1, 2, 3, 4, 5)),
        ("LTXPipeline", (1, 24, 5)),
        ("LTXConditionPipeline", (1, 36, 5)),
        ("TextToVideoSDPipeline", (2, 5, 3, 4)),
    ],
)
def test_latents_are_unpacked_by_pipeline(pipeline: str, shape: tuple[int, ...]) -> None:
    assert unpack(pipeline, torch.zeros(shape), (2, 3, 4)).shape == (2, 3, 4, 5)


def test_latents_of_another_shape_are_refused() -> None:
    with pytest.raises(OtherLatents):
        unpack("LTXPipeline", torch.zeros(1, 23, 5), (2, 3, 4))


def test_pictures_are_small_whatever_they_show() -> None:
    noise = torch.rand((5, 128, 128, 3), generator=torch.Generator().manual_seed(0))
    assert len(to_webp(noise, 2.0)) <= MAX_BYTES
    assert len(pictures(to_webp(noise, 2.0))) == 1, "rather one frame than a large file"
    smooth = torch.linspace(0, 1, 64).expand(5, 3, 64, 64).permute(0, 2, 3, 1)
    smooth = smooth * torch.linspace(0.2, 1, 5)[:, None, None, None]
    assert len(pictures(to_webp(smooth, 2.0))) == 5

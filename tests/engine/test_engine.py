"""The engine over real pipelines of a few channels: steps, cancel, seeds, schedulers, windows."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from tiny import make_plan, run
from vitascope.domain.errors import InvalidOutput, ModelUnavailable
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import Shot
from vitascope.domain.step import Step, percent
from vitascope.engine import Engine, Inputs
from vitascope.engine.engine import DiffusersEngine

#: One class of each kind of latent and loop; test_families.py has all of them.
PIPELINES = ["CogVideoXPipeline", "LTXPipeline", "TextToVideoSDPipeline", "WanPipeline"]
Models = dict[str, ModelSpec]


@pytest.mark.parametrize("name", PIPELINES)
def test_each_pipeline_class_makes_frames_step_by_step(engine: Engine, models: Models, name: str) -> None:
    spec = models[name]
    plan = make_plan(spec)
    steps, clip = run(engine, spec, plan)
    assert clip.frames.shape == (9, 32, 32, 3)
    assert clip.frames.dtype == np.uint8
    assert [s for s in dict.fromkeys(steps) if s.stage == "denoise"] == [
        Step("denoise", i, 3) for i in (1, 2, 3)
    ]
    percents = [percent(step) for step in steps]
    assert percents == sorted(percents)
    assert list(dict.fromkeys(step.stage for step in steps)) == [
        "load",
        "encode_prompt",
        "denoise",
        "decode_latents",
    ]
    assert {choice.name for choice in clip.choices} - {"decode", "guidance", "denoiser"} == {
        "attention",
        "compile",
        "device",
        "dtype",
        "offload",
        "threads",
        "scheduler",
        "vae channels last",
    }


@pytest.mark.parametrize("name", PIPELINES)
def test_a_seed_reproduces(engine: Engine, models: Models, name: str) -> None:
    spec = models[name]
    first, again, other = (run(engine, spec, make_plan(spec, seed=seed))[1].frames for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_frames_equal_the_plain_pipelines(engine: Engine, models: Models) -> None:
    """What the engine adds (slot, thread, scheduler of its own) changes no pixel."""
    import diffusers

    spec = dataclasses.replace(models["WanPipeline"], dtype="float32")
    clip = run(engine, spec, make_plan(spec))[1]
    folder = spec.source.partition(":")[2]
    pipe = diffusers.WanPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    plain = pipe(
        prompt="a dog walks", negative_prompt="", height=32, width=32, num_frames=9, num_inference_steps=3,
        guidance_scale=5.0, generator=torch.Generator().manual_seed(3), output_type="np",
    ).frames[0]  # fmt: skip
    assert np.abs(clip.frames.astype(int) - np.round(plain * 255)).max() == 0


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("stop_at", ["encode_prompt", "denoise"])
def test_closing_cancels_without_decoding(
    models: Models, monkeypatch: pytest.MonkeyPatch, name: str, stop_at: str
) -> None:
    engine = DiffusersEngine(lambda spec: spec.source.partition(":")[2], device="cpu", threads=1)
    spec = models[name]
    run(engine, spec, make_plan(spec))  # load
    assert engine._loaded is not None
    vae = engine._loaded.pipelines["text"].vae
    decoded: list[Any] = []
    monkeypatch.setattr(type(vae), "decode", lambda *args, **kwargs: decoded.append(args))
    generation = engine.generate(make_plan(spec, num_inference_steps=50), spec)
    for step in generation:
        if step.stage == stop_at:
            break
    generation.close()
    assert decoded == []
    assert engine.capacity(spec) == 4, "its place is free"
    monkeypatch.undo()
    run(engine, spec, make_plan(spec))  # and works


def test_closing_frees_the_latents(engine: Engine, models: Models) -> None:
    spec = models["WanPipeline"]
    generation = engine.generate(make_plan(spec, num_inference_steps=20), spec)
    while next(generation) != Step("denoise", 2, 20):
        pass
    latents_shape = (1, 16, 3, 4, 4)
    alive = [weakref.ref(o) for o in gc.get_objects() if type(o) is torch.Tensor and o.shape == latents_shape]
    assert alive
    generation.close()
    del generation
    gc.collect()
    assert [ref for ref in alive if ref() is not None] == []


def test_a_cancelled_generation_leaves_no_trace_in_the_next(engine: Engine, models: Models) -> None:
    spec = models["WanPipeline"]
    plan = make_plan(spec)
    before = run(engine, spec, plan)[1].frames
    stopped = engine.generate(make_plan(spec, seed=9), spec)
    while next(stopped) != Step("denoise", 2, 3):
        pass
    stopped.close()
    assert np.array_equal(run(engine, spec, plan)[1].frames, before)


def test_a_long_video_continues_from_its_last_frame(engine: Engine, models: Models) -> None:
    spec = models["ti2v"]
    plan = make_plan(spec, num_frames=17, fps=spec.fps)
    assert [window.num_frames for window in plan.windows] == [9, 9]
    steps, clip = run(engine, spec, plan)
    assert clip.frames.shape == (17, 32, 32, 3)
    assert [s for s in dict.fromkeys(steps) if s.stage == "denoise"] == [
        Step("denoise", i, 6) for i in range(1, 7)
    ]
    percents = [percent(step) for step in steps]
    assert percents == sorted(percents)
    first = run(engine, spec, make_plan(spec, num_frames=9))[1]
    assert np.array_equal(clip.frames[:9], first.frames)


def test_an_image_conditions_the_video(engine: Engine, models: Models) -> None:
    spec = models["ti2v"]
    plan = make_plan(spec, image="given")
    starts = [Inputs(image=np.full((32, 32, 3), grey, np.uint8)) for grey in (0, 255)]
    clips = [run(engine, spec, plan, start)[1].frames for start in starts]
    assert not np.array_equal(*clips)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("WanPipeline", 512), ("LTXPipeline", 128), ("CogVideoXPipeline", 226), ("TextToVideoSDPipeline", 77)],
)
def test_a_prompt_that_is_cut_is_told(engine: Engine, models: Models, name: str, limit: int) -> None:
    spec = models[name]
    for words, is_cut in ((3, False), (600, True)):
        clip = run(engine, spec, make_plan(spec, prompt="dog " * words, num_inference_steps=1))[1]
        told = [choice.value for choice in clip.choices if choice.name == "prompt"]
        assert told == ([f"first {limit} tokens"] if is_cut else [])


def test_only_what_a_shot_is_given_counts_as_its_prompt(engine: Engine, models: Models) -> None:
    spec = models["WanPipeline"]
    for words, is_cut in ((400, False), (600, True)):  # of 512 that are read
        shots = (Shot("a dog"), Shot("dog " * words), Shot("dog " * 400))
        planned = make_plan(spec, prompt="", shots=shots, num_inference_steps=1)
        clip = run(engine, spec, planned)[1]
        assert any(choice.name == "prompt" for choice in clip.choices) == is_cut


def test_switching_models_unloads_the_first(engine: Engine, models: Models) -> None:
    assert isinstance(engine, DiffusersEngine)
    for name in ("WanPipeline", "LTXPipeline", "WanPipeline"):
        run(engine, models[name], make_plan(models[name]))
        assert engine._loaded is not None
        assert engine._loaded.spec is models[name]


def test_numbers_that_are_no_picture_fail(models: Models) -> None:
    engine = DiffusersEngine(lambda spec: spec.source.partition(":")[2], device="cpu", threads=1)
    spec = models["WanPipeline"]
    run(engine, spec, make_plan(spec))
    assert engine._loaded is not None
    vae = engine._loaded.pipelines["text"].vae
    next(vae.parameters()).data.fill_(float("nan"))
    for parameter in vae.decoder.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(InvalidOutput):
        run(engine, spec, make_plan(spec))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing", "`damaged` is not complete: `transformer` has no weights"),
        ("cut", "of model `damaged` is cut"),
        ("foreign class", "`damaged`"),
        ("pickle only", "of model `damaged` are a pickle"),
    ],
)
def test_damaged_folders_are_refused_in_one_sentence(
    engine: Engine, tmp_path: Path, models: Models, damage: str, words: str
) -> None:
    folder = tiny.build("WanPipeline", tmp_path / "model")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "pickle only":
        torch.save({}, weights.with_suffix(".bin"))
        weights.unlink()
    else:
        index = json.loads((folder / "model_index.json").read_text())
        index["transformer"] = ["os", "system"]
        (folder / "model_index.json").write_text(json.dumps(index))
    spec = dataclasses.replace(models["WanPipeline"], id="damaged", source=f"folder:{folder}")
    with pytest.raises(ModelUnavailable, match=words) as caught:
        run(engine, spec, make_plan(models["WanPipeline"]))
    assert str(folder) not in caught.value.message
    assert "\n" not in caught.value.message


def test_a_part_comes_from_another_folder(engine: Engine, tmp_path: Path, models: Models) -> None:
    folder = tiny.build("AnimateDiffPipeline", tmp_path / "whole")
    whole = dataclasses.replace(models["AnimateDiffPipeline"], id="whole", source=f"folder:{folder}")
    expected = run(engine, whole, make_plan(whole))[1].frames
    (folder / "motion_adapter").rename(tmp_path / "adapter")
    index = json.loads((folder / "model_index.json").read_text())
    del index["motion_adapter"]
    (folder / "model_index.json").write_text(json.dumps(index))
    split = dataclasses.replace(
        whole, id="split", components={"motion_adapter": f"folder:{tmp_path / 'adapter'}"}
    )
    assert np.array_equal(run(engine, split, make_plan(split))[1].frames, expected)
    lost = dataclasses.replace(split, id="lost", components={"motion_adapter": f"folder:{tmp_path / 'gone'}"})
    with pytest.raises(ModelUnavailable, match="are not there"):
        run(engine, lost, make_plan(lost))


@pytest.mark.parametrize("name", ["WanPipeline", "LTXPipeline", "TextToVideoSDPipeline"])
def test_a_card_may_name_another_autoencoder(
    engine: Engine, models: Models, tmp_path: Path, name: str
) -> None:
    """It decodes what the same denoiser made, as if it were in the checkpoint's own folder."""
    spec = models[name]
    torch.manual_seed(5)
    tiny.BUILDERS[name]().vae.save_pretrained(tmp_path / "vae")
    other = dataclasses.replace(spec, id="other", components={"vae": f"folder:{tmp_path / 'vae'}"})
    whole = dataclasses.replace(spec, id="whole", source=f"folder:{tmp_path / 'whole'}")
    shutil.copytree(spec.source.removeprefix("folder:"), tmp_path / "whole")
    shutil.copytree(tmp_path / "vae", tmp_path / "whole" / "vae", dirs_exist_ok=True)
    own, its, expected = (run(engine, each, make_plan(each))[1].frames for each in (spec, other, whole))
    assert (its == expected).all()
    assert (its != own).any()

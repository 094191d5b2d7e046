"""Adapters in the engine: what diffusers makes of them, for one request only, over weights that nobody writes."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from tiny import loras, make_plan
from vitascope.catalog import Loras, locate
from vitascope.domain.errors import ModelUnavailable
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import ImprovedSampling, Lora, Upscale
from vitascope.domain.step import Step
from vitascope.engine import Clip, Engine
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.families import passes
from vitascope.engine.placement import Wishes

Models = dict[str, ModelSpec]

FAMILIES = {
    "WanPipeline": ("transformer", r"blocks\.\d+\..*(to_[qkv]|to_out\.0|net\.2)$"),
    "LTXPipeline": ("transformer", r"transformer_blocks\.\d+\..*(to_[qkv]|to_out\.0)$"),
    "TextToVideoSDPipeline": ("unet", r"(to_[qkv]|to_out\.0)$"),
}
"""By pipeline class: the component that is adapted, and which of its layers."""


@pytest.fixture(autouse=True)
def _exact_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare what the pipeline gave, before rounding to bytes hides anything."""
    monkeypatch.setattr(passes, "_to_uint8", lambda frames: frames)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "loras"
    made.mkdir()
    return made


@pytest.fixture
def engine(folder: Path) -> Iterator[DiffusersEngine]:
    found = Loras(folder)
    opened = DiffusersEngine(locate, device="cpu", threads=1, find_loras=found.files, lora_cache_bytes=10**8)
    yield opened
    opened.close()


def frames_of(engine: Engine, spec: ModelSpec, *asked: Lora, **more: Any) -> np.ndarray[Any, Any]:
    _, clip = tiny.run(engine, spec, make_plan(spec, loras=asked, **more))
    return clip.frames


def weights_of(engine: DiffusersEngine) -> dict[str, str]:
    """The digest of every tensor of the loaded model."""
    assert engine._loaded is not None
    found = {}
    for pipe in engine._loaded.pipelines.values():
        for name, component in pipe.components.items():
            if isinstance(component, torch.nn.Module):
                for key, tensor in component.state_dict().items():
                    raw = tensor.flatten().view(torch.uint8).numpy().tobytes()
                    found[f"{name}.{key}"] = hashlib.sha256(raw).hexdigest()
    return found


TO_BYTES = passes._to_uint8
SAMPLED = ImprovedSampling(seed=5, iterations=2)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in FAMILIES),
        pytest.param("WanPipeline", {"improved_sampling": SAMPLED}, id="in each round"),
        pytest.param("WanPipeline", {"num_frames": 25}, id="in each window"),
    ],
)
def test_an_adapter_does_what_its_product_does_that_is_added_to_the_weights(
    engine: DiffusersEngine,
    models: Models,
    folder: Path,
    tmp_path: Path,
    name: str,
    more: dict[str, Any],
) -> None:
    component, pattern = FAMILIES[name]
    spec = dataclasses.replace(models[name], dtype="float32")
    path = loras.write(folder / "x.safetensors", spec, component, pattern, seed=1)
    merged = dataclasses.replace(spec, source=f"folder:{tmp_path / 'merged'}")
    shutil.copytree(spec.source.removeprefix("folder:"), tmp_path / "merged")
    add_products(next((tmp_path / "merged" / component).glob("*.safetensors")), path, component, 0.7)
    ours = frames_of(engine, spec, Lora("x", 0.7), **more)
    assert np.abs(ours - frames_of(engine, spec, **more)).max() > 0.01
    np.testing.assert_allclose(ours, frames_of(engine, merged, **more), atol=1e-4)


def test_an_adapter_is_applied_in_the_second_pass_too(
    engine: DiffusersEngine, models: Models, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within rounding: what goes from the first pass to the second are bytes."""
    monkeypatch.setattr(passes, "_to_uint8", TO_BYTES)
    spec = dataclasses.replace(models["WanPipeline"], dtype="float32")
    path = loras.write(folder / "x.safetensors", spec, *FAMILIES["WanPipeline"], size=1.0)
    merged = dataclasses.replace(spec, source=f"folder:{tmp_path / 'merged'}")
    shutil.copytree(spec.source.removeprefix("folder:"), tmp_path / "merged")
    add_products(next((tmp_path / "merged" / "transformer").glob("*.safetensors")), path, "transformer", 1.0)
    larger = {"upscale": Upscale(strength=0.9), "num_inference_steps": 5}
    ours = frames_of(engine, spec, Lora("x"), **larger).astype(int)
    assert ours.shape == (9, 64, 64, 3)
    close = np.abs(ours - frames_of(engine, merged, **larger)).mean()
    assert close < 0.2 * np.abs(ours - frames_of(engine, spec, **larger)).mean()


def add_products(weights: Path, adapter: Path, component: str, scale: float) -> None:
    """Add an adapter in diffusers' names to a checkpoint's weights."""
    tensors, ours = load_file(weights), load_file(adapter)
    for name in ours:
        if name.endswith(".lora_A.weight"):
            layer = name.removesuffix(".lora_A.weight")
            product = ours[f"{layer}.lora_B.weight"] @ ours[name]
            tensors[f"{layer.removeprefix(f'{component}.')}.weight"] += scale * product
    save_file(tensors, weights, {"format": "pt"})


@pytest.mark.parametrize("name", FAMILIES)
def test_requests_with_different_adapters_in_turn_and_interleaved_make_what_each_makes_alone(
    engine: DiffusersEngine, models: Models, folder: Path, name: str
) -> None:
    component, pattern = FAMILIES[name]
    spec = models[name]
    for index, other in enumerate("xy"):
        loras.write(folder / f"{other}.safetensors", spec, component, pattern, seed=index)
    asked: dict[str, tuple[Lora, ...]] = {
        "none": (),
        "x": (Lora("x"),),
        "y": (Lora("y"),),
        "x again": (Lora("x"),),
        "less of x": (Lora("x", 0.5),),
        "both": (Lora("x"), Lora("y", -1.0)),
    }
    alone = {}
    for kind, wanted in asked.items():
        engine.close()  # nothing of those before is left
        alone[kind] = frames_of(engine, spec, *wanted)
    untouched = weights_of(engine)
    for kind in ("x", "none", "y", "x", "both", "none", "less of x"):
        np.testing.assert_array_equal(frames_of(engine, spec, *asked[kind]), alone[kind], err_msg=kind)

    order = random.Random(5)
    running = {kind: engine.generate(make_plan(spec, loras=asked[kind]), spec) for kind in list(asked)[:4]}
    together = {}
    while running:
        kind = order.choice(list(running))
        event: Step | Clip | None = next(running[kind], None)
        if isinstance(event, Clip):
            together[kind] = event.frames
        elif event is None:
            del running[kind]
    for kind, frames in together.items():
        np.testing.assert_array_equal(frames, alone[kind], err_msg=kind)
    different = [alone[kind] for kind in asked if kind != "x again"]
    assert len({frames.tobytes() for frames in different}) == len(different)
    assert weights_of(engine) == untouched


def test_a_cancelled_request_leaves_nothing_behind(
    engine: DiffusersEngine, models: Models, folder: Path
) -> None:
    spec = models["WanPipeline"]
    path = loras.write(folder / "x.safetensors", spec, "transformer")
    loras.add_differences(path)
    alone = frames_of(engine, spec)
    untouched = weights_of(engine)
    generation = engine.generate(make_plan(spec, loras=(Lora("x"),)), spec)
    while True:
        step = next(generation)
        assert isinstance(step, Step)
        if step.stage == "denoise" and step.index == 1:
            break
    generation.close()
    np.testing.assert_array_equal(frames_of(engine, spec), alone)
    assert weights_of(engine) == untouched


def test_differences_change_single_parameters_for_one_request(
    engine: DiffusersEngine, models: Models, folder: Path
) -> None:
    spec = models["WanPipeline"]
    path = loras.write(folder / "x.safetensors", spec, "transformer", names=loras.comfyui_names)
    only_pairs = frames_of(engine, spec, Lora("x"))
    loras.add_differences(path)
    with_all = frames_of(engine, spec, Lora("x"))
    assert np.abs(with_all - only_pairs).max() > 1e-3
    np.testing.assert_array_equal(frames_of(engine, spec, Lora("x")), with_all)
    assert np.abs(frames_of(engine, spec, Lora("x", 0.5)) - with_all).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "component", "pattern", "names"),
    [
        ("WanPipeline", "transformer", FAMILIES["WanPipeline"][1], loras.comfyui_names),
        ("WanPipeline", "transformer", FAMILIES["WanPipeline"][1], loras.musubi_names),
        ("WanPipeline", "transformer", r"^condition_embedder|^proj_out", loras.comfyui_names),
        ("LTXPipeline", "transformer", FAMILIES["LTXPipeline"][1], loras.comfyui_names),
        ("LTXPipeline", "transformer", FAMILIES["LTXPipeline"][1], loras.kohya_names),
        ("TextToVideoSDPipeline", "unet", FAMILIES["TextToVideoSDPipeline"][1], loras.kohya_names),
        ("TextToVideoSDPipeline", "unet", r"conv1$|conv_in$|conv_out$", loras.kohya_names),
        ("TextToVideoSDPipeline", "text_encoder", r"q_proj$|fc1$", loras.kohya_names),
        ("AnimateDiffPipeline", "unet", r"motion_modules.*to_q$|attentions.*to_k$", loras.kohya_names),
    ],
)  # fmt: skip
def test_the_same_numbers_do_the_same_in_every_format(
    engine: DiffusersEngine,
    models: Models,
    folder: Path,
    name: str,
    component: str,
    pattern: str,
    names: loras.Name,
) -> None:
    spec = models[name]
    loras.write(folder / "theirs.safetensors", spec, component, pattern, names)
    loras.write(folder / "plain.safetensors", spec, component, pattern)
    theirs, plain = (frames_of(engine, spec, Lora(which)) for which in ("theirs", "plain"))
    assert np.abs(theirs - frames_of(engine, spec)).max() > 1e-4
    np.testing.assert_allclose(theirs, plain, atol=2e-5)


def test_a_name_says_which_of_two_denoisers_is_meant(
    engine: DiffusersEngine, models: Models, folder: Path
) -> None:
    spec = models["Wan 2.2 T2V-A14B"]
    for name in ("a_high_noise_lora", "a_low_noise_lora", "both"):
        loras.write(folder / f"{name}.safetensors", spec, "transformer", names=loras.comfyui_names)
    made = {
        name: tiny.run(engine, spec, make_plan(spec, loras=(Lora(name),)))[1]
        for name in ("a_high_noise_lora", "a_low_noise_lora", "both")
    }
    told = {name: str([c for c in clip.choices if c.name == "lora"]) for name, clip in made.items()}
    assert "in `transformer` alone" in told["a_high_noise_lora"]
    assert "in `transformer_2` alone" in told["a_low_noise_lora"]
    assert "alone" not in told["both"]
    together = frames_of(engine, spec, Lora("a_high_noise_lora"), Lora("a_low_noise_lora"))
    np.testing.assert_array_equal(together, made["both"].frames)


def test_tensors_are_kept_up_to_a_bound_and_shared_by_slots(models: Models, folder: Path) -> None:
    spec = models["WanPipeline"]
    for name in "xyz":
        path = loras.write(folder / f"{name}.safetensors", spec, "transformer", rank=8)
    num_bytes = sum(tensor.nbytes for tensor in load_file(path).values()) // 2  # bfloat16
    found = Loras(folder)
    for bound, kept in ((3 * num_bytes, 3), (2 * num_bytes, 2), (num_bytes - 1, 0)):
        engine = DiffusersEngine(
            locate,
            device="cpu",
            threads=1,
            wishes=Wishes(dtype="bfloat16"),
            find_loras=found.files,
            lora_cache_bytes=bound,
        )
        for name in "xyz":
            frames_of(engine, spec, Lora(name))
        assert engine._adapters.num_bytes == kept * num_bytes
        running = [engine.generate(make_plan(spec, loras=(Lora("z"),)), spec) for _ in range(2)]
        for generation in running:
            assert next(generation) == Step("load")
            assert next(generation) == Step("load", 1)
        assert engine._adapters.num_bytes == kept * num_bytes
        for generation in running:
            generation.close()
        engine.clear_caches()
        assert engine._adapters.num_bytes == 0
        engine.close()


def test_a_changed_file_is_read_again(engine: DiffusersEngine, models: Models, folder: Path) -> None:
    spec = models["WanPipeline"]
    loras.write(folder / "x.safetensors", spec, "transformer", seed=1)
    first = frames_of(engine, spec, Lora("x"))
    (folder / "x.safetensors").unlink()
    loras.write(folder / "x.safetensors", spec, "transformer", seed=2)
    assert np.abs(frames_of(engine, spec, Lora("x")) - first).max() > 1e-3


def test_a_file_that_goes_or_breaks_fails_the_job_alone(
    engine: DiffusersEngine, models: Models, folder: Path
) -> None:
    """It was checked before the job was queued; what has become of it since, the job says."""
    spec = models["WanPipeline"]
    alone = frames_of(engine, spec)
    with pytest.raises(ModelUnavailable, match="the adapter `x` is not on this machine"):
        frames_of(engine, spec, Lora("x"))
    (folder / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelUnavailable, match="the adapter `x` cannot be read as a safetensors file"):
        frames_of(engine, spec, Lora("x"))
    loras.write(folder / "x.safetensors", models["LTXPipeline"], "transformer")
    with pytest.raises(ModelUnavailable, match="the adapter `x` was made for another architecture"):
        frames_of(engine, spec, Lora("x"))
    np.testing.assert_array_equal(frames_of(engine, spec), alone)

"""Adapters over weights that wait elsewhere, or that are kept in one byte a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from tiny import loras, make_plan
from vitascope.catalog import Loras, locate
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import Lora
from vitascope.engine import offloading
from vitascope.engine.device import measure
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.families import passes
from vitascope.engine.placement import NO_WISHES, Machine, Offload, Quantization, Wishes

Models = dict[str, ModelSpec]


@pytest.fixture(autouse=True)
def _exact_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare what the pipeline gave, before rounding to bytes hides anything."""
    monkeypatch.setattr(passes, "_to_uint8", lambda frames: frames)


def made(folder: Path, spec: ModelSpec, *asked: Lora, wishes: Wishes = NO_WISHES) -> np.ndarray[Any, Any]:
    engine = DiffusersEngine(locate, device="cpu", threads=1, find_loras=Loras(folder).files)
    engine._models._wishes = wishes  # a setting would be refused: nothing is won by it on a CPU
    try:
        return tiny.run(engine, spec, make_plan(spec, loras=asked))[1].frames
    finally:
        engine.close()


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_an_adapter_does_the_same_where_weights_come_and_go(
    models: Models, tmp_path: Path, offload: Offload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU stands for a device of its own: what is brought there is a copy."""
    spec = models["WanPipeline"]
    loras.add_differences(loras.write(tmp_path / "x.safetensors", spec, "transformer"))
    # the dtype is said, as a GPU takes another one than a CPU where there is no bfloat16
    here = made(tmp_path, spec, Lora("x"), wishes=Wishes(dtype="float32"))
    waiting = Wishes(offload=offload, dtype="float32")
    machine = Machine("cuda", "a GPU", 10**12, 10**12, 10**12, measure(torch.device("cpu")).has_bfloat16)
    monkeypatch.setattr(offloading, "fetch", lambda tensor, _device: tensor.clone())
    monkeypatch.setattr("vitascope.engine.keeper.measure", lambda *_: machine)
    there = made(tmp_path, spec, Lora("x"), wishes=waiting)
    np.testing.assert_allclose(there, here, atol=1e-6)  # some CPUs round by where in memory a weight lies
    assert np.abs(made(tmp_path, spec, wishes=waiting) - here).max() > 1e-3


def effect(folder: Path, spec: ModelSpec, wishes: Wishes) -> np.ndarray[Any, Any]:
    """What the adapter changes."""
    return made(folder, spec, Lora("x"), wishes=wishes) - made(folder, spec, wishes=wishes)


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_an_adapter_works_over_weights_of_one_byte(
    models: Models, tmp_path: Path, quantization: Quantization
) -> None:
    spec = models["WanPipeline"]
    path = loras.write(tmp_path / "x.safetensors", spec, "transformer", size=1.0)
    narrow = Wishes(
        quantization=quantization, dtype="float32"
    )  # rounding to bfloat16 would hide small effects
    whole, small = effect(tmp_path, spec, Wishes(dtype="float32")), effect(tmp_path, spec, narrow)
    assert np.abs(small - whole).mean() < 0.3 * np.abs(whole).mean()
    loras.add_differences(path)
    assert np.abs(effect(tmp_path, spec, narrow) - small).max() > 1e-3


@pytest.mark.parametrize("offload", ["none", "group"])
def test_what_is_added_to_a_weight_of_one_byte_has_its_effect(
    models: Models, tmp_path: Path, offload: Offload, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models["WanPipeline"]
    path = loras.write(tmp_path / "x.safetensors", spec, "transformer", size=1.0)
    down = load_file(path)["transformer.blocks.0.attn1.to_q.lora_A.weight"]
    save_file({"diffusion_model.blocks.0.self_attn.q.diff": down.T @ down}, path)
    whole = effect(tmp_path, spec, Wishes(dtype="float32"))
    if offload != "none":
        machine = Machine("cuda", "a GPU", 10**12, 10**12, 10**12, measure(torch.device("cpu")).has_bfloat16)
        monkeypatch.setattr(offloading, "fetch", lambda tensor, _device: tensor.clone())
        monkeypatch.setattr("vitascope.engine.keeper.measure", lambda *_: machine)
    small = effect(tmp_path, spec, Wishes(quantization="int8", offload=offload, dtype="float32"))
    assert np.abs(small - whole).mean() < 0.3 * np.abs(whole).mean()

"""Adapters over weights that wait elsewhere, or that are kept in one byte a value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny
from tiny import loras, make_plan
from vitascope.catalog import Loras, locate
from vitascope.domain.errors import ModelUnavailable
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import Lora
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.placement import Wishes

from test_loras import add_differences

Models = dict[str, ModelSpec]


def made(folder: Path, spec: ModelSpec, *asked: Lora, **wishes: str) -> np.ndarray:
    engine = DiffusersEngine(
        locate, device="cpu", threads=1, find_loras=Loras(folder).files, wishes=Wishes(**wishes)
    )
    try:
        return tiny.run(engine, spec, make_plan(spec, loras=asked))[1].frames
    finally:
        engine.close()


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_an_adapter_does_the_same_where_weights_come_and_go(models: Models, tmp_path: Path, offload: str) -> None:
    spec = models["WanPipeline"]
    add_differences(loras.write(tmp_path / "x.safetensors", spec, "transformer"))
    here = made(tmp_path, spec, Lora("x"))
    np.testing.assert_array_equal(made(tmp_path, spec, Lora("x"), offload=offload), here)
    assert np.abs(made(tmp_path, spec, offload=offload).astype(int) - here).max() > 2


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_an_adapter_works_over_weights_of_one_byte(models: Models, tmp_path: Path, quantization: str) -> None:
    spec = models["WanPipeline"]
    path = loras.write(tmp_path / "x.safetensors", spec, "transformer", size=0.2)
    whole, without = made(tmp_path, spec, Lora("x")).astype(int), made(tmp_path, spec).astype(int)
    small = made(tmp_path, spec, Lora("x"), quantization=quantization).astype(int)
    assert np.abs(small - whole).mean() < 0.5 * np.abs(without - whole).mean()
    add_differences(path)
    made(tmp_path, spec, Lora("x"), quantization=quantization)


def test_what_would_be_added_to_a_weight_of_one_byte_is_refused(models: Models, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    spec = models["WanPipeline"]
    path = loras.write(tmp_path / "x.safetensors", spec, "transformer")
    down = load_file(path)["transformer.blocks.0.attn1.to_q.lora_A.weight"]
    save_file({"diffusion_model.blocks.0.self_attn.q.diff": down.T @ down}, path)
    made(tmp_path, spec, Lora("x"))
    with pytest.raises(ModelUnavailable, match="which is kept in one byte a value here"):
        made(tmp_path, spec, Lora("x"), quantization="int8")

"""On a real GPU (`pytest -m gpu`): each way of loading makes the same video, in the memory that was promised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from tiny import make_plan, run
from vitascope.catalog import Catalog, locate
from vitascope.domain.model_spec import ModelSpec
from vitascope.engine import Wishes
from vitascope.engine.attention import KERNELS, problem_with
from vitascope.engine.engine import DiffusersEngine

pytestmark = pytest.mark.gpu

PIPELINES = ["LTXPipeline", "TextToVideoSDPipeline", "WanPipeline"]


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    root: Path = tmp_path_factory.mktemp("tiny")
    catalog = Catalog.open()
    return {name: catalog.resolve_local(str(tiny.build(name, root / name))) for name in PIPELINES}


@pytest.fixture(autouse=True)
def _is_free_afterwards() -> Iterator[None]:
    yield
    torch.cuda.empty_cache()


def made(spec: ModelSpec, times: int = 1, **wishes: str) -> tuple[Any, DiffusersEngine]:
    engine = DiffusersEngine(locate, device="cuda:0", wishes=Wishes(**wishes))
    for _ in range(times):
        _, clip = run(engine, spec, make_plan(spec, height=64, width=64))
    return clip, engine


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
@pytest.mark.parametrize("name", PIPELINES)
def test_weights_that_wait_make_the_same_frames(specs: dict[str, ModelSpec], name: str, offload: str) -> None:
    spec = specs[name]
    plain, engine = made(spec, dtype="float32", offload="none")
    engine.close()
    clip, engine = made(spec, 2, dtype="float32", offload=offload)
    np.testing.assert_array_equal(clip.frames, plain.frames)
    model = engine._loaded
    assert model is not None
    pipe = next(iter(model.pipelines.values()))
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            assert {parameter.device.type for parameter in part.parameters()} == {"cpu"}
    engine.close()


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
@pytest.mark.parametrize("offload", ["none", "model", "group", "sequential"])
def test_weights_in_bytes_wait_too(specs: dict[str, ModelSpec], offload: str, quantization: str) -> None:
    spec = specs["WanPipeline"]
    plain, engine = made(spec, dtype="float32", offload="none", quantization=quantization)
    engine.close()
    clip, engine = made(spec, dtype="float32", offload=offload, quantization=quantization)
    np.testing.assert_array_equal(clip.frames, plain.frames)
    engine.close()


def test_a_cancel_leaves_nothing_on_the_device(specs: dict[str, ModelSpec]) -> None:
    spec = specs["WanPipeline"]
    engine = DiffusersEngine(locate, device="cuda:0", wishes=Wishes(offload="group"))
    engine.load(spec)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    running = engine.generate(make_plan(spec), spec)
    while next(running).stage != "denoise":  # type: ignore[union-attr]
        pass
    running.close()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before + 2**20
    engine.close()


def test_kernels_that_pass_their_try_run_the_model(specs: dict[str, ModelSpec]) -> None:
    spec = specs["WanPipeline"]
    plain, engine = made(spec, attention="native")
    model = engine._loaded
    assert model is not None
    denoiser = next(iter(model.pipelines.values())).transformer
    device = torch.device("cuda:0")
    dtype = getattr(torch, model.placement.dtype)
    working = [name for name in KERNELS if problem_with(name, denoiser, device, dtype) is None]
    engine.close()
    assert "native" in working
    for name in working:
        clip, engine = made(spec, attention=name)
        assert clip.frames.shape == plain.frames.shape
        engine.close()

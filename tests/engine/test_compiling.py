"""Compiled blocks: they compute the same, and one that cannot be compiled runs as it is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny import loras, make_plan, run
from vitascope.catalog import Loras, locate
from vitascope.domain.choice import Choice
from vitascope.domain.errors import SettingsError
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import Lora
from vitascope.domain.step import Step
from vitascope.engine import Engine, Wishes, compiling, loading
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.placement import NO_WISHES, Placement

Models = dict[str, ModelSpec]

STEPS = 10


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Any], DiffusersEngine]]:
    """Engines whose blocks are compiled by a backend of the test's own: that of a device takes minutes."""
    opened: list[DiffusersEngine] = []

    def make(backend: Any) -> DiffusersEngine:
        torch._dynamo.reset()
        monkeypatch.setattr(loading, "Compiling", functools.partial(compiling.Compiling, backend=backend))
        wishes, find_loras = Wishes(compile="on"), Loras(tmp_path).files
        opened.append(DiffusersEngine(locate, device="cpu", threads=1, wishes=wishes, find_loras=find_loras))
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()
    torch._dynamo.reset()


def made(engine: Engine, spec: ModelSpec, **asked: Any) -> tuple[np.ndarray[Any, Any], Choice]:
    _, clip = run(engine, spec, make_plan(spec, num_inference_steps=STEPS, **asked))
    return clip.frames, next(choice for choice in clip.choices if choice.name == "compile")


class Counting:
    """A backend that runs graphs as they are."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        self.graphs.append(graph)
        return graph.forward


@pytest.mark.parametrize(("name", "denoiser"), [("WanPipeline", "native"), ("LTXPipeline", "diffusers")])
def test_blocks_are_compiled_once_for_all(
    engine: Engine,
    models: Models,
    compiled: Callable[[Any], DiffusersEngine],
    name: str,
    denoiser: str,
) -> None:
    backend = Counting()
    spec = dataclasses.replace(models[name], dtype="float32")
    plain, choice = made(engine, spec)
    assert choice == Choice("compile", "off", "on cpu it gains less than compiling takes")
    quick = compiled(backend)
    frames, choice = made(quick, spec)
    assert choice == Choice("compile", "blocks", "set by engine.compile")
    assert np.abs(frames.astype(int) - plain).max() <= 1
    num_graphs = len(backend.graphs)
    assert num_graphs > 0
    _, clip = run(quick, spec, make_plan(spec, num_inference_steps=STEPS))
    assert np.array_equal(clip.frames, frames)
    assert {one.name: one.value for one in clip.choices}["denoiser"] == denoiser
    others = [quick.generate(make_plan(spec, seed=seed), spec) for seed in (1, 2)]
    for generation in others:
        next(generation)  # a second slot, with modules of its own
    for generation in others:
        assert list(generation)
    assert len(backend.graphs) == num_graphs, "neither the other block nor another slot is compiled anew"
    cached, _ = made(quick, spec, speed="fast")
    assert np.abs(cached.astype(int) - made(engine, spec, speed="fast")[0]).max() <= 1
    assert len(backend.graphs) == num_graphs


def test_a_formula_is_compiled_once_for_videos_of_any_size(
    engine: Engine, models: Models, compiled: Callable[[Any], DiffusersEngine], tmp_path: Path
) -> None:
    """In its first step, and for each model apart; with adapters in its layers blocks run as they are."""
    backend = Counting()
    spec = dataclasses.replace(models["WanPipeline"], dtype="float32")
    quick = compiled(backend)
    num_graphs = 0
    for event in quick.generate(make_plan(spec, num_inference_steps=STEPS), spec):
        if isinstance(event, Step) and event.stage == "denoise" and num_graphs == 0:
            num_graphs = len(backend.graphs)
    assert len(backend.graphs) == num_graphs == 2, "for one sample and for both branches of guidance"
    for size in ({"num_frames": 9}, {"height": 48, "width": 64}):
        frames, _ = made(quick, spec, **size)
        assert np.abs(frames.astype(int) - made(engine, spec, **size)[0]).max() <= 1
    assert len(backend.graphs) == num_graphs
    loras.write(tmp_path / "x.safetensors", spec, "transformer", pattern=r"to_[qkv]$")
    frames, _ = made(quick, spec, loras=(Lora("x"),))
    assert not np.array_equal(frames, made(quick, spec)[0])
    assert len(backend.graphs) == num_graphs
    made(quick, dataclasses.replace(spec, id="another"))
    assert len(backend.graphs) == 2 * num_graphs


@pytest.mark.parametrize("name", ["WanPipeline", "LTXPipeline"])
def test_what_cannot_be_compiled_runs_as_it_is_and_says_so_once(
    engine: Engine,
    models: Models,
    name: str,
    compiled: Callable[[Any], DiffusersEngine],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def backend(_graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        message = "no such instruction"
        raise RuntimeError(message)

    spec = dataclasses.replace(models[name], dtype="float32")
    broken = compiled(backend)
    for _ in range(2):
        frames, choice = made(broken, spec)
        assert choice.value == "off"
        assert "compiling failed" in choice.reason
        assert "no such instruction" in choice.reason
        assert np.array_equal(frames, made(engine, spec)[0])
    assert [record.message for record in caplog.records].count(
        "compiling failed; blocks run as they are"
    ) == 1


CPU = torch.device("cpu")
PLACED = Placement("float32", "none", "none", "auto", 1, 1, 1, 1, 1, 1, has_tiles=False, choices=())


@pytest.mark.parametrize(
    ("asked", "placement", "value", "reason"),
    [
        ("off", PLACED, "off", "set by engine.compile"),
        ("on", PLACED, "blocks", "set by engine.compile"),
        ("auto", PLACED, "off", "on cpu it gains less than compiling takes"),
        (NO_WISHES.for_one_clip().compile, PLACED, "off", "one clip gains less than compiling takes"),
        ("on", dataclasses.replace(PLACED, offload="group"), "off", "its weights come and go"),
        (
            "on",
            dataclasses.replace(PLACED, quantization="int8"),
            "off",
            "its weights are made whole layer by layer",
        ),
    ],
)
def test_what_is_chosen_and_why(asked: str, placement: Placement, value: str, reason: str) -> None:
    blocks = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(2))
    denoisers = [torch.nn.ModuleDict({"blocks": blocks})]
    choice = compiling.choose_compile(asked, CPU, placement, denoisers)
    assert choice.value == value
    assert choice.reason.startswith(reason)


def test_a_device_without_a_compiler_is_told_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda _name: None)
    with pytest.raises(SettingsError, match="there is none"):
        DiffusersEngine(locate, device="cpu", wishes=Wishes(compile="on"))
    compiling.check_compile("auto", CPU)


def test_blocks_that_are_alike_are_found_where_diffusers_names_none() -> None:
    """A row's last block is another in Mochi; the levels of a U-Net are all others."""

    def row(*sizes: int) -> torch.nn.ModuleList:
        return torch.nn.ModuleList(torch.nn.Linear(2, size) for size in sizes)

    blocks = row(3, 3, 4)
    denoiser = torch.nn.ModuleDict({"blocks": blocks, "down_blocks": row(5, 6), "others": row(7, 7)})
    assert compiling._repeated(denoiser) == [*blocks][:2]
    choice = compiling.choose_compile("on", CPU, PLACED, [torch.nn.ModuleDict({"down_blocks": row(5, 6)})])
    assert choice == Choice("compile", "off", "`ModuleDict` has no blocks that are alike")

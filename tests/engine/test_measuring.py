"""`vitascope bench`: with random weights of a tiny architecture, measured once, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitascope.catalog import Catalog
from vitascope.cli.bench import bench
from vitascope.domain.errors import InvalidParameter, OutOfMemory, SettingsError, WriteFailed
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest
from vitascope.engine.fake import FakeEngine
from vitascope.engine.measuring import bench as measuring
from vitascope.engine.measuring.arithmetic import Counted
from vitascope.engine.measuring.bench import psnr
from vitascope.engine.measuring.runs import Plain, of_other_seed, run_together, weights_on

POCKET = Catalog.open().resolve("pocket")

NOTHING: dict[str, Any] = {
    "model": None, "architecture": None, "random_weights": False, "width": None, "height": None, "num_frames": None,
    "num_inference_steps": None, "guidance_scale": None, "repeats": 1, "concurrency": "1,2", "plain": True,
    "options": False, "plot": None, "as_json": True, "quiet": True,
}  # fmt: skip
TINY = {**NOTHING, "architecture": "wan-tiny", "random_weights": True, "num_inference_steps": 2}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITASCOPE_HOME", str(tmp_path))
    monkeypatch.setenv("VITASCOPE_ENGINE__THREADS", "1")
    monkeypatch.setenv("VITASCOPE_ENGINE__DEVICE", "cpu")


@pytest.mark.usefixtures("alone")
def test_figures_of_a_model_with_random_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "figures.png"
    all_options = measuring._alternatives

    def some_options(*args: Any) -> Any:
        """Others take long where they are compiled."""
        few = {("attention", "flash3"), ("quantization", "int8")}
        return [option for option in all_options(*args) if option[:2] in few]

    monkeypatch.setattr(measuring, "_alternatives", some_options)
    bench(**{**TINY, "plot": picture, "options": True})
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "wan-tiny"
    assert (found["weights"], found["text_encoder"]) == ("random", "a stand-in")
    assert (found["width"], found["height"], found["num_frames"], found["num_inference_steps"]) == (
        32,
        32,
        5,
        2,
    )
    ours, plain = found["engine"], found["plain"]
    for its in (ours, plain):
        assert 0 < its["step_seconds"] <= its["stage_seconds"]["denoise"] <= its["seconds"]
        assert 0 < its["share_of_peak"] < 1
        assert its["peak_bytes"] > 0
    assert ours["step_flops"] == plain["step_flops"] > 1e6
    assert found["ratio"]["step"] == pytest.approx(plain["step_seconds"] / ours["step_seconds"])
    assert found["psnr_to_plain"] is None or found["psnr_to_plain"] > 30, "both make the same clip"
    assert [row["requests"] for row in found["together"]] == [1, 2]
    assert all(row["jobs_per_hour"] > 0 for row in found["together"])
    rows = {(row["option"], row["value"]): row for row in found["options"]}
    error = rows["attention", "flash3"]["error"]
    assert error.endswith(" from source. The nearest legal value is `native`."), (
        "what cannot be is told, and the rest measured"
    )
    assert rows["quantization", "int8"]["psnr"] > 20
    assert rows["quantization", "int8"]["step_gain"] > 0
    with Image.open(picture) as image:
        assert image.width == 1000


@pytest.mark.usefixtures("alone")
def test_where_plain_diffusers_has_too_little_memory_the_engine_is_measured_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_all: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")

    monkeypatch.setattr(Plain, "run", run)
    bench(**{**TINY, "concurrency": "0"})
    found = json.loads(capsys.readouterr().out)
    assert found["why_no_plain"] == "CUDA out of memory."
    assert "plain" not in found
    assert "ratio" not in found
    assert found["engine"]["step_seconds"] > 0


@pytest.mark.usefixtures("alone")
def test_the_first_of_several_devices_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITASCOPE_ENGINE__DEVICE", "auto")
    monkeypatch.setenv("VITASCOPE_ENGINE__DEVICES", '["cuda:70", "cuda:71"]')
    with pytest.raises(SettingsError, match="there is no device `cuda:70` here"):
        bench(**TINY)


@pytest.mark.usefixtures("alone")
def test_figures_are_told_where_their_picture_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "figures.png"
    taken.mkdir()
    with pytest.raises(WriteFailed, match="the picture could not be written"):
        bench(**{**TINY, "plain": False, "concurrency": "0", "plot": taken})
    assert json.loads(capsys.readouterr().out)["engine"]["step_seconds"] > 0


def test_weights_of_what_is_loaded_beside_are_told_on_a_device_of_its_own() -> None:
    layer = torch.nn.Linear(8, 16, bias=False, device="meta")
    waits = torch.nn.Linear(8, 16)
    pipelines = [Components({"one": layer, "other": waits, "tokenizer": None}), Components({"one": layer})]
    assert weights_on(torch.device("meta"), pipelines) == 4 * 8 * 16
    assert weights_on(torch.device("cpu"), pipelines) == 0, "its weights are mapped files, that both have"


def test_requests_for_which_there_is_no_room_wait_for_those_before() -> None:
    """Weights that come and go work for one request at a time: what is measured then is one after the other."""
    engine = FakeEngine(slots=1)
    done: list[tuple[int, int]] = []
    run_together(engine, three_plans(), POCKET, torch.device("cpu"), lambda *told: done.append(told))
    assert done[-1] == (6, 6)
    assert engine.residency.models["pocket"].num_open == 0


def test_one_that_fails_leaves_none_open() -> None:
    engine = FakeEngine(slots=3)
    steps = iter(range(100))

    def fail_at_last(*_told: int) -> None:
        if next(steps) == 3:
            raise OutOfMemory("too little")

    with pytest.raises(OutOfMemory) as failed:
        run_together(engine, three_plans(), POCKET, torch.device("cpu"), fail_at_last)
    engine.close()  # which it refuses while there are; `failed` holds the frame that had them
    assert failed.value.message == "too little"


def three_plans() -> list[Plan]:
    made = plan(GenerationRequest(prompt="a cat", model="pocket", num_inference_steps=2, seed=1), POCKET)
    return [of_other_seed(made, number) for number in range(3)]


@dataclass
class Components:
    components: dict[str, Any]


@pytest.mark.parametrize(
    ("asked", "parameter"),
    [
        ({"random_weights": True}, "--random-weights"),
        ({"architecture": "wan-tiny"}, "--architecture"),
        ({"architecture": "wan-9b", "random_weights": True}, "--architecture"),
        ({"architecture": "wan-tiny", "random_weights": True, "model": "pocket"}, "--architecture"),
        ({"concurrency": "1,many"}, "--concurrency"),
        ({"concurrency": "1000"}, "--concurrency"),
        ({"concurrency": ","}, "--concurrency"),
        ({"plot": Path("figures.svg")}, "--plot"),
        ({"model": "pocket", "num_frames": 100}, "--num-frames"),
        ({"model": "pocket", "num_frames": 0}, "num_frames"),
        ({"model": "pocket", "width": 0}, "width"),
        ({"model": "pocket", "height": 0}, "height"),
    ],
)
@pytest.mark.usefixtures("alone")
def test_what_cannot_be_measured_is_refused_at_once(asked: dict[str, Any], parameter: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        bench(**{**NOTHING, **asked})
    assert refused.value.parameter == parameter


def test_the_operations_of_the_first_forward_are_counted() -> None:
    layer = torch.nn.Linear(8, 16, bias=False)
    counted = Counted()
    with counted.of([layer], with_flops=True):
        for _ in range(3):
            layer(torch.ones(4, 8))
    assert counted.flops == 2 * 4 * 8 * 16
    assert counted.num_forwards == 3
    layer(torch.ones(4, 8))
    assert counted.num_forwards == 3, "the module is as before"


class Attending(torch.nn.Module):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


def test_the_operations_of_attention_are_counted_on_a_cpu_too() -> None:
    module = Attending()
    counted = Counted()
    with torch.no_grad(), counted.of([module], with_flops=True):
        module(torch.ones(1, 2, 64, 16))
    assert counted.flops == 2 * (2 * 2 * 64 * 64 * 16), "the scores, and what they take of the values"


def test_likeness_of_clips() -> None:
    black = np.zeros((1, 2, 2, 3), np.uint8)
    assert psnr(black, black) is None
    assert psnr(black, black + 255) == pytest.approx(0.0)

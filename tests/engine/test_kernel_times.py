"""Attention kernels are measured once for each kind of work, and the quickest is taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from vitascope.engine import attention, kernel_times
from vitascope.engine.attention import choose_attention
from vitascope.engine.kernel_times import KernelTimes, length_class

CPU = torch.device("cpu")


class Measured:
    """Stands in for a device: what each kernel takes, and how often it was asked."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds
        self.asked: list[tuple[str, int, int]] = []

    def __call__(self, name: str, head_dim: int, length: int, *_more: Any) -> float:
        self.asked.append((name, head_dim, length))
        if name not in self.seconds:
            message = "no kernel image is available"
            raise RuntimeError(message)
        return self.seconds[name]


def times(
    path: Path | None, measured: Measured, names: Sequence[str], length: int = 1024
) -> dict[str, float]:
    return KernelTimes(path, measured).of(names, 128, length, CPU, torch.bfloat16)


def test_it_is_measured_once_a_machine(tmp_path: Path) -> None:
    path, measured = tmp_path / "deeper" / "attention.json", Measured(native=3.0, cudnn=2.0)
    for _ in range(2):
        assert times(path, measured, ["native", "cudnn"]) == {"native": 3.0, "cudnn": 2.0}
    assert measured.asked == [("native", 128, 1024), ("cudnn", 128, 1024)]
    times(path, measured, ["native"], length=2048)
    assert measured.asked[2:] == [("native", 128, 2048)], "another length is another measurement"
    assert [file.name for file in path.parent.iterdir()] == ["attention.json"]


def test_a_kernel_that_comes_later_is_measured_beside(tmp_path: Path) -> None:
    path, measured = tmp_path / "attention.json", Measured(native=3.0, flash=1.0)
    times(path, measured, ["native"])
    assert times(path, measured, ["native", "flash"]) == {"native": 3.0, "flash": 1.0}
    assert [name for name, *_ in measured.asked] == ["native", "flash"]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}'])
def test_a_broken_file_is_measured_over(tmp_path: Path, content: str) -> None:
    path = tmp_path / "attention.json"
    path.write_text(content)
    assert times(path, Measured(native=3.0), ["native"]) == {"native": 3.0}


@pytest.mark.parametrize("written", ["null", '"quick"', "[1]", "true", "-1", "0", "NaN", "Infinity"])
def test_a_number_that_nobody_measured_is_measured_over(tmp_path: Path, written: str) -> None:
    path, measured = tmp_path / "attention.json", Measured(native=3.0, cudnn=2.0)
    times(path, measured, ["native", "cudnn"])
    path.write_text(path.read_text("utf-8").replace('"native": 3.0', f'"native": {written}'), "utf-8")
    assert times(path, measured, ["native", "cudnn"]) == {"native": 3.0, "cudnn": 2.0}
    assert [name for name, *_ in measured.asked] == ["native", "cudnn", "native"]
    assert times(path, Measured(), ["native", "cudnn"]) == {"native": 3.0, "cudnn": 2.0}


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "attention.json").mkdir()
    assert times(tmp_path / "attention.json", Measured(native=3.0), ["native"]) == {"native": 3.0}
    assert [file.name for file in tmp_path.iterdir()] == ["attention.json"]


def test_what_cannot_be_measured_is_left_out() -> None:
    assert times(None, Measured(native=3.0), ["native", "flash"]) == {"native": 3.0}
    assert times(None, Measured(), ["native", "flash"]) == {"native": 0.0}


def test_lengths_share_measurements() -> None:
    assert [length_class(number) for number in (0, 900, 1024, 1500, 32760, 10**6)] == [
        1024, 1024, 1024, 2048, 32768, 65536,
    ]  # fmt: skip


def test_the_quickest_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's plain kernel as another one that works here, and one that does not."""
    monkeypatch.setitem(kernel_times.KERNELS, "math", "_native_math")
    monkeypatch.setattr(attention, "_candidates", lambda _device: ("math", "cudnn"))
    denoiser = tiny.BUILDERS["WanPipeline"]().transformer
    for quickest, measured in (
        ("math", Measured(native=3.0, math=2.0)),
        ("native", Measured(native=1.0, math=2.0)),
    ):
        choice = choose_attention("auto", denoiser, CPU, torch.float32, 5000, KernelTimes(None, measured))
        assert choice.value == quickest
        assert "for 4096 tokens" in choice.reason
        assert [name for name, *_ in measured.asked] == ["native", "math"]
    real = choose_attention("auto", denoiser, CPU, torch.float32, 0)
    assert real.value in ("native", "math")
    assert "measured once on this device" in real.reason

"""Convolutions in three dimensions give the same whichever way they go."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import Conv3d

from vitascope.engine import convolutions
from vitascope.engine.slots import clone_module

CPU = torch.device("cpu")


@pytest.fixture
def without_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def layers() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        Conv3d(4, 8, 3, padding=(0, 1, 1)),
        Conv3d(8, 8, (3, 1, 1), stride=(2, 1, 1), groups=2),
        Conv3d(8, 6, 3, padding="same", bias=False),
        Conv3d(6, 4, 3, padding=1, padding_mode="replicate"),
        Conv3d(4, 4, 1, dtype=torch.float64),
    ).eval()


@torch.inference_mode()
def through(module: torch.nn.Sequential) -> torch.Tensor:
    clip = torch.randn(2, 4, 7, 10, 6, generator=torch.Generator().manual_seed(1))
    return module[:-1](clip)


@pytest.mark.usefixtures("without_avx512")
def test_they_give_the_same() -> None:
    module = layers()
    expected = through(module)
    assert convolutions.quicken(module, CPU) == 2, "those that oneDNN has just so"
    assert torch.allclose(through(module), expected, atol=1e-5)


@pytest.mark.usefixtures("without_avx512")
def test_bfloat16_is_computed_in_float32_and_rounded_once() -> None:
    flat = torch.nn.Conv2d(4, 6, 3, bias=False)
    for layer, given in (*((each, (4, 7, 10, 6)) for each in layers()[:1]), (flat, (2, 4, 10, 6))):
        numbers = torch.randn(given).bfloat16()
        layer.bfloat16()
        exact = copy.deepcopy(layer).float()
        with torch.inference_mode():
            assert convolutions.quicken(layer, CPU) == 1
            made = layer(numbers)
            assert made.dtype == torch.bfloat16
            torch.testing.assert_close(made, exact(numbers.float()).bfloat16(), rtol=0.01, atol=0.01)


@pytest.mark.usefixtures("without_avx512")
def test_a_slots_copy_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = layers()
    convolutions.quicken(module, CPU)
    clone = clone_module(module)
    assert clone[0]._conv_forward.__self__ is clone[0]
    assert clone[0].weight is module[0].weight
    assert torch.equal(through(clone), through(module))


def test_nothing_changes_where_torch_does_it_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert convolutions.quicken(layers(), CPU) == 0


@pytest.mark.usefixtures("without_avx512")
def test_other_devices_have_kernels_of_their_own() -> None:
    assert convolutions.quicken(layers(), torch.device("cuda")) == 0


@pytest.mark.usefixtures("without_avx512")
def test_where_onednn_does_not_work_it_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise RuntimeError("could not create a primitive")

    convolutions._has_onednn.cache_clear()
    monkeypatch.setattr(torch, "mkldnn_convolution", refuses)
    try:
        assert convolutions.quicken(layers(), CPU) == 0
    finally:
        convolutions._has_onednn.cache_clear()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("asked", ["auto", "on", "off"])
def test_the_order_in_memory_is_as_asked_or_as_measured(asked: str, device: str) -> None:
    for name, measured in (("AutoencoderKLWan", device == "cpu"), ("AutoencoderKLMochi", False)):
        choice = convolutions.choose_layout(asked, name, torch.device(device))
        assert choice.value == ("on" if asked == "on" or (asked == "auto" and measured) else "off")
        assert choice.reason


@pytest.mark.usefixtures("without_avx512")
@torch.inference_mode()
def test_channels_come_last_in_all_that_follows_and_numbers_stay() -> None:
    module = torch.nn.Sequential(
        Conv3d(4, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Flatten(0, 1), torch.nn.Conv2d(7, 4, 3)
    ).eval()
    clip = torch.randn(1, 4, 7, 10, 6)
    expected = module(clip)
    assert convolutions.quicken(module, CPU) == 1
    convolutions.lay_out(module)
    made = module[0](clip)
    assert made.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(module(clip), expected, rtol=0, atol=1e-5)

"""Parts of a forward beside each other: what comes out, with whose settings, and when it does not pay."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from tiny.wan import _settings
from vitascope.engine.calls import Call, read_call
from vitascope.engine.families import wan
from vitascope.engine.side_by_side import cut, side_by_side


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("num", "sizes"),
    [(1, [1]), (2, [1, 1]), (3, [1, 2]), (4, [1, 1, 1, 1]), (6, [1, 2, 1, 2]), (9, [2, 2, 2, 3])],
)
def test_parts_are_in_order_and_of_nearly_equal_size(num: int, sizes: list[int]) -> None:
    parts = cut(range(num))
    assert [len(part) for part in parts] == sizes
    assert [item for part in parts for item in part] == list(range(num))


def test_each_part_has_its_share_of_threads_and_they_work_at_once() -> None:
    meeting = threading.Barrier(2, timeout=60)

    def compute(part: str) -> tuple[str, int]:
        meeting.wait()
        return part, torch.get_num_threads()

    assert side_by_side(compute, ["one", "other"]) == [("one", 2), ("other", 2)]
    assert torch.get_num_threads() == 4
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [4]  # other threads that begin now are not given a part's share


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_parts_are_computed_in_the_callers_mode(mode: type[torch.no_grad]) -> None:
    weight = torch.ones(1, requires_grad=True)
    with mode():
        expected = (weight * 2).requires_grad, (weight * 2).is_inference()
        made = side_by_side(lambda part: weight * part, [2, 3])
        assert [(each.requires_grad, each.is_inference()) for each in made] == [expected, expected]


def test_an_error_of_one_part_is_the_callers_when_all_have_ended() -> None:
    has_failed, ended = threading.Event(), []

    def compute(part: int) -> int:
        if part == 1:
            has_failed.set()
            raise MemoryError("no more")
        assert has_failed.wait(60)
        ended.append(part)
        return part

    with pytest.raises(MemoryError, match="no more"):
        side_by_side(compute, [1, 2])
    assert ended == [2]
    assert side_by_side(compute, [3, 4]) == [3, 4]


def _calls(num: int) -> list[Call]:
    found = []
    for seed in range(num):
        torch.manual_seed(seed)
        given = {
            "hidden_states": torch.randn(1, 16, 3, 4, 8),
            "timestep": torch.tensor([900.0 - 100 * seed]),
            "encoder_hidden_states": torch.randn(1, 20, 32),
            "return_dict": False,
        }
        call = read_call("WanTransformer3DModel", given)
        assert call is not None
        found.append(call)
    return found


def test_calls_of_a_small_forward_are_computed_apart_and_those_of_a_large_one_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    module = WanTransformer3DModel(**_settings()).eval()
    widths: list[int] = []
    module.blocks[0].norm2.register_forward_pre_hook(lambda _module, given: widths.append(len(given[0])))
    with torch.no_grad():
        native = wan.Wan(module, {})
        alone = [native([call]) for call in _calls(4)]
        widths.clear()
        apart = native(_calls(4))
        assert widths == [1, 1, 1, 1]
        monkeypatch.setattr(wan, "MOST_BESIDE", 0)
        widths.clear()
        together = native(_calls(4))
        assert widths == [4]
    assert apart is not None
    assert together is not None
    for part, other, own in zip(apart, together, alone, strict=True):
        assert own is not None
        torch.testing.assert_close(part, own[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(part, other, rtol=0, atol=1e-4)

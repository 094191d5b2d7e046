"""What several devices share of a request, and which device lists are refused."""

from __future__ import annotations

import pytest
import torch

from vitascope.domain.errors import SettingsError
from vitascope.engine import Devices
from vitascope.engine.device import choose_devices
from vitascope.engine.parallel import choose

WAN, LTX, COG = "WanTransformer3DModel", "LTXVideoTransformer3DModel", "CogVideoXTransformer3DModel"


@pytest.mark.parametrize(
    ("asked", "num_devices", "denoisers", "has_guidance", "kind", "reason"),
    [
        ("auto", 1, [WAN], True, "off", "one device"),
        ("off", 2, [WAN], True, "off", "engine.parallel"),
        ("auto", 2, [WAN, WAN], True, "guidance", "two branches"),
        ("auto", 2, [WAN], False, "context", "without guidance"),
        ("auto", 4, [WAN], True, "context", "4 devices"),
        ("auto", 2, [LTX], True, "guidance", "two branches"),
        ("auto", 4, [LTX], True, "off", "cannot split the tokens of a `LTXVideoTransformer3DModel`"),
        ("auto", 2, [COG], True, "off", "cannot split the tokens of a `CogVideoXTransformer3DModel`"),
        ("context", 2, [WAN], True, "context", "engine.parallel"),
        ("guidance", 2, [WAN], True, "guidance", "engine.parallel"),
        ("guidance", 2, [WAN], False, "context", "without guidance"),
        ("guidance", 2, [COG], True, "off", "cannot share the guidance"),
    ],
)
def test_what_is_shared_follows_from_devices_model_and_request(
    asked: str, num_devices: int, denoisers: list[str], has_guidance: bool, kind: str, reason: str
) -> None:
    found, choice = choose(asked, num_devices, denoisers, has_guidance=has_guidance)
    assert (found, choice.name) == (kind, "parallel")
    assert reason in choice.reason


def test_tokens_of_weights_that_come_and_go_are_not_split() -> None:
    kind, choice = choose("context", 2, [WAN], has_guidance=True, takes_turns=True)
    assert (kind, choice.value) == ("guidance", "2 devices, one branch of guidance each")
    assert "come and go" in choice.reason


@pytest.mark.parametrize(
    ("device", "names", "parallel", "says"),
    [
        ("auto", (), "guidance", r"names no devices. The nearest legal value is `auto`"),
        ("auto", ("cpu",), "context", r"names 1 device. The nearest legal value is `auto`"),
        ("auto", ("cpu", "meta"), "auto", r'different kinds. The nearest legal value is `\["cpu"\]`'),
        ("auto", ("meta", "meta"), "auto", r'on CUDA only. The nearest legal value is `\["meta"\]`'),
        (
            "auto",
            ("cpu", "nothing"),
            "auto",
            r'there is no device `nothing` here. The nearest legal value is `\["cpu"\]`',
        ),
        ("auto", ("cpu",) * 3, "guidance", "names 3. The nearest legal value is `context`"),
        ("meta", ("cpu", "cpu"), "auto", "begins with `cpu`. The nearest legal value is `auto`"),
    ],
)
def test_devices_that_cannot_work_together_are_refused(
    device: str, names: tuple[str, ...], parallel: str, says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        choose_devices(device, Devices(names, parallel))


def test_devices_are_taken_where_they_are_several_and_used() -> None:
    assert choose_devices("auto", Devices(("cpu", "cpu"))) == (torch.device("cpu"), torch.device("cpu"))
    assert choose_devices("auto", Devices(("cpu", "cpu"), "off")) == ()
    assert choose_devices("cpu", Devices(("cpu",))) == ()
    assert choose_devices("cpu", Devices()) == ()

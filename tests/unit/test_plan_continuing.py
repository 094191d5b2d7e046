"""Planning what follows a video that is given."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest, Shot, Watermark

A_SECOND = {"continues": "inputs/x.continues", "continued_frames": 8}


def planned(spec: ModelSpec, **asked: Any) -> Plan:
    return plan(GenerationRequest(**{"prompt": "a dog", "model": "small", "seed": 1, **asked}), spec)


@pytest.mark.parametrize("overlap", [1, 4])
@pytest.mark.parametrize(("given", "added", "fps"), [(8, 1, 8), (8, 16, 8), (8, 17, 8), (30, 90, 30), (1, 480, 8), (24, 7, 24)])  # fmt: skip
def test_windows_reach_the_last_frame(
    small_spec: ModelSpec, overlap: int, given: int, added: int, fps: int
) -> None:
    spec = replace(small_spec, overlap=overlap)
    made = planned(spec, continues="x", continued_frames=given, num_frames=given + added, fps=fps)
    assert (made.mode, made.continued_frames, made.num_frames) == ("image", given, given + added)
    assert {(window.mode, window.overlap) for window in made.windows} == {("image", overlap)}
    needed = Fraction(added * spec.fps, fps)
    assert needed <= made.native_num_frames
    without_last = made.native_num_frames - made.windows[-1].num_frames + overlap
    assert without_last < needed, "no window is made for nothing"
    assert all(window.num_frames in range(5, 18, 4) for window in made.windows)
    assert made.native_rate == spec.fps
    assert Plan.from_dict(made.to_dict()) == made


def test_how_long_it_is(small_spec: ModelSpec) -> None:
    assert planned(small_spec, **A_SECOND).num_frames == 8 + 17, "the model's own clip follows"
    assert planned(small_spec, **A_SECOND, added_seconds=2.5).num_frames == 8 + 20
    assert planned(small_spec, **A_SECOND, num_frames=9, added_seconds=2.5).num_frames == 9, "the whole wins"
    assert planned(small_spec, **A_SECOND, num_frames=8 + 60 * 8).num_frames == 488
    long = {"continues": "x", "continued_frames": 119 * 8}
    assert planned(small_spec, **long).num_frames == 120 * 8, "as far as a file may go"
    unknown = planned(small_spec, continues="x", added_seconds=2)
    assert (unknown.num_frames, unknown.continued_frames) == (17, 1), "until it is looked at"


@pytest.mark.parametrize(
    ("asked", "parameter", "nearest"),
    [
        ({"num_frames": 8}, "num_frames", 9),
        ({"num_frames": -5}, "num_frames", 9),
        ({"num_frames": 489}, "num_frames", 488),
        ({"continued_frames": 100 * 8, "num_frames": 121 * 8}, "num_frames", 960),
        ({"added_seconds": 0}, "added_seconds", 0.125),
        ({"added_seconds": -1.0}, "added_seconds", 0.125),
        ({"added_seconds": float("nan")}, "added_seconds", 60),
        ({"added_seconds": 60.1}, "added_seconds", 60),
        ({"added_seconds": 1e300}, "added_seconds", 60),
        ({"continued_frames": 100 * 8, "added_seconds": 21.0}, "added_seconds", 20),
    ],
)
def test_a_length_out_of_reach_names_the_nearest(
    small_spec: ModelSpec, asked: dict[str, Any], parameter: str, nearest: float
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        planned(small_spec, **{**A_SECOND, **asked})
    assert (caught.value.parameter, caught.value.nearest) == (parameter, nearest)
    planned(small_spec, **{**A_SECOND, **asked, parameter: nearest})


def test_a_video_with_nothing_left_to_add_is_refused(small_spec: ModelSpec) -> None:
    with pytest.raises(InvalidParameter):
        planned(small_spec, continues="x", continued_frames=120 * 8, num_frames=120 * 8)


@pytest.mark.parametrize(
    "beside",
    [{"image": "x"}, {"last_image": "x"}, {"video": "x"}, {"references": ("x",)}, {"shots": (Shot("a"),)}],
)
def test_nothing_else_decides_the_start(small_spec: ModelSpec, beside: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="cannot be used beside `continues`"):
        planned(small_spec, **A_SECOND, **beside)


def test_a_model_must_start_from_a_picture(small_spec: ModelSpec) -> None:
    for modes in (("text",), ("text", "video")):
        spec = replace(small_spec, pipelines=dict.fromkeys(modes, "WanPipeline"))
        with pytest.raises(InvalidParameter, match="continues no videos"):
            planned(spec, **A_SECOND)
    assert planned(replace(small_spec, pipelines={"image": "I"}), **A_SECOND).mode == "image"


def test_a_mark_that_is_there_is_not_drawn_again(small_spec: ModelSpec) -> None:
    mark = Watermark(text="AI")
    assert planned(small_spec, **A_SECOND, watermark=mark).watermark_from == 0
    assert planned(small_spec, **A_SECOND, watermark=mark, continued_watermark=mark).watermark_from == 8
    other = Watermark(text="other")
    assert planned(small_spec, **A_SECOND, watermark=mark, continued_watermark=other).watermark_from == 0
    request = GenerationRequest(prompt="a", model="small", **A_SECOND, continued_watermark=mark, source="01")  # type: ignore[arg-type]
    assert GenerationRequest.from_dict(request.to_dict()) == request

"""Shots: how long each is, what each starts from, and where in the model's frames one ends and the next begins."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitascope.domain.cost import effort_of
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import Bounds, FrameRule, Mode, ModelSpec, Size
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest, Shot
from vitascope.domain.windows import scaled_lengths

SPEC = ModelSpec(
    id="small",
    title="Small",
    family="generic",
    source="folder:/nowhere",
    pipelines={"text": "WanPipeline", "image": "WanImageToVideoPipeline"},
    sizes=(Size(192, 192),),
    frames=FrameRule(4, 1, 5, 17),
    default_num_frames=17,
    fps=8,
    num_inference_steps=Bounds(12, 1, 100),
    guidance_scale=Bounds(4.0, 1.0, 20.0),
)

Transitions = tuple[str | None, ...]


def planned(lengths: tuple[int, ...], *transitions: Any, spec: ModelSpec = SPEC, **asked: Any) -> Plan:
    """A plan of shots that begin so; of the first one it is not said."""
    shots = tuple(
        Shot(f"shot {index}", length, transition)
        for index, (length, transition) in enumerate(zip(lengths, (None, *transitions), strict=True))
    )
    return plan(
        GenerationRequest(**{"prompt": "", "model": "small", "seed": 1, "shots": shots, **asked}), spec
    )


def windows(made: Plan) -> list[tuple[int, Mode, int, int, int]]:
    return [(w.shot, w.mode, w.num_frames, w.overlap, w.surplus) for w in made.windows]


def test_a_shot_goes_on_from_the_last_frame_that_the_one_before_shows() -> None:
    made = planned((12, 12, 12), "continue", "cut")
    assert windows(made) == [
        (0, "text", 13, 0, 1),  # the thirteenth frame is not seen, and so nothing starts from it
        (1, "image", 13, 1, 0),
        (2, "text", 13, 0, 0),
    ]
    assert [window.prompt for window in made.windows] == ["shot 0", "shot 1", "shot 2"]
    assert made.shots == ((12, "cut"), (12, "continue"), (12, "cut"))
    assert made.takes == ((24, 24), (13, 12))
    assert made.native_num_frames == 37
    assert made.num_frames == 36
    assert {choice.name for choice in made.choices} == {"native_num_frames"}


def test_without_a_word_shots_are_cut() -> None:
    assert planned((12, 9), None).windows == planned((12, 9), "cut").windows
    assert planned((12, 9), None).takes == ((13, 12), (9, 9))


def test_a_first_shot_has_nothing_to_continue() -> None:
    shot = Shot("a dog", 9, "continue")
    request = GenerationRequest(prompt="", model="small", seed=1, shots=(shot,))
    made = plan(request, SPEC)
    assert windows(made) == [(0, "text", 9, 0, 0)]
    assert made.shots == ((9, "cut"),)
    text_only = replace(SPEC, pipelines={"text": "WanPipeline"})
    assert plan(request, text_only).choices == ()


def test_a_long_shot_goes_on_window_by_window() -> None:
    made = planned((20, 40), "continue")
    assert windows(made) == [
        (0, "text", 17, 0, 0),
        (0, "image", 5, 1, 1),
        (1, "image", 17, 1, 0),
        (1, "image", 17, 1, 0),
        (1, "image", 9, 1, 0),
    ]
    assert made.takes == ((60, 60),)
    assert "windows" in {choice.name for choice in made.choices}


def test_a_model_that_cannot_start_from_a_picture_cuts_and_says_so() -> None:
    text_only = replace(SPEC, pipelines={"text": "WanPipeline"})
    made = planned((9, 9, 9), "continue", "cut", spec=text_only)
    assert windows(made) == [(index, "text", 9, 0, 0) for index in range(3)]
    assert made.shots == ((9, "cut"),) * 3
    (told,) = made.choices
    assert (told.name, told.value) == ("transition", "cut")
    assert told.reason.startswith("model `small` cannot start from a picture")
    assert planned((9, 9), "cut", spec=text_only).choices == ()


def test_a_model_that_only_starts_from_pictures_continues_too() -> None:
    image_only = replace(SPEC, pipelines={"image": "WanImageToVideoPipeline"})
    made = planned((9, 9, 9), "continue", "cut", spec=image_only, image="a.png")
    assert windows(made) == [(0, "image", 9, 0, 0), (1, "image", 13, 1, 0), (2, "image", 9, 0, 0)]


def test_with_a_first_image_shots_continue_and_a_cut_leaves_it() -> None:
    made = planned((9, 5, 9), "continue", "cut", image="a.png")
    assert windows(made) == [(0, "image", 9, 0, 0), (1, "image", 9, 1, 0), (2, "text", 9, 0, 0)]


def test_a_standing_picture_that_is_changed_is_changed_in_each_shot() -> None:
    video = replace(SPEC, pipelines={**SPEC.pipelines, "video": "WanVideoToVideoPipeline"})
    made = planned((9, 9), "continue", spec=video, image="a.png", strength=0.5)
    assert windows(made) == [(0, "video", 9, 0, 0), (1, "video", 9, 0, 0)]
    assert [choice.name for choice in made.choices] == ["transition"]


def test_references_count_in_shots_that_continue() -> None:
    every = replace(SPEC, pipelines={**SPEC.pipelines, "reference": "WanVACEPipeline"})
    made = planned((9, 8), "continue", spec=every, references=("a.png",))
    assert windows(made) == [(0, "reference", 9, 0, 0), (1, "reference", 9, 1, 0)]


def test_shared_frames_are_those_that_are_there() -> None:
    wide = replace(SPEC, overlap=5)
    assert windows(planned((9, 9), "continue", spec=wide))[1] == (1, "image", 17, 5, 0)
    made = planned((4, 3, 9), "continue", "continue", spec=wide)
    assert windows(made) == [(0, "text", 5, 0, 1), (1, "image", 5, 1, 1), (2, "image", 17, 5, 0)]


def test_a_shot_shorter_than_a_frame_of_the_model_needs_no_pass() -> None:
    made = planned((24, 1, 24), "continue", "continue", fps=24)
    assert [window.shot for window in made.windows] == [0, 2]
    assert made.shots == ((24, "cut"), (1, "continue"), (24, "continue"))
    assert made.takes == ((made.native_num_frames, 49),)


@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=16),
    transitions=st.lists(st.sampled_from([None, "cut", "continue"]), min_size=15, max_size=15),
    fps=st.integers(1, 60),
    overlap=st.integers(1, 4),
)
@settings(max_examples=300, deadline=None)
def test_all_that_is_shown_is_made(
    lengths: list[int], transitions: list[Any], fps: int, overlap: int
) -> None:
    lengths = [min(length, 60 * fps // len(lengths)) for length in lengths]
    spec = replace(SPEC, overlap=overlap)
    made = planned(tuple(lengths), *transitions[: len(lengths) - 1], spec=spec, fps=fps)
    assert made.num_frames == sum(lengths) == sum(shown for _, shown in made.takes)
    assert made.native_num_frames == sum(native for native, _ in made.takes)
    assert [length for length, _ in made.shots] == lengths
    for native, shown in made.takes:
        assert (native - 1) / 8 >= (shown - 1) / fps - 1e-9
    kept = 0
    for window, after in zip(made.windows, [*made.windows[1:], None], strict=True):
        assert window.num_frames % 4 == 1
        assert 5 <= window.num_frames <= 17
        assert window.num_new_frames > 0
        assert window.surplus == 0 or after is None or after.shot > window.shot
        kept = window.num_new_frames if not window.continues else kept + window.num_new_frames
        assert after is None or after.overlap <= kept, "a window starts from what is there"


def test_progress_and_cost_count_every_shot() -> None:
    one = planned((9,))
    three = planned((9, 8, 8), "continue", "continue")
    assert three.total_steps == 3 * one.total_steps
    assert effort_of(three).num_steps == 3 * effort_of(one).num_steps
    assert effort_of(three).num_windows == 3


def test_a_plan_with_shots_survives_the_store() -> None:
    made = planned((12, 12), "continue")
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    request = GenerationRequest(prompt="", model="small", shots=(Shot("a", 9), Shot("b", 9, "continue")))
    assert GenerationRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


def test_shots_that_were_stored_before_there_were_transitions_are_cuts() -> None:
    made = planned((12, 12), None)
    stored = json.loads(json.dumps(made.to_dict()))
    for window in stored["windows"]:
        del window["surplus"]
    assert Plan.from_dict(stored) == made
    request = GenerationRequest(prompt="", model="small", shots=(Shot("a", 9),))
    old = json.loads(json.dumps(request.to_dict()))
    del old["shots"][0]["transition"]
    assert GenerationRequest.from_dict(old) == request


def test_another_transition_is_refused() -> None:
    with pytest.raises(
        InvalidParameter, match=r"`shots\[1\]\.transition` is 'fade', but it must be one of"
    ) as caught:
        planned((9, 9), "fade")
    assert caught.value.nearest == "cut"


@pytest.mark.parametrize(
    ("durations", "num_frames", "lengths"),
    [
        ([5, 5], 80, (40, 40)),
        ([5, 10], 80, (27, 53)),
        ([0.001, 10], 80, (1, 79)),
        ([10, 0.001, 0.001], 80, (78, 1, 1)),
        ([1, 1, 1], 3, (1, 1, 1)),
        ([1e308, 1e308, 1e-308], 9, (4, 4, 1)),
    ],
)
def test_durations_are_scaled_to_a_whole(
    durations: list[float], num_frames: int, lengths: tuple[int, ...]
) -> None:
    assert scaled_lengths(durations, num_frames) == lengths


@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=16), st.integers(16, 3600))
@settings(deadline=None)
def test_scaled_lengths_are_the_whole(durations: list[float], num_frames: int) -> None:
    lengths = scaled_lengths(durations, num_frames)
    assert sum(lengths) == num_frames
    assert min(lengths) >= 1

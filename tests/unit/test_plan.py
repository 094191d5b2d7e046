"""Planning: what is asked for, what the model makes, and exact refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import Bounds, FrameRule, ModelSpec, Size
from vitascope.domain.plan import MAX_PROMPT_CHARS, Plan, plan
from vitascope.domain.request import MAX_SEED, GenerationRequest, Shot, num_frames_for

SPEC = ModelSpec(
    id="small",
    title="Small",
    family="generic",
    source="folder:/nowhere",
    pipelines={"text": "WanPipeline", "image": "WanImageToVideoPipeline"},
    sizes=(Size(192, 192), Size(128, 192)),
    size_multiple=32,
    frames=FrameRule(4, 1, 5, 17),
    default_num_frames=17,
    fps=8,
    num_inference_steps=Bounds(12, 1, 100),
    guidance_scale=Bounds(4.0, 1.0, 20.0),
    schedulers=("UniPCMultistepScheduler",),
)


def planned(spec: ModelSpec = SPEC, **asked: Any) -> Plan:
    return plan(GenerationRequest(**{"prompt": "a dog", "model": "small", "seed": 1, **asked}), spec)


def test_defaults_come_from_the_card() -> None:
    made = planned()
    assert (made.height, made.width, made.num_frames, made.fps) == (192, 192, 17, 8)
    assert (made.num_inference_steps, made.guidance_scale, made.scheduler) == (12, 4.0, None)
    assert made.fit == "none"
    assert made.choices == ()


def test_plan_survives_the_store() -> None:
    made = planned(width=1280, height=720, num_frames=96, fps=24, image="inputs/x.png")
    assert Plan.from_dict(made.to_dict()) == made
    request = GenerationRequest(prompt="a", model="small", metadata={"a": 1})
    assert GenerationRequest.from_dict(request.to_dict()) == request


def test_a_shift_is_for_models_of_flow_matching() -> None:
    assert planned().flow_shift is None
    assert planned(flow_shift=12).flow_shift == 12
    with pytest.raises(InvalidParameter, match="nearest legal value is 100"):
        planned(flow_shift=1000)
    with pytest.raises(InvalidParameter, match="flow matching"):
        planned(replace(SPEC, scheduler_family="discrete"), flow_shift=3)


def test_each_of_several_videos_is_planned_as_if_it_were_alone() -> None:
    several = planned(num_videos=3, seed=MAX_SEED - 1)
    assert [several.of_video(index) for index in range(3)] == [
        planned(seed=seed) for seed in (MAX_SEED - 1, MAX_SEED, 0)
    ]


@pytest.mark.parametrize("image", [None, "inputs/x.png"])
def test_a_plan_of_before_the_modes_is_made_as_it_was_planned(image: str | None) -> None:
    made = planned(num_frames=34, image=image)
    stored = made.to_dict()
    for name in (
        "last_image",
        "video",
        "references",
        "strength",
        "clip_skip",
        "preview_every",
        "shot_num_frames",
    ):
        del stored[name]
    stored["windows"] = [
        {"num_frames": window.num_frames, "continues": window.continues} for window in made.windows
    ]
    assert Plan.from_dict(stored) == made


@pytest.mark.parametrize(
    ("num_frames", "fps", "windows"),
    [
        (17, 8, [17]),
        (5, 8, [5]),
        (1, 8, [5]),  # the model makes at least five
        (18, 8, [17, 5]),
        (32, 8, [17, 17]),  # 31 more than the first frame: 16 and 15, the latter rounded up to 4k
        (33, 8, [17, 17]),
        (34, 8, [17, 17, 5]),
        (96, 24, [17, 17]),  # four seconds at 24 fps end at native frame 32
        (50, 25, [17]),
    ],
)
def test_windows_reach_the_last_frame(num_frames: int, fps: int, windows: list[int]) -> None:
    made = planned(num_frames=num_frames, fps=fps)
    assert [window.num_frames for window in made.windows] == windows
    assert (made.native_num_frames - 1) / made.native_fps >= (num_frames - 1) / fps
    assert [window.continues for window in made.windows] == [False] + [True] * (len(windows) - 1)


@pytest.mark.parametrize("fps", range(1, 61))
def test_every_length_up_to_a_minute_is_covered_and_legal(fps: int) -> None:
    for num_frames in {1, 2, fps, 3 * fps + 1, 60 * fps}:
        made = planned(num_frames=num_frames, fps=fps)
        assert made.duration_seconds == num_frames / fps
        for window in made.windows:
            assert window.num_frames % 4 == 1
            assert 5 <= window.num_frames <= 17
        excess = made.native_num_frames - 1 - (num_frames - 1) * 8 / fps
        assert 0 <= excess < 5, "no window is made that nobody sees"


@pytest.mark.parametrize(
    ("width", "height", "native", "fit"),
    [
        (192, 192, "192x192", "none"),
        (512, 512, "192x192", "scale"),
        (192, 128, "192x128", "none"),
        (1280, 720, "192x128", "crop"),
        (300, 200, "192x128", "scale"),
        (720, 1280, "192x192", "pad"),
        (16, 4096, "192x192", "pad"),
    ],
)
def test_the_nearest_shape_is_made(width: int, height: int, native: str, fit: str) -> None:
    made = planned(width=width, height=height)
    assert f"{made.native_width}x{made.native_height}" == native
    assert made.fit == fit
    assert (made.width, made.height) == (width, height)
    assert (made.choices == ()) == (fit == "none"), "what is changed is told"


@pytest.mark.parametrize(
    ("asked", "fit", "shown"),
    [
        ({"image": "a"}, "crop", "108x192"),
        ({"last_image": "a", "image": "b"}, "crop", "108x192"),
        ({"video": "a"}, "crop", "108x192"),
        ({"video": "a", "source_has_border": True}, "pad", "192x192"),
        ({}, "pad", "192x192"),
    ],
)
def test_what_a_video_starts_from_is_set_into_what_the_file_shows(
    asked: dict[str, Any], fit: str, shown: str
) -> None:
    spec = replace(SPEC, pipelines=dict.fromkeys(("text", "image", "last_image", "video"), "X"))
    made = planned(spec, width=720, height=1280, **asked)
    assert (made.fit, str(made.shown)) == (fit, shown)
    strip = planned(spec, width=16, height=4096, **asked)
    assert strip.fit == "pad", "too little would be left to work on"


def test_models_of_any_size_make_what_fits_them() -> None:
    spec = replace(SPEC, sizes=(Size(480, 832),), size_multiple=16, max_pixels=480 * 832)
    assert planned(spec, width=512, height=320).fit == "none"
    large = planned(spec, width=1280, height=720)
    assert large.native_width * large.native_height <= spec.max_pixels
    assert (large.native_width % 16, large.native_height % 16) == (0, 0)
    assert large.fit in ("scale", "crop")


def test_a_missing_side_follows_the_models_shape() -> None:
    made = planned(replace(SPEC, sizes=(Size(128, 192),)), width=384)
    assert (made.width, made.height) == (384, 256)


@pytest.mark.parametrize(
    ("asked", "parameter", "nearest"),
    [
        ({"prompt": ""}, "prompt", None),
        ({"prompt": " \n\t"}, "prompt", None),
        ({"prompt": "x" * (MAX_PROMPT_CHARS + 1)}, "prompt", None),
        ({"negative_prompt": "x" * (MAX_PROMPT_CHARS + 1)}, "negative_prompt", None),
        ({"prompt": "\udcff"}, "prompt", None),
        ({"width": 191}, "width", 192),
        ({"width": 0}, "width", 16),
        ({"height": -5}, "height", 16),
        ({"height": 100_000}, "height", 4096),
        ({"num_frames": 0}, "num_frames", 1),
        ({"num_frames": 481}, "num_frames", 480),
        ({"num_frames": 10**30}, "num_frames", 480),
        ({"fps": 0}, "fps", 1),
        ({"fps": 61}, "fps", 60),
        ({"fps": 60, "format": "gif"}, "fps", 50),
        ({"num_inference_steps": 0}, "num_inference_steps", 1),
        ({"num_inference_steps": 101}, "num_inference_steps", 100),
        ({"guidance_scale": 20.5}, "guidance_scale", 20),
        ({"guidance_scale": float("nan")}, "guidance_scale", 1),
        ({"scheduler": "Euler"}, "scheduler", "UniPCMultistepScheduler"),
        ({"num_videos": 0}, "num_videos", 1),
        ({"num_videos": 11}, "num_videos", 10),
        ({"seed": -1}, "seed", 0),
        ({"seed": 2**63}, "seed", 2**63 - 1),
        ({"format": "avi"}, "format", "mp4"),
    ],
)
def test_what_cannot_be_made_is_refused_exactly(asked: dict[str, Any], parameter: str, nearest: Any) -> None:
    with pytest.raises(InvalidParameter) as caught:
        planned(**asked)
    assert caught.value.parameter == parameter
    assert caught.value.nearest == nearest
    assert f"`{parameter}`" in caught.value.message
    assert len(caught.value.message) < 300, "a message never repeats a long value"
    if nearest is not None:
        assert str(nearest) in caught.value.message


def test_a_model_without_images_says_so() -> None:
    text_only = replace(SPEC, pipelines={"text": "WanPipeline"})
    with pytest.raises(InvalidParameter, match="from text only"):
        planned(text_only, image="inputs/x.png")
    with pytest.raises(InvalidParameter) as caught:
        planned(text_only, num_frames=18)
    assert caught.value.nearest == 17
    assert planned(text_only, num_frames=49, fps=24).windows[0].num_frames == 17
    with pytest.raises(InvalidParameter) as caught:
        planned(text_only, num_frames=50, fps=24)
    assert caught.value.nearest == 49


def test_an_image_only_model_needs_its_image() -> None:
    with pytest.raises(InvalidParameter, match="needs an image"):
        planned(replace(SPEC, pipelines={"image": "WanImageToVideoPipeline"}))


def test_the_error_can_be_told_in_a_dialects_word() -> None:
    with pytest.raises(InvalidParameter) as caught:
        planned(num_frames=1000)
    assert caught.value.sentence("seconds").startswith("`seconds` is 1000, but")


@pytest.mark.parametrize(
    ("seconds", "fps", "frames"), [(2.0, 8, 16), (0.01, 8, 1), (4, 24, 96), (2.125, 8, 17)]
)
def test_seconds_become_frames(seconds: float, fps: int, frames: int) -> None:
    assert num_frames_for(seconds, fps) == frames


def test_a_model_that_reads_no_text_needs_none() -> None:
    silent = replace(SPEC, takes_prompt=False)
    assert planned(silent, prompt="", image="inputs/x.png").prompt == ""
    with pytest.raises(InvalidParameter, match="what the video shows"):
        planned(prompt="")


def test_all_shots_together_say_no_more_than_one_prompt_may() -> None:
    half = Shot("x" * (MAX_PROMPT_CHARS // 2))
    assert len(planned(shots=(half, half)).windows) == 2
    with pytest.raises(InvalidParameter, match="all shots together"):
        planned(shots=(half, half, Shot("a")))

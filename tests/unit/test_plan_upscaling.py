"""Planning a second pass: sizes, defaults, whose model makes it, and exact refusals."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from vitascope.catalog.cards import spec_from
from vitascope.domain.cost import Run, effort_of, runs_of, work_of
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import Bounds, FrameRule, ModelSpec, Size, UpscaleRule
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest, Lora, Upscale
from vitascope.domain.upscaling import max_pixels

SPEC = ModelSpec(
    id="small",
    title="Small",
    family="generic",
    source="folder:/nowhere",
    pipelines={"text": "WanPipeline", "image": "WanImageToVideoPipeline"},
    sizes=(Size(192, 192),),
    size_multiple=32,
    max_pixels=192 * 192,
    frames=FrameRule(4, 1, 5, 17),
    default_num_frames=17,
    fps=8,
    num_inference_steps=Bounds(12, 1, 100),
    guidance_scale=Bounds(4.0, 1.0, 20.0),
)
FIXED = replace(SPEC, max_pixels=0)
WIDE = replace(SPEC, sizes=(Size(480, 832), Size(832, 480)), size_multiple=16, max_pixels=480 * 832)
XL = replace(
    SPEC,
    id="xl",
    pipelines={"video": "VideoToVideoSDPipeline"},
    sizes=(Size(576, 1024),),
    size_multiple=8,
    max_pixels=576 * 1024,
    guidance_scale=Bounds(15.0, 0.0, 25.0),
    num_inference_steps=Bounds(40, 1, 200),
    scheduler_family="discrete",
)
ZEROSCOPE = replace(
    XL,
    id="zeroscope",
    pipelines={"text": "TextToVideoSDPipeline"},
    sizes=(Size(320, 576),),
    max_pixels=331_776,
    guidance_scale=Bounds(9.0, 0.0, 25.0),
    upscale=UpscaleRule("xl", Bounds(0.7, 0.0, 1.0), max_pixels=1024 * 1024),
    second=XL,
)


TWICE = Upscale()


def planned(spec: ModelSpec = SPEC, upscale: Upscale | None = TWICE, **asked: Any) -> Plan:
    request = GenerationRequest(
        **{"prompt": "a dog", "model": spec.id, "seed": 1, "upscale": upscale, **asked}
    )
    assert GenerationRequest.from_dict(request.to_dict()) == request
    return plan(request, spec)


def sizes_of(made: Plan) -> list[str]:
    """Of the first pass, of the second, and of the file."""
    native = Size(made.native_height, made.native_width)
    return [str(native), str(made.made), str(Size(made.height, made.width)), made.fit]


def test_without_being_asked_for_there_is_none() -> None:
    made = planned(upscale=None)
    assert (made.upscale, made.second, made.made) == (None, None, Size(192, 192))
    assert "upscale" in made.to_dict()
    before = made.to_dict()
    del before["upscale"]  # as it was stored before there were such passes
    assert Plan.from_dict(before) == made


def test_by_default_the_file_is_twice_as_large_and_the_rest_is_as_in_the_first_pass() -> None:
    made = planned(num_inference_steps=20, guidance_scale=6.0)
    assert sizes_of(made) == ["192x192", "384x384", "384x384", "none"]
    this = made.upscale
    assert this is not None
    assert (this.strength, this.num_inference_steps, this.guidance_scale, this.num_steps) == (0.4, 20, 6.0, 8)
    assert (this.model, this.modes) == (None, ("text",))
    assert Plan.from_dict(made.to_dict()) == made
    assert [choice.name for choice in made.choices] == ["upscale_size"]


def test_everything_can_be_said() -> None:
    asked = Upscale(height=256, width=320, strength=0.5, guidance_scale=2.0, num_inference_steps=30)
    made = planned(upscale=asked)
    second = made.second
    assert second is not None
    assert sizes_of(made)[1:3] == ["320x256", "320x256"]
    assert (second.native_height, second.native_width) == (256, 320)
    assert (second.strength, second.guidance_scale, second.num_inference_steps) == (0.5, 2.0, 30)
    assert second.steps_per_window == 15
    assert second.upscale is None
    assert made.total_steps == 12 + 15


@pytest.mark.parametrize(
    ("spec", "asked", "upscale", "sizes"),
    [
        (WIDE, {}, {}, ["832x480", "1664x960", "1664x960", "none"]),
        (WIDE, {}, {"width": 1000}, ["832x480", "992x576", "1000x576", "crop"]),
        (WIDE, {}, {"height": 1920, "width": 3328}, ["832x480", "1664x960", "3328x1920", "scale"]),
        (WIDE, {"height": 256, "width": 256}, {}, ["256x256", "512x512", "512x512", "none"]),
        (WIDE, {"height": 240, "width": 416}, {}, ["416x240", "832x480", "832x480", "none"]),
        (SPEC, {"height": 512, "width": 512}, {}, ["192x192", "384x384", "512x512", "scale"]),
        (SPEC, {"height": 512, "width": 512}, {"width": 1024}, ["192x192", "384x384", "1024x1024", "scale"]),
        (SPEC, {"height": 64, "width": 64}, {}, ["64x64", "128x128", "128x128", "none"]),
        (FIXED, {}, {}, ["192x192", "192x192", "384x384", "scale"]),
        (FIXED, {"height": 64, "width": 64}, {}, ["192x192", "192x192", "128x128", "scale"]),
        (FIXED, {"height": 1280, "width": 720}, {}, ["192x192", "192x192", "1440x2560", "pad"]),
        (SPEC, {"height": 128, "width": 192}, {}, ["192x128", "384x256", "384x256", "none"]),
        (SPEC, {"height": 1280, "width": 720}, {}, ["128x256", "288x512", "720x1280", "scale"]),
        (ZEROSCOPE, {}, {}, ["576x320", "1024x576", "1024x576", "none"]),
        (ZEROSCOPE, {}, {"height": 640, "width": 1024}, ["576x320", "1024x640", "1024x640", "none"]),
    ],
)
def test_the_pass_works_at_a_size_that_suits_its_model(
    spec: ModelSpec, asked: dict[str, int], upscale: dict[str, int], sizes: list[str]
) -> None:
    assert sizes_of(planned(spec, Upscale(**upscale), **asked)) == sizes


def test_a_card_can_say_that_other_sizes_look_right() -> None:
    said = replace(FIXED, upscale=UpscaleRule(max_pixels=256 * 256))
    made = planned(said)
    assert sizes_of(made) == ["192x192", "256x256", "256x256", "none"]
    assert "own sizes only" in planned(FIXED).choices[-1].reason


def test_every_size_is_legal_and_within_what_the_pass_denoises() -> None:
    for spec in (SPEC, FIXED, WIDE, ZEROSCOPE):
        maker = spec.second or spec
        for width in range(16, 1600, 62):
            for height in (16, 50, 192, 480, 700, 1400):
                made = planned(spec, height=height, width=width)
                assert made.made.height % maker.size_multiple == made.made.width % maker.size_multiple == 0
                shown = made.shown
                assert made.made.pixels <= max(max_pixels(spec), shown.pixels)
                assert made.height >= height
                assert made.width >= width


@pytest.mark.parametrize(
    ("upscale", "parameter", "nearest"),
    [
        ({"height": 128}, "upscale.height", 192),
        ({"width": 190, "height": 400}, "upscale.width", 192),
        ({"height": 383}, "upscale.height", 384),
        ({"height": 5000}, "upscale.height", 4096),
        ({"strength": 1.5}, "upscale.strength", 1),
        ({"strength": -0.1}, "upscale.strength", 0),
        ({"strength": 0.05}, "upscale.strength", 0.084),
        ({"strength": float("nan")}, "upscale.strength", 0),
        ({"guidance_scale": 30.0}, "upscale.guidance_scale", 20),
        ({"num_inference_steps": 101}, "upscale.num_inference_steps", 100),
        ({"num_inference_steps": 0}, "upscale.num_inference_steps", 1),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_nearest(
    upscale: dict[str, Any], parameter: str, nearest: float
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        planned(upscale=Upscale(**upscale))
    assert (caught.value.parameter, caught.value.nearest) == (parameter, nearest)
    corrected = {**upscale, parameter.partition(".")[2]: nearest}
    if parameter == "upscale.strength" and nearest == 0:
        corrected["strength"] = 0.2  # legal, but of no steps
    if parameter == "upscale.num_inference_steps" and nearest == 1:
        corrected["strength"] = 1.0
    planned(upscale=Upscale(**corrected))


def test_a_model_without_a_second_pass_says_so() -> None:
    with pytest.raises(InvalidParameter, match="model `small` cannot make a second pass"):
        planned(replace(SPEC, upscale=None))


def test_another_checkpoint_makes_it_by_its_own_card() -> None:
    made = planned(ZEROSCOPE, scheduler="PNDMScheduler")
    this, second = made.upscale, made.second
    assert this is not None
    assert second is not None
    assert (this.model, this.modes, second.model) == ("xl", ("video",), "xl")
    assert (this.strength, this.guidance_scale, this.num_inference_steps) == (0.7, 15.0, 40)
    told = {choice.name: choice.value for choice in made.choices}
    assert told == {
        "upscale_model": "xl",
        "upscale_size": "1024x576",
        "upscale_scheduler": "IPNDMScheduler",
    }, "which begins in the middle, as PNDM cannot"
    assert made.scheduler == "PNDMScheduler"


def test_adapters_of_the_first_model_are_not_the_seconds_and_that_is_said() -> None:
    made = planned(ZEROSCOPE, loras=(Lora("x"),))
    assert made.second is not None
    assert (made.loras, made.second.loras) == ((Lora("x"),), ())
    told = {choice.name: (choice.value, choice.reason) for choice in made.choices}
    assert told["upscale_loras"] == ("none", "they are for model `zeroscope`, and model `xl` makes the pass")
    same = planned(SPEC, loras=(Lora("x"),))
    assert same.second is not None
    assert same.second.loras == (Lora("x"),)
    assert "upscale_loras" not in {choice.name for choice in same.choices}


def test_another_checkpoint_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidParameter, match="with model `xl`, which this server does not have"):
        planned(replace(ZEROSCOPE, second=None))


def test_another_checkpoint_that_makes_no_such_clips_is_refused() -> None:
    short = replace(XL, frames=FrameRule(4, 1, 5, 9))
    with pytest.raises(InvalidParameter, match="does not make 17 frames at once"):
        planned(replace(ZEROSCOPE, second=short))
    other_start = replace(XL, pipelines={"image": "StableVideoDiffusionPipeline"})
    with pytest.raises(InvalidParameter, match="does not start as the first pass does"):
        planned(replace(ZEROSCOPE, second=other_start))


def test_windows_go_on_as_in_the_first_pass() -> None:
    made = planned(image="inputs/a.png", num_frames=33)
    assert made.upscale is not None
    assert made.upscale.modes == ("image", "image")
    assert made.total_steps == 2 * (12 + 4)
    text_only = replace(SPEC, id="other", pipelines={"text": "WanPipeline"})
    spec = replace(SPEC, upscale=UpscaleRule("other"), second=text_only)
    made = planned(spec, image="inputs/a.png")
    assert made.upscale is not None
    assert made.upscale.modes == ("text",)
    assert "only its result counts" in next(c.reason for c in made.choices if c.name == "upscale_mode")


def test_both_passes_count_by_their_work() -> None:
    one, two = planned(upscale=None), planned(upscale=Upscale(strength=0.5))
    work = work_of(one)
    assert runs_of(one) == (Run(12, work),)
    assert runs_of(two) == (Run(12, work), Run(6, 4 * work))
    assert work_of(two) == 2 * work
    effort = effort_of(two)
    assert (effort.num_steps, effort.work) == (18, 2 * work)
    assert effort.num_steps * effort.work == 12 * work + 6 * 4 * work
    unguided = runs_of(planned(upscale=Upscale(guidance_scale=1.0)))
    assert unguided[1].work == 4 * work // 2


@pytest.mark.parametrize(
    ("upscale", "reason"),
    [
        ("xl", "`upscale` must be a table, or false"),
        ({"modell": "xl"}, "unknown key `upscale.modell`"),
        ({"model": 3}, "`upscale.model` must be text"),
        ({"strength": 0.5}, "`upscale.strength` must be a table"),
        (
            {"strength": {"default": 2.0}},
            "the default of `upscale.strength` must be from its minimum to its maximum",
        ),
        ({"guidance": "much"}, "`upscale.guidance` must be a number"),
        ({"steps": 2.5}, "`upscale.steps` must be a whole number"),
        ({"steps": 0}, "`upscale.steps` is 0, but it must be at least 1"),
        ({"max_pixels": True}, "`upscale.max_pixels` must be a whole number"),
        ({"max_pixels": -1}, "`upscale.max_pixels` is -1, but it must be at least 1"),
    ],
)
def test_what_a_card_cannot_say_is_refused_where_it_is_read(upscale: Any, reason: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(reason)):
        spec_from({"id": "x", "source": "folder:.", "pipeline": "WanPipeline", "upscale": upscale})

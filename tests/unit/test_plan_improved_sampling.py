"""How improved sampling is planned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vitascope.domain.cost import effort_of
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.improved_sampling import drawn
from vitascope.domain.model_spec import Bounds, FrameRule, ModelSpec, Size
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import MAX_SEED, GenerationRequest, ImprovedSampling

SPEC = ModelSpec(
    id="small",
    title="Small",
    family="generic",
    source="embedded:small",
    pipelines={
        "text": "WanPipeline",
        "image": "WanImageToVideoPipeline",
        "video": "WanVideoToVideoPipeline",
    },
    sizes=(Size(192, 192),),
    frames=FrameRule(4, 1, 5, 17),
    default_num_frames=17,
    fps=8,
    num_inference_steps=Bounds(12, 1, 100),
    guidance_scale=Bounds(4.0, 1.0, 20.0),
)


def asked(improved: ImprovedSampling | None, **more: Any) -> GenerationRequest:
    return GenerationRequest(prompt="a dog", model="small", seed=1, improved_sampling=improved, **more)


def test_what_is_not_said_is_drawn_where_the_request_enters() -> None:
    request = drawn(asked(ImprovedSampling()), 3, lambda: 9)
    assert request.improved_sampling == ImprovedSampling(seed=9, iterations=3)
    assert drawn(request, 7, lambda: 8) == request, "a retry makes the same video"
    assert drawn(asked(None), 3, lambda: 9) == asked(None)
    assert drawn(asked(ImprovedSampling(seed=0)), 3, lambda: 9).improved_sampling == ImprovedSampling(
        seed=0, iterations=3
    )
    with pytest.raises(ValueError, match="drawn"):
        plan(asked(ImprovedSampling()), SPEC)


def test_all_rounds_of_all_windows_are_counted_and_paid() -> None:
    improved = ImprovedSampling(seed=4, iterations=3)
    once, made = plan(asked(None, num_frames=33), SPEC), plan(asked(improved, num_frames=33), SPEC)
    assert len(made.windows) == 2
    assert (once.total_steps, made.total_steps) == (24, 72)
    assert effort_of(made).num_steps == 72
    assert effort_of(made).work == effort_of(once).work
    assert [choice.value for choice in made.choices if choice.name == "improved_sampling"] == [
        "3 rounds of 12 steps"
    ]


def test_a_stored_plan_is_read_back_and_one_of_before_has_none() -> None:
    made = plan(asked(ImprovedSampling(seed=4, iterations=3)), SPEC)
    assert Plan.from_dict(made.to_dict()) == made
    request = asked(ImprovedSampling(seed=4, iterations=3))
    assert GenerationRequest.from_dict(request.to_dict()) == request
    stored = plan(asked(None), SPEC).to_dict()
    del stored["improved_sampling"]
    assert Plan.from_dict(stored).improved_sampling is None


def test_each_of_several_videos_has_the_next_of_both_seeds() -> None:
    several = plan(asked(ImprovedSampling(seed=MAX_SEED, iterations=2), num_videos=2), SPEC)
    alone = plan(replace(asked(ImprovedSampling(seed=0, iterations=2)), seed=2), SPEC)
    assert several.of_video(1) == alone


@pytest.mark.parametrize(
    ("pipelines", "more", "words"),
    [
        (SPEC.pipelines, {"video": "v"}, "starts from its own frames"),
        ({"text": "SkyReelsV2DiffusionForcingPipeline"}, {}, "each frame by a schedule of its own"),
        ({"text": "AnyFlowPipeline"}, {}, "a noise level that it is told of"),
    ],
)
def test_what_cannot_be_improved_is_refused(
    pipelines: dict[Any, str], more: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidParameter, match=words):
        plan(asked(ImprovedSampling(seed=4, iterations=3), **more), replace(SPEC, pipelines=pipelines))


@pytest.mark.parametrize(("seed", "nearest"), [(-1, 0), (MAX_SEED + 1, MAX_SEED)])
def test_a_bad_seed_is_refused_with_the_nearest(seed: int, nearest: int) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        plan(asked(ImprovedSampling(seed=seed, iterations=3)), SPEC)
    assert (refusal.value.parameter, refusal.value.nearest) == ("improved_sampling.seed", nearest)

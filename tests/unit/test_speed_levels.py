"""Which level a request has, and what it does with its steps."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from vitascope.domain.cost import effort_of
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec, UpscaleRule
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest, ImprovedSampling, Upscale
from vitascope.domain.speed_levels import LEAST_STEPS, StepCache, settled


@pytest.fixture
def spec(small_spec: ModelSpec) -> ModelSpec:
    pipelines = {
        "text": "WanPipeline",
        "image": "WanImageToVideoPipeline",
        "video": "WanVideoToVideoPipeline",
    }
    return dataclasses.replace(small_spec, pipelines=pipelines, upscale=UpscaleRule())


def planned(spec: ModelSpec, speed: str | None, **asked: Any) -> Plan:
    given = {"prompt": "a dog", "model": "small", "seed": 5, "num_inference_steps": 20, **asked}
    return plan(GenerationRequest(speed=speed, **given), spec)


def told(made: Plan) -> tuple[str, str]:
    return next((choice.value, choice.reason) for choice in made.choices if choice.name == "speed")


def test_who_asks_for_nothing_gets_every_step(spec: ModelSpec) -> None:
    made = planned(spec, None)
    assert (made.speed, made.step_cache) == ("lossless", None)
    assert "speed" not in {choice.name for choice in made.choices}


def test_lossless_is_told_where_it_was_asked_for(spec: ModelSpec) -> None:
    made = planned(spec, "lossless")
    assert (made.speed, made.step_cache) == ("lossless", None)
    assert told(made) == ("lossless", "every step is computed in full")


@pytest.mark.parametrize("level", ["balanced", "fast"])
def test_a_level_has_its_cache_and_says_how(spec: ModelSpec, level: str) -> None:
    made = planned(spec, level)
    assert made.step_cache is not None
    assert made.speed == made.step_cache.level == told(made)[0] == level
    assert f"threshold {made.step_cache.threshold:g}" in told(made)[1]
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_fast_goes_further_than_balanced(spec: ModelSpec) -> None:
    for pipeline in ("WanPipeline", "WanVACEPipeline"):
        of = dataclasses.replace(spec, pipelines={"text": pipeline})
        balanced, fast = (planned(of, level).step_cache for level in ("balanced", "fast"))
        assert balanced is not None
        assert fast is not None
        assert (fast.threshold, fast.max_reused) > (balanced.threshold, balanced.max_reused) or (
            fast.max_reused > balanced.max_reused
        )
        assert fast.expected_share < balanced.expected_share < 1


@pytest.mark.parametrize(
    ("pipeline", "steps", "reason"),
    [
        ("WanPipeline", LEAST_STEPS - 1, "fewer than 10 steps"),
        ("AnyFlowPipeline", 20, "distilled"),
        ("AnimateDiffPipeline", 20, "U-Net"),
        ("SkyReelsV2DiffusionForcingPipeline", 20, "schedule of its own"),
        ("NewPipeline", 20, "nobody has tried it with `NewPipeline`"),
    ],
)
def test_what_cannot_be_done_is_skipped_and_says_why(
    spec: ModelSpec, pipeline: str, steps: int, reason: str
) -> None:
    made = planned(dataclasses.replace(spec, pipelines={"text": pipeline}), "fast", num_inference_steps=steps)
    assert (made.speed, made.step_cache) == ("lossless", None)
    value, why = told(made)
    assert value == "lossless"
    assert why.startswith("not fast: ")
    assert reason in why


def test_only_the_steps_that_run_count(spec: ModelSpec) -> None:
    """Of a video that is changed by half, half of the steps do."""
    made = planned(spec, "fast", video="inputs/a.video", strength=0.4, num_inference_steps=20)
    assert (made.steps_per_window, made.step_cache) == (8, None)
    assert planned(spec, "fast", video="inputs/a.video", strength=0.6).step_cache is not None


def test_an_unknown_level_is_refused(spec: ModelSpec) -> None:
    with pytest.raises(InvalidParameter, match="lossless, balanced, fast") as refused:
        planned(spec, "ludicrous")
    assert refused.value.parameter == "speed"


def test_the_second_pass_is_computed_in_full(spec: ModelSpec) -> None:
    made = planned(spec, "fast", upscale=Upscale())
    assert made.step_cache is not None
    assert made.second is not None
    assert made.second.step_cache is None


def test_the_operators_level_is_for_who_names_none() -> None:
    asked = GenerationRequest(prompt="a dog", model="small")
    assert settled(asked, "lossless").speed is None
    assert settled(asked, "fast").speed == "fast"
    assert settled(dataclasses.replace(asked, speed="lossless"), "fast").speed == "lossless"


def test_who_reuses_steps_shares_no_forwards(spec: ModelSpec) -> None:
    assert planned(spec, None, is_seed_drawn=True).may_share_forwards
    assert not planned(spec, None).may_share_forwards, "the client gave the seed"
    assert not planned(spec, "fast", is_seed_drawn=True).may_share_forwards


def test_its_time_is_measured_apart(spec: ModelSpec) -> None:
    whole, fast = effort_of(planned(spec, None)), effort_of(planned(spec, "fast"))
    assert fast.work < whole.work
    assert (fast.model, fast.num_steps) == (whole.model, whole.num_steps)


def test_the_first_and_the_last_steps_are_computed_in_every_round(spec: ModelSpec) -> None:
    cache = StepCache("fast", "first_block", threshold=0.1, first=0.2, last=0.1)
    assert [step for step in range(20) if cache.must_compute(step, 20)] == [0, 1, 2, 3, 18, 19]
    assert [step for step in range(10) if cache.must_compute(step, 10)] == [0, 1, 9]
    rounds = ImprovedSampling(seed=1, iterations=3)
    assert planned(spec, "fast", improved_sampling=rounds).step_cache is not None, "a round has 20 steps"

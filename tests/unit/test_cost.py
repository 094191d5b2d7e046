"""Time estimates from measured speeds."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest

from vitascope.catalog import Catalog
from vitascope.domain.cost import (
    Effort,
    Speed,
    effort_of,
    learn,
    mean_seconds,
    measured,
    seconds_of,
    work_class,
    work_of,
)
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest

WAN = Catalog.open().resolve("wan2.1-t2v-1.3b")


def planned(width: int = 832, height: int = 480, steps: int = 10) -> Plan:
    request = GenerationRequest(
        prompt="a", model=WAN.id, seed=1, width=width, height=height, num_inference_steps=steps
    )
    return plan(request, WAN)


def test_several_videos_take_as_many_times_as_long() -> None:
    one = planned()
    several = dataclasses.replace(one, num_videos=4)
    speeds = [Speed(WAN.id, work_of(one), 2.0, 5.0)]
    assert seconds_of(effort_of(one), speeds) == pytest.approx(25.0)
    assert seconds_of(effort_of(several), speeds) == pytest.approx(100.0)
    assert measured(effort_of(several), {"load": 9.0, "denoise": 80.0, "write_video": 20.0}) == speeds[0]


def test_a_model_that_was_never_measured_has_no_estimate() -> None:
    assert seconds_of(effort_of(planned()), []) is None
    assert seconds_of(effort_of(planned()), [Speed("other", 1000, 1.0, 1.0)]) is None


def test_what_was_measured_is_given_back() -> None:
    made = planned()
    speeds = [Speed(WAN.id, work_of(made), 2.0, 5.0)]
    assert seconds_of(effort_of(made), speeds) == pytest.approx(25.0)
    assert seconds_of(effort_of(planned(steps=20)), speeds) == pytest.approx(45.0)


def test_between_two_measurements_time_rises_with_the_work() -> None:
    small, middle, large = planned(416, 240), planned(624, 368), planned(832, 480)
    speeds = [Speed(WAN.id, work_of(small), 1.0, 1.0), Speed(WAN.id, work_of(large), 8.0, 4.0)]
    estimates = [seconds_of(effort_of(made), speeds) for made in (small, middle, large)]
    assert None not in estimates
    assert estimates == sorted(estimates)  # type: ignore[type-var]
    assert estimates[0] == pytest.approx(11.0)
    assert estimates[2] == pytest.approx(84.0)


def test_beyond_one_measurement_time_is_in_proportion() -> None:
    small, large = planned(416, 240), planned(832, 480)
    estimate = seconds_of(effort_of(large), [Speed(WAN.id, work_of(small), 1.0, 0.0)])
    assert estimate == pytest.approx(10.0 * work_of(large) / work_of(small))


def test_learning_follows_a_change() -> None:
    speed = Speed(WAN.id, 1000, 1.0, 1.0)
    for _ in range(20):
        speed = learn(speed, Speed(WAN.id, 1000, 3.0, 2.0))
    assert speed.step_seconds == pytest.approx(3.0, rel=0.01)
    assert learn(None, speed) is speed


@pytest.mark.parametrize("effort", [Effort("m", 0, 0), Effort("m", 0, 10), Effort("m", 1000, 0)])
def test_of_an_effort_that_nobody_wrote_down_nothing_is_said(effort: Effort) -> None:
    speeds = [Speed("m", 1000, 1.0, 1.0), Speed("m", 4000, 4.0, 1.0)]
    assert seconds_of(effort, speeds) is None


def test_guidance_doubles_the_work() -> None:
    request = GenerationRequest(prompt="a", model=WAN.id, seed=1)
    with_guidance = plan(request, WAN)
    without = plan(replace(request, guidance_scale=1.0), WAN)
    assert work_of(with_guidance) == 2 * work_of(without)


def test_a_job_is_measured_without_the_loading_of_its_model() -> None:
    effort = effort_of(planned(steps=10))
    stages = {"load": 100.0, "encode_prompt": 1.0, "denoise": 20.0, "decode_latents": 2.0, "write_video": 1.0}
    speed = measured(effort, stages)
    assert speed == Speed(WAN.id, effort.work, 2.0, 4.0)
    assert seconds_of(effort, [speed]) == pytest.approx(24.0)
    assert measured(effort, {"load": 1.0}) is None


def test_nearly_equal_work_shares_a_class_and_twice_the_work_does_not() -> None:
    assert work_class(2**20) == work_class(2**20 + 2**13)
    assert work_class(2**21) == work_class(2**20) + 8


def test_on_one_of_several_devices() -> None:
    effort = effort_of(planned(steps=10))
    fast, slow = [Speed(WAN.id, effort.work, 1.0, 0.0)], [Speed(WAN.id, effort.work, 3.0, 0.0)]
    assert mean_seconds(effort, [fast, slow, []]) == pytest.approx(20.0)
    assert mean_seconds(effort, [[]]) is None

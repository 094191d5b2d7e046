"""How long an engine may be silent."""

from __future__ import annotations

import dataclasses

import pytest

from vitascope.domain.cost import Run
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest
from vitascope.worker.patience import LEAST_SECONDS, Patience, StepTimes

HANG_SECONDS = 900.0


def runs(*num_steps: int) -> list[Run]:
    return [Run(count, 1) for count in num_steps]


def limits(patience: Patience, *heard: tuple[str, int, float]) -> list[float]:
    """Tell what the limit is after each message."""
    found = []
    for stage, index, at in heard:
        patience.heard(stage, index, at)
        found.append(patience.limit_seconds)
    return found


def test_ten_times_the_longest_step_seen() -> None:
    patience = Patience(runs(10), None, HANG_SECONDS)
    heard = [("load", 0, 0.0), ("load", 1, 50.0), ("encode_prompt", 0, 51.0)]
    heard += [("denoise", 0, 52.0), ("denoise", 1, 90.0), ("denoise", 2, 92.0), ("denoise", 3, 95.0)]
    heard += [("denoise", 4, 96.0)]
    assert limits(patience, *heard) == [*[HANG_SECONDS] * 5, 20.0, 30.0, 30.0]
    assert patience.step_seconds == 3.0


def test_a_fast_model_has_the_least_and_a_slow_one_the_most() -> None:
    fast, slow = Patience(runs(10), None, HANG_SECONDS), Patience(runs(10), None, HANG_SECONDS)
    assert limits(fast, ("denoise", 1, 0.0), ("denoise", 2, 0.1))[-1] == LEAST_SECONDS
    assert limits(slow, ("denoise", 1, 0.0), ("denoise", 2, 100.0))[-1] == HANG_SECONDS
    strict = Patience(runs(10), None, 2.0)
    assert limits(strict, ("denoise", 1, 0.0), ("denoise", 2, 0.1)) == [2.0, 2.0]


def test_what_an_earlier_job_took_counts_from_the_first_step_and_is_never_undercut() -> None:
    patience = Patience(runs(10), 4.0, HANG_SECONDS)
    heard = [("encode_prompt", 0, 0.0), ("denoise", 1, 5.0), ("denoise", 2, 6.0), ("denoise", 3, 11.0)]
    assert limits(patience, *heard) == [HANG_SECONDS, 40.0, 40.0, 50.0]
    assert patience.step_seconds == 5.0


def test_the_steps_of_a_larger_pass_are_waited_for_anew() -> None:
    patience = Patience([Run(2, 1), Run(3, 16)], None, HANG_SECONDS)
    heard = [("denoise", 1, 0.0), ("denoise", 2, 2.0), ("decode_latents", 0, 9.0), ("denoise", 3, 60.0)]
    heard += [("denoise", 4, 100.0), ("denoise", 5, 140.0)]
    assert limits(patience, *heard) == [*[HANG_SECONDS] * 4, 400.0, HANG_SECONDS]
    assert patience.step_seconds == 40.0
    same = Patience([Run(2, 4), Run(2, 4)], None, HANG_SECONDS)
    assert limits(same, *heard[:2], ("denoise", 3, 9.0))[-1] == 20.0


def test_what_comes_between_windows_and_after_the_last_step_is_not_denoising() -> None:
    patience = Patience(runs(2, 2), None, HANG_SECONDS)
    heard = [("denoise", 1, 0.0), ("denoise", 2, 2.0)]
    heard += [
        ("denoise", 2, 300.0),
        ("denoise", 3, 400.0),
        ("denoise", 4, 402.0),
        ("decode_latents", 0, 700.0),
    ]
    assert limits(patience, *heard) == [HANG_SECONDS] * 3 + [20.0] + [HANG_SECONDS] * 2
    assert patience.step_seconds == 2.0


@pytest.fixture
def planned(small_spec: ModelSpec) -> Plan:
    return plan(GenerationRequest(prompt="a dog", model="small", seed=1), small_spec)


def test_step_times_are_of_a_model_and_its_work(planned: Plan) -> None:
    times = StepTimes()
    assert times.of(planned) is None
    times.learn(planned, 2.0)
    assert times.of(planned) == 2.0
    assert times.of(dataclasses.replace(planned, native_height=2 * planned.native_height)) is None
    assert times.of(dataclasses.replace(planned, model="other")) is None
    times.learn(planned, None)  # a job of a single step
    assert times.of(planned) == 2.0


def test_loading_another_model_forgets(planned: Plan) -> None:
    times = StepTimes()
    times.learn(planned, 2.0)
    times.learn(dataclasses.replace(planned, model="other"), None)
    assert times.of(planned) is None

"""The model of queue and devices: nothing is lost in it, and where the answer is known it gives it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.simulation import policies, trace
from bench.simulation.figures import figures_of, ideal_of
from bench.simulation.fleet import SHARED_COST, Fleet
from bench.simulation.residents import Residents
from bench.simulation.shares import evenly_shared
from bench.simulation.trace import KINDS, MODELS, Job

CLIP, PREVIEW = KINDS["clip"], KINDS["preview"]


def job(number: int, kind: trace.Kind, key: str, at: float) -> Job:
    return Job(number, kind, key, at, kind.device_seconds)


@pytest.mark.parametrize(("num_devices", "memory"), [(1, 110.0), (3, 110.0), (2, 55.0)])
def test_every_job_is_done_and_the_devices_work_as_long_as_jobs_and_loads_take(
    num_devices: int, memory: float
) -> None:
    jobs = [
        each for each in trace.make(300, num_devices, 0.9, 0.3, 3600.0, seed=1) if not each.kind.is_shared
    ]
    for number, each in enumerate(jobs):
        each.number = number
    asked = sum(each.kind.device_seconds for each in jobs)
    for outcome in (
        policies.first_come(jobs, num_devices, memory),
        Fleet(num_devices, with_turns=False, memory_gigabytes=memory).run(jobs),
        Fleet(num_devices, memory_gigabytes=memory).run(jobs),
    ):
        most = outcome.num_loads * max(model.load_seconds for model in MODELS.values())
        assert asked - 1e-6 <= outcome.busy_seconds <= asked + most
        assert outcome.num_loads >= num_devices
        least = [each.kind.device_seconds + each.kind.write_seconds for each in jobs]
        assert all(each.took >= seconds - 1e-6 for each, seconds in zip(jobs, least, strict=True))


def test_a_short_job_passes_a_long_one_of_another_key() -> None:
    jobs = [job(0, KINDS["720p"], "studio", 0.0), job(1, PREVIEW, "designer", 100.0)]
    policies.first_come(jobs, 1)
    assert jobs[1].took > 800.0
    Fleet(1).run(jobs)
    loads = sum(MODELS[each.kind.model].load_seconds for each in jobs)
    assert jobs[1].took < loads + PREVIEW.device_seconds + PREVIEW.write_seconds + 3.0
    assert jobs[0].took < loads + KINDS["720p"].device_seconds + PREVIEW.device_seconds + 3.0


def test_even_shares_of_a_device() -> None:
    alone, both = CLIP.device_seconds, 2 * CLIP.device_seconds
    same_key = evenly_shared([job(0, CLIP, "a", 0.0), job(1, CLIP, "a", 0.0)], 1)
    assert same_key == pytest.approx([alone + CLIP.write_seconds, both + CLIP.write_seconds])
    two_keys = evenly_shared([job(0, CLIP, "a", 0.0), job(1, CLIP, "b", 0.0)], 1)
    assert two_keys == pytest.approx([both + CLIP.write_seconds] * 2)
    two_devices = evenly_shared([job(0, CLIP, "a", 0.0), job(1, CLIP, "a", 0.0)], 2)
    assert two_devices == pytest.approx([alone + CLIP.write_seconds] * 2)


def test_on_several_devices_long_jobs_are_not_held_up_by_what_others_could_have_taken() -> None:
    """Begun beside them at once, shorter ones cost a key of long jobs half as much again as under even shares."""
    jobs = trace.make(5000, 8, 0.85, 0.0, 3600.0, seed=1)
    first = figures_of(policies.first_come(jobs, 8))
    outcome = Fleet(8).run(jobs)
    turns, even = figures_of(outcome), ideal_of(evenly_shared(jobs, 8), outcome)
    assert turns.mean < first.mean / 2
    assert turns.p99 < 1.15 * first.p99
    assert all(turns.by_key[key] < 1.45 * seconds for key, seconds in even.by_key.items())


@pytest.mark.parametrize("num_devices", [1.0, 2.5, 7.0])
def test_a_fluid_loses_nothing(num_devices: float) -> None:
    """Each job takes at least what it takes alone, and all of them at least what the devices need for them."""
    jobs = trace.make(400, 7, 1.1, 0.0, 3600.0, seed=2)
    took = evenly_shared(jobs, num_devices)
    for each, seconds in zip(jobs, took, strict=True):
        assert seconds >= each.kind.device_seconds + each.kind.write_seconds - 1e-6
    end = max(each.arrived_at + seconds for each, seconds in zip(jobs, took, strict=True))
    assert end >= sum(each.kind.device_seconds for each in jobs) / num_devices


def test_a_model_is_loaded_once_and_makes_way_where_there_is_no_room() -> None:
    residents = Residents(60.0)
    assert residents.bring("wan-14b", 0.0) == MODELS["wan-14b"].load_seconds
    assert residents.loaded(1.0) == frozenset()
    assert residents.is_coming(1.0)
    assert residents.loaded(100.0) == {"wan-14b"}
    assert residents.bring("wan-14b", 100.0) == 0.0
    assert residents.bring("wan-14b-few-steps", 100.0, in_use={"wan-14b"}) is None
    residents.bring("wan-1.3b", 100.0)
    residents.bring("wan-14b", 200.0)
    residents.bring("wan-14b-few-steps", 300.0)
    assert residents.loaded(400.0) == {"wan-14b-few-steps"}, "the room of one was not enough"
    assert residents.num_loads == 3


def test_the_next_model_is_loaded_beside_what_runs() -> None:
    jobs = [job(0, CLIP, "shop", 0.0), job(1, PREVIEW, "designer", 1.0)]
    fleet = Fleet(1)
    fleet.run(jobs)
    load = MODELS[CLIP.model].load_seconds
    assert jobs[1].done_at < load + 1.0 + MODELS[PREVIEW.model].load_seconds + CLIP.device_seconds
    assert jobs[0].done_at < load + CLIP.device_seconds + PREVIEW.device_seconds + CLIP.write_seconds + 1.0


def test_forwards_of_several_cost_less_than_one_for_each() -> None:
    pocket = replace(KINDS["pocket"], num_steps=1200)
    alone = pocket.steps_seconds
    jobs = [job(number, pocket, "a", 0.0) for number in range(2)]
    outcome = Fleet(1).run(jobs)
    both = alone * (1 + SHARED_COST)
    assert 0.9 * both < outcome.busy_seconds < 2 * alone * 0.9

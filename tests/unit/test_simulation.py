"""The model of queue and devices: nothing is lost in it, and where the answer is known it gives it."""

from __future__ import annotations

import pytest

from bench.simulation import policies, trace
from bench.simulation.shares import evenly_shared
from bench.simulation.trace import KINDS, Job

CLIP, PREVIEW = KINDS["clip"], KINDS["preview"]


def job(number: int, kind: trace.Kind, key: str, at: float) -> Job:
    return Job(number, kind, key, at, kind.device_seconds)


@pytest.mark.parametrize("num_devices", [1, 3])
def test_every_job_is_done_and_the_devices_work_as_long_as_the_jobs_take(num_devices: int) -> None:
    jobs = trace.make(300, num_devices, 0.9, 0.3, 3600.0, seed=1)
    asked = sum(each.kind.device_seconds for each in jobs)
    for outcome in (
        policies.first_come(jobs, num_devices),
        policies.Fleet(num_devices, with_turns=False).run(jobs),
        policies.Fleet(num_devices).run(jobs),
    ):
        assert outcome.busy_seconds == pytest.approx(asked)
        least = [each.kind.device_seconds + each.kind.write_seconds for each in jobs]
        assert all(each.took >= seconds - 1e-6 for each, seconds in zip(jobs, least, strict=True))


def test_a_short_job_passes_a_long_one_of_another_key() -> None:
    jobs = [job(0, KINDS["720p"], "studio", 0.0), job(1, PREVIEW, "designer", 100.0)]
    policies.first_come(jobs, 1)
    assert jobs[1].took > 800.0
    policies.Fleet(1).run(jobs)
    assert jobs[1].took < PREVIEW.device_seconds + PREVIEW.write_seconds + 2.0
    assert jobs[0].took < KINDS["720p"].device_seconds + PREVIEW.device_seconds + 3.0


def test_even_shares_of_a_device() -> None:
    alone, both = CLIP.device_seconds, 2 * CLIP.device_seconds
    same_key = evenly_shared([job(0, CLIP, "a", 0.0), job(1, CLIP, "a", 0.0)], 1)
    assert same_key == pytest.approx([alone + CLIP.write_seconds, both + CLIP.write_seconds])
    two_keys = evenly_shared([job(0, CLIP, "a", 0.0), job(1, CLIP, "b", 0.0)], 1)
    assert two_keys == pytest.approx([both + CLIP.write_seconds] * 2)
    two_devices = evenly_shared([job(0, CLIP, "a", 0.0), job(1, CLIP, "a", 0.0)], 2)
    assert two_devices == pytest.approx([alone + CLIP.write_seconds] * 2)

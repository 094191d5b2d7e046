"""Waiting times from a look at the queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vitascope.domain.arbiter import Candidate
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.service.outlook import MAX_RETRY_SECONDS, UNKNOWN_RETRY_SECONDS, Expectation, Outlook
from vitascope.store import Running, Situation


@pytest.fixture
def job(small_spec: ModelSpec, clock: Any) -> Job:
    request = GenerationRequest(prompt="a", model="small", seed=1)
    return Job(
        id="a",
        number=1,
        status=JobStatus.QUEUED,
        request=request,
        plan=plan(request, small_spec),
        cancel_requested=False,
        progress=0,
        stage="",
        attempt=0,
        created_at=clock.now,
    )


def waiting(job_id: str, seconds: float | None = 10.0) -> Candidate:
    return Candidate(job_id, "", "small", seconds, 0.0)


def running(job_id: str, worker: str, seconds: float | None, progress: int, elapsed: float = 0.0) -> Running:
    return Running(job_id, worker, seconds, progress, elapsed)


class Queue:
    """A queue to look at, and a clock to turn."""

    def __init__(self, situation: Situation) -> None:
        self.situation = situation
        self.looks = 0
        self.now = 100.0
        #: How long a look takes.
        self.cost = 0.0
        self.outlook = Outlook(self.look, lambda: self.now)

    def look(self) -> Situation:
        self.looks += 1
        self.now += self.cost
        return self.situation

    def of(self, job: Job, job_id: str, status: JobStatus = JobStatus.QUEUED) -> Expectation:
        self.outlook.refresh()
        return self.outlook.of(replace(job, id=job_id, status=status))


def test_all_that_is_before_a_job_counts(job: Job) -> None:
    at_work = [running("r", "w1", 20.0, progress=75)]
    queue = Queue(Situation([waiting("a"), waiting("b")], at_work, {"w1"}, {}))
    assert queue.of(job, "r", JobStatus.RUNNING) == Expectation(eta_seconds=pytest.approx(5.0))
    assert queue.of(job, "a") == Expectation(1, pytest.approx(15.0))
    assert queue.of(job, "b") == Expectation(2, pytest.approx(25.0))
    assert queue.of(job, "c") == Expectation(3), "it came after the last look: it is taken to be the last"
    assert queue.of(job, "a", JobStatus.SUCCEEDED) == Expectation()


def test_an_idle_worker_starts_at_once(job: Job) -> None:
    queue = Queue(Situation([waiting("a")], [running("r", "w1", 20.0, 0)], {"w1", "w2"}, {}))
    assert queue.of(job, "a") == Expectation(1, pytest.approx(10.0))


def test_what_is_unknown_is_not_guessed(job: Job) -> None:
    queue = Queue(Situation([waiting("a"), waiting("b", None), waiting("c")], [], {"w"}, {}))
    etas = [queue.of(job, job_id).eta_seconds for job_id in "acb"]
    assert etas == [pytest.approx(10.0), pytest.approx(20.0), None], (
        "the unknown one counts as long, and goes last"
    )
    nobody = Queue(Situation([waiting("a")], [], set(), {}))
    assert nobody.of(job, "a") == Expectation(1, None)


def test_a_running_job_of_an_unknown_model_is_judged_by_its_progress(job: Job) -> None:
    at_work = [running("r", "w", None, progress=25, elapsed=10.0)]
    queue = Queue(Situation([waiting("a")], at_work, {"w"}, {}))
    assert queue.of(job, "r", JobStatus.RUNNING).eta_seconds == pytest.approx(30.0)
    assert queue.of(job, "a").eta_seconds == pytest.approx(40.0)
    queue = Queue(Situation([waiting("a")], [running("r", "w", None, progress=0)], {"w"}, {}))
    assert queue.of(job, "r", JobStatus.RUNNING) == Expectation()
    assert queue.of(job, "a") == Expectation(1, None)


def test_what_a_dead_worker_holds_ends_nobody_knows_when(job: Job) -> None:
    at_work = [running("r", "dead", 20.0, progress=50, elapsed=10.0)]
    queue = Queue(Situation([waiting("a")], at_work, {"w"}, {}))
    assert queue.of(job, "r", JobStatus.RUNNING) == Expectation()
    assert queue.of(job, "a") == Expectation(1, pytest.approx(10.0))


def test_answers_count_the_time_since_the_look(job: Job) -> None:
    queue = Queue(Situation([waiting("a")], [], {"w"}, {}))
    assert queue.of(job, "a").eta_seconds == pytest.approx(10.0)
    queue.now += 0.9
    assert queue.of(job, "a").eta_seconds == pytest.approx(9.1)
    assert queue.looks == 1
    queue.now += 0.2
    assert queue.of(job, "a").eta_seconds == pytest.approx(10.0)
    assert queue.looks == 2


def test_a_long_queue_is_looked_at_less_often(job: Job) -> None:
    queue = Queue(Situation([waiting("a")], [], {"w"}, {}))
    queue.cost = 0.5
    queue.of(job, "a")
    queue.now += 9.9
    queue.of(job, "a")
    assert queue.looks == 1
    queue.now += 0.2
    queue.of(job, "a")
    assert queue.looks == 2


def test_when_to_come_back_to_a_full_queue() -> None:
    queue = Queue(
        Situation([], [running("r", "w1", 20.0, 50), running("s", "w2", 9.0, 50)], {"w1", "w2"}, {})
    )
    assert queue.outlook.retry_seconds() == UNKNOWN_RETRY_SECONDS
    queue.outlook.refresh()
    assert queue.outlook.retry_seconds() == 5
    queue.now += 60
    assert queue.outlook.retry_seconds() == 1
    long = Queue(Situation([], [running("r", "w1", 10_000.0, 0)], {"w1"}, {}))
    long.outlook.refresh()
    assert long.outlook.retry_seconds() == MAX_RETRY_SECONDS


def test_how_long_one_that_comes_now_waits() -> None:
    nobody = Queue(Situation([waiting("a")], [], frozenset(), {}))
    nobody.outlook.refresh()
    assert nobody.outlook.newcomer_waits is None, "nobody knows"
    at_work = [running("r", "w1", 20.0, 50)]  # w2 is free
    free = Queue(Situation([], at_work, {"w1", "w2"}, {}))
    free.outlook.refresh()
    assert free.outlook.newcomer_waits == 0.0
    # a begins at once and ends after 10 s as r does; b and c begin then
    busy = Queue(Situation([waiting("a"), waiting("b"), waiting("c", 30.0)], at_work, {"w1", "w2"}, {}))
    busy.outlook.refresh()
    assert busy.outlook.newcomer_waits == pytest.approx(20.0)
    busy.now += 5
    assert busy.outlook.newcomer_waits == pytest.approx(15.0)

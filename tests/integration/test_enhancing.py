"""Prompts that are written out in the engine process, as a job's first stage: kept, reused, cancelled. Real processes, a real endpoint."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import endpoints
from endpoints import Answer, Service, chat
from vitascope.catalog import Catalog
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.storage import LocalStorage
from vitascope.store import Store
from vitascope.worker.engine_process import EngineProcess
from vitascope.worker.parent import Worker, WorkerConfig
from waiting import eventually

LONG = "A brown dog walks along a beach at sunset."


@dataclass
class Bench:
    """A store, a worker in a thread, its engine process, and the endpoint that this asks."""

    folder: Path
    service: Service
    store: Store
    step_seconds: float = 0.0
    engines: list[EngineProcess] = field(default_factory=list)

    def start_engine(self) -> EngineProcess:
        environment = {
            **os.environ,
            "VITASCOPE_HOME": str(self.folder / "home"),
            "VITASCOPE_ENGINE__KIND": "fake",
            "VITASCOPE_ENGINE__FAKE_STEP_SECONDS": str(self.step_seconds),
            "VITASCOPE_PROMPTING__URL": self.service.url,
            "VITASCOPE_PROMPTING__MODEL": "talker",
            "VITASCOPE_PROMPTING__API_KEY": "s3cret",
        }
        command = [sys.executable, "-m", "vitascope", "engine-process"]
        self.engines.append(EngineProcess(lambda fd: [*command, str(fd)], environment))
        return self.engines[-1]

    def submit(self, name: str) -> Job:
        request = GenerationRequest(
            prompt="a dog", model="pocket", seed=1, width=64, height=64, num_frames=5, enhance_prompt=True
        )
        planned = plan(request, Catalog.open().resolve("pocket"))
        return self.store.create(name, request, planned, max_queued=100)

    def wait(self, job: Job, condition: Callable[[Job], object]) -> Job:
        def look() -> Job | None:
            return found if condition(found := self.store.get(job.id)) else None

        return eventually(look, timeout_seconds=120)

    def ended(self, job: Job) -> Job:
        return self.wait(job, lambda found: found.status.is_terminal)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    store = Store.open(f"sqlite:///{tmp_path / 'jobs.db'}")
    with endpoints.serving(chat(LONG)) as service:
        made = Bench(tmp_path, service, store)
        config = WorkerConfig("w1", tmp_path / "work" / "here-1", lease_seconds=3, poll_seconds=0.02)
        worker = Worker(store, LocalStorage(tmp_path / "files"), made.start_engine, config, Catalog.open())
        thread = threading.Thread(target=worker.run)
        thread.start()
        yield made
        service.is_over.set()
        worker.stop()
        thread.join(timeout=60)
    store.close()


def choice_of(job: Job) -> tuple[str, str]:
    assert job.details is not None
    (found,) = (choice for choice in job.details["choices"] if choice["name"] == "enhance_prompt")
    return found["value"], found["reason"]


def test_the_new_text_is_kept_beside_the_old_one(bench: Bench) -> None:
    job = bench.ended(bench.submit("job1"))
    assert job.status is JobStatus.SUCCEEDED
    assert (job.request.prompt, job.plan.prompt, job.enhanced_prompt) == ("a dog", "a dog", LONG)
    assert choice_of(job) == ("on", "written out by `talker`")
    assert job.details is not None
    assert job.details["seconds"]["enhance_prompt"] > 0
    assert bench.service.headers[0]["authorization"] == "Bearer s3cret"


def test_a_second_try_does_not_ask_again(bench: Bench) -> None:
    """The model would write something else, and what was promised is the same video."""
    bench.step_seconds = 0.3
    job = bench.submit("job1")
    bench.wait(job, lambda found: found.stage == "denoise" and found.enhanced_prompt)
    os.kill(bench.engines[-1].pid, signal.SIGKILL)
    bench.service.answer = lambda _: chat("something else")
    bench.step_seconds = 0.0
    job = bench.ended(job)
    assert (job.status, job.attempt, job.enhanced_prompt) == (JobStatus.SUCCEEDED, 2, LONG)
    assert choice_of(job) == ("on", "as it was written out for an earlier try")
    assert len(bench.service.asked) == 1


@pytest.mark.parametrize("answer", [Answer(status=500), Answer(b"<html>"), chat("")])
def test_a_job_is_made_whatever_the_model_says(bench: Bench, answer: Answer) -> None:
    bench.service.answer = lambda _: answer
    job = bench.ended(bench.submit("job1"))
    assert (job.status, job.enhanced_prompt, choice_of(job)[0]) == (JobStatus.SUCCEEDED, None, "off")


def test_a_cancel_does_not_wait_for_the_model(bench: Bench) -> None:
    bench.service.answer = lambda _: Answer(hangs=True)
    job = bench.submit("job1")
    bench.wait(job, lambda found: found.stage == "enhance_prompt")
    bench.store.request_cancel(job.id)
    assert bench.ended(job).status is JobStatus.CANCELLED
    bench.service.answer = lambda _: chat(LONG)
    assert bench.ended(bench.submit("job2")).status is JobStatus.SUCCEEDED
    assert len(bench.engines) == 1, "no engine had to be killed for it"

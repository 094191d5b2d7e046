"""A worker in a thread and its engine process, over a real store: what it does with the jobs of a test."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitascope.catalog import Catalog
from vitascope.domain.job import Job
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.storage import LocalStorage
from vitascope.store import Store
from vitascope.worker.engine_process import EngineProcess
from vitascope.worker.parent import Worker, WorkerConfig
from waiting import eventually


@dataclass
class Bench:
    """The store, the storage and the engine processes, of which a test may change what the next one is told."""

    folder: Path
    store: Store
    files: LocalStorage
    environment: dict[str, str]
    step_seconds: float = 0.0
    engines: list[EngineProcess] = field(default_factory=list)
    #: The one that works.
    worker: Worker = field(init=False)

    def start_engine(self) -> EngineProcess:
        environment = {
            **os.environ,
            "VITASCOPE_HOME": str(self.folder / "home"),
            "VITASCOPE_ENGINE__KIND": "fake",
            "VITASCOPE_ENGINE__FAKE_STEP_SECONDS": str(self.step_seconds),
            **self.environment,
        }
        command = [sys.executable, "-m", "vitascope", "engine-process"]
        self.engines.append(EngineProcess(lambda fd: [*command, str(fd)], environment))
        return self.engines[-1]

    def submit(self, name: str, **asked: Any) -> Job:
        small = {"prompt": "a dog", "model": "pocket", "seed": 1, "width": 64, "height": 64, "num_frames": 5}
        request = GenerationRequest(**{**small, **asked})
        return self.store.create(
            name, request, plan(request, Catalog.open().resolve("pocket")), max_queued=100
        )

    def wait(self, job: Job, condition: Callable[[Job], object]) -> Job:
        def look() -> Job | None:
            return found if condition(found := self.store.get(job.id)) else None

        return eventually(look, timeout_seconds=120)

    def ended(self, job: Job) -> Job:
        return self.wait(job, lambda found: found.status.is_terminal)


@contextmanager
def working(folder: Path, **environment: str) -> Iterator[Bench]:
    """Let a worker work; its engine processes have these settings."""
    store, files = Store.open(f"sqlite:///{folder / 'jobs.db'}"), LocalStorage(folder / "files")
    bench = Bench(folder, store, files, environment)
    config = WorkerConfig("w1", folder / "work" / "here-1", lease_seconds=3, poll_seconds=0.02)
    worker = bench.worker = Worker(store, files, bench.start_engine, config, Catalog.open())
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield bench
    finally:
        worker.stop()
        thread.join(timeout=60)
        store.close()

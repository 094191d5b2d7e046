"""The vendor's management calls on real processes: another worker process, no job lost, less memory, an empty queue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serving import Server
from waiting import eventually

ENTERPRISE, VIDEO = "/api/v1/enterprise", "/api/v1/enterprise/video"


class Managed(Server):
    """A server, and its management calls."""

    def call(self, path: str, **body: Any) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}{path}", json={"key": "", **body}, timeout=60)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def get(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/api/v1{path}").json()
        return found

    def submit(self, **body: Any) -> str:
        small = {"prompt": "a dog", "width": 64, "height": 64, "num_frames": 5}
        answer = httpx.post(f"{self.url}/api/v1/jobs", json={**small, **body})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return self.get(f"/jobs/{job_id}")

    def ended(self, job_id: str) -> dict[str, Any]:
        return eventually(
            lambda: found if (found := self.job(job_id))["finished_at"] else None, timeout_seconds=120
        )

    def member(self, name: str) -> psutil.Process:
        """The process that runs this command of ours."""
        return eventually(lambda: next((one for one in self.members() if name in one.cmdline()), None))

    def worker(self) -> str:
        """Id of the one worker that lives."""
        found = eventually(lambda: found if len(found := self.get("/workers")["workers"]) == 1 else None)
        return str(found[0]["id"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Managed]:
    made = Managed(tmp_path)
    yield made
    made.stop()
    assert "Traceback" not in made.log.read_text()


@pytest.mark.parametrize("path", [f"{ENTERPRISE}/restart_server", f"{VIDEO}/clear_queue"])
def test_another_worker_process_takes_the_place_and_no_job_is_lost(server: Managed, path: str) -> None:
    server.start("--engine", "fake", "--fake-step-seconds", "0.2")
    before = server.member("worker").pid
    running = server.submit()
    eventually(lambda: server.job(running)["status"] == "running")
    waiting = [server.submit() for _ in range(3)]
    server.call(path)
    eventually(lambda: not psutil.pid_exists(before))
    after = server.member("worker").pid
    assert after != before
    assert server.worker().split("-")[-2] == str(after)
    done = server.ended(running)
    assert (done["status"], done["attempt"]) == ("succeeded", 1), "it had the time to finish"
    ends = [server.ended(job)["status"] for job in waiting]
    assert ends == ["succeeded" if path.endswith("restart_server") else "cancelled"] * 3
    eventually(lambda: server.get("/commands")["commands"][0]["status"] == "done")
    log = server.log.read_text()
    assert "process is started anew" in log
    assert "process ended" not in log, "which a crash is"
    assert server.ended(server.submit())["status"] == "succeeded"


def test_a_job_that_has_no_time_to_finish_is_made_again(server: Managed) -> None:
    server.start("--engine", "fake", "--fake-step-seconds", "0.3", VITASCOPE_WORKER__DRAIN_SECONDS="0")
    job = server.submit(num_inference_steps=20)
    eventually(lambda: server.job(job)["progress"] > 0)
    before = server.member("worker").pid
    server.call(f"{VIDEO}/restart_server")
    eventually(lambda: not psutil.pid_exists(before))
    done = server.ended(job)
    assert (done["status"], done["attempt"]) == ("succeeded", 1), "the job was not to blame"


def test_a_worker_alone_becomes_a_new_one_and_still_heeds_signals(server: Managed) -> None:
    server.run("web", VITASCOPE_ENGINE__KIND="fake")
    eventually(lambda: server.answers("/livez", 200), 60)
    environment = {"VITASCOPE_HOME": str(server.home), "VITASCOPE_ENGINE__KIND": "fake"}
    with (server.home.parent / "worker.log").open("wb") as log:
        alone = subprocess.Popen(
            [sys.executable, "-m", "vitascope", "worker"], env={**os.environ, **environment}, stderr=log
        )
    try:
        first = server.worker()
        (engine,) = eventually(lambda: psutil.Process(alone.pid).children())
        server.call(f"{VIDEO}/restart_server")
        eventually(lambda: not engine.is_running())
        eventually(lambda: server.worker() != first)
        assert server.worker().split("-")[-2] == str(alone.pid), (
            "whoever watches the process goes on watching it"
        )
        assert server.ended(server.submit())["status"] == "succeeded"
        alone.send_signal(signal.SIGTERM)
        assert alone.wait(timeout=60) == 0
    finally:
        alone.kill()
        alone.wait()


def test_memory_falls_when_the_cache_is_cleared(server: Managed) -> None:
    server.start()
    engine = server.member("engine-process")
    assert server.ended(server.submit())["status"] == "succeeded"
    eventually(lambda: server.call(f"{VIDEO}/system_details")["data"]["loaded_models"] == ["pocket"])
    before = engine.memory_info().rss
    assert server.call(f"{VIDEO}/clear_cache")["message"] == "Cache cleared successfully"
    freed = before - engine.memory_info().rss
    print(f"clear_cache freed {freed / 2**20:.0f} MiB")
    assert freed > 10 * 2**20, "the embedded model's weights take 35 MB"
    assert server.call(f"{VIDEO}/system_details")["data"]["loaded_models"] == []
    assert server.ended(server.submit())["status"] == "succeeded"
    assert engine.is_running(), "nothing was restarted"

"""A full disk, a folder that cannot be used, a clock that is set back: the job tells the truth and the server stays up."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bench.deployment import Deployment
from waiting import eventually

SMALL = {"prompt": "a dog", "height": 64, "width": 64, "num_frames": 5}

# Read in every process of the server at its start: the wall clock, off by the seconds that a file says. The counters that
# never jump are as they are, as when somebody sets a machine's clock.
TURNED_CLOCK = """
import datetime, os, time
from pathlib import Path

wall, file, real = time.time, Path(os.environ["CLOCK_FILE"]), datetime.datetime
off = lambda: float(file.read_text() or 0)

class Kind(type):
    def __instancecheck__(cls, value):
        return isinstance(value, real)

class Turned(real, metaclass=Kind):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + datetime.timedelta(seconds=off())

time.time = lambda: wall() + off()
datetime.datetime = Turned
"""


class Server:
    """A deployment and how to talk to it."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        fast = {"VITASCOPE_WORKER__LEASE_SECONDS": "2", "VITASCOPE_WORKER__POLL_SECONDS": "0.05"}
        self.deployment = Deployment(folder, {**fast, "VITASCOPE_ENGINE__KIND": "fake", **settings})
        self.home = self.deployment.home
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.deployment.ports[0]}", timeout=60)
        self.deployment.tend()
        eventually(self.is_ready, 60)
        self.pids = {kind: found[0].pid for kind, found in self.deployment.processes().items()}

    def is_ready(self) -> bool:
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def create(self, **asked: Any) -> dict[str, Any]:
        answer = self.http.post("/api/v1/jobs", json={**SMALL, "num_inference_steps": 1, **asked})
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def get(self, job: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/api/v1/jobs/{job['id']}").json()
        return found

    def wait(self, job: dict[str, Any], condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        return eventually(lambda: found if condition(found := self.get(job)) else None, 60)

    def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        return self.wait(job, lambda found: found["finished_at"] is not None)

    def limit_files(self, kind: str, num_bytes: int) -> None:
        """Let a process write files of that size only; what is over it fails as on a full disk."""
        psutil.Process(self.pids[kind]).rlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))

    def is_as_it_was(self) -> bool:
        """Whether no process has ended."""
        found = {
            kind: [process.pid for process in some] for kind, some in self.deployment.processes().items()
        }
        return found == {kind: [pid] for kind, pid in self.pids.items()}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(**settings: str) -> Server:
        servers.append(Server(tmp_path, settings))
        return servers[-1]

    yield start
    for server in servers:
        server.http.close()
        assert server.deployment.stop() == []


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    return serve(VITASCOPE_ENGINE__FAKE_STEP_SECONDS="0.2")


def check_truthful(server: Server, job: dict[str, Any], code: str) -> str:
    """The job says that it failed and why, in every API, without a word about this machine; returns the sentence."""
    assert (job["status"], job["error"]["code"], job["video"]) == ("failed", code, None)
    assert job["progress"] < 100
    video = server.http.get(f"/v1/videos/video_{job['id']}").json()
    assert (video["status"], video["error"]["code"]) == ("failed", code)
    assert server.http.get(f"/api/v1/jobs/{job['id']}/content").status_code == 404
    message: str = job["error"]["message"]
    assert str(server.folder) not in message
    assert "Traceback" not in message
    return message


def test_a_disk_that_is_full_when_the_video_is_written_fails_that_job(server: Server) -> None:
    server.limit_files("engine", 1000)
    check_truthful(server, server.ended(server.create()), "write_failed")
    server.limit_files("engine", resource.RLIM_INFINITY)
    assert server.ended(server.create())["status"] == "succeeded"
    assert server.is_as_it_was(), "nothing was restarted for it"
    assert not list((server.home / "work").rglob("*.mp4*")), "nothing half-written is left"


def test_a_disk_that_is_full_when_a_job_is_created_refuses_it_and_recovers(server: Server) -> None:
    server.ended(server.create())
    server.limit_files("web", 1000)
    refused = server.http.post("/api/v1/jobs", json=SMALL)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "store_unavailable"
    assert "retry-after" in refused.headers
    assert server.http.get("/livez").status_code == 200
    assert len(server.http.get("/api/v1/jobs").json()["jobs"]) == 1, "what is there can still be read"
    server.limit_files("web", resource.RLIM_INFINITY)
    assert server.ended(server.create())["status"] == "succeeded"
    assert len(server.http.get("/api/v1/jobs").json()["jobs"]) == 2, "what was refused was not stored"
    assert server.is_as_it_was()


def test_a_disk_that_is_full_when_a_job_ends_keeps_it_until_there_is_space(server: Server) -> None:
    job = server.create(num_inference_steps=10)
    server.wait(job, lambda found: found["stage"] == "denoise")
    server.limit_files("worker", 1000)
    eventually(lambda: "the job store does not answer" in server.deployment.log.read_text())
    assert server.get(job)["finished_at"] is None, "it has not ended, and does not say so"
    server.limit_files("worker", resource.RLIM_INFINITY)
    assert server.ended(job)["status"] == "succeeded"


def test_a_videos_folder_that_cannot_be_used_fails_the_job(server: Server) -> None:
    kept = server.ended(server.create())
    videos = server.home / "files" / "videos"
    videos.rename(videos.with_name("away"))
    videos.write_text("in the way")
    check_truthful(server, server.ended(server.create()), "storage_error")
    lost = server.http.get(f"/api/v1/jobs/{kept['id']}/content")
    assert lost.json()["error"]["code"] == "storage_error"
    assert str(server.folder) not in lost.text
    videos.unlink()
    videos.with_name("away").rename(videos)
    assert server.http.get(f"/api/v1/jobs/{kept['id']}/content").status_code == 200
    assert server.ended(server.create())["status"] == "succeeded"
    assert server.is_as_it_was()


def test_a_work_folder_that_is_gone_costs_an_attempt_at_most(server: Server) -> None:
    work = server.home / "work"
    work.rename(work.with_name("gone"))
    assert server.ended(server.create())["status"] in ("succeeded", "failed")
    eventually(server.is_ready)
    assert server.ended(server.create())["status"] == "succeeded"


def test_a_clock_that_is_set_back_an_hour_changes_no_job(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(TURNED_CLOCK)
    clock = tmp_path / "clock"
    clock.write_text("0")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")
    # what signs files takes no date of a turned clock
    settings = {"VITASCOPE_ENGINE__FAKE_STEP_SECONDS": "0.2", "VITASCOPE_PROVENANCE__ENABLED": "false"}
    server = serve(**settings, CLOCK_FILE=str(clock))
    before = server.ended(server.create())
    running = server.create(num_inference_steps=30)
    server.wait(running, lambda found: found["stage"] == "denoise")
    clock.write_text("-3600")
    after = server.create()
    assert after["created_at"] < before["created_at"], "the clock was set back, in the web process at least"
    ended = server.ended(running)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 1), "no lease was lost for it"
    assert server.ended(after)["status"] == "succeeded"
    shown = [job["id"] for job in server.http.get("/api/v1/jobs").json()["jobs"]]
    assert shown == [after["id"], running["id"], before["id"]], "by arrival, whatever the clock said"
    assert server.is_ready()
    assert server.is_as_it_was()

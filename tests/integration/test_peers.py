"""Peers: two real servers, one of which is busy. What the first one's clients see is the first one's."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from vitascope import media
from vitascope.catalog import Catalog
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.storage import LocalStorage
from vitascope.store import Store
from waiting import eventually

TINY = {"prompt": "a dog", "height": 64, "width": 96, "num_frames": 9, "fps": 8, "num_inference_steps": 4}
LEASE_SECONDS = "3"
START_SECONDS = 150
"""On a busy machine; two seconds on an idle one."""


class Server:
    """One `vitascope serve` with a data folder of its own; its engine draws at a set pace."""

    def __init__(self, folder: Path, name: str) -> None:
        self.home = folder / name
        self.home.mkdir()
        self.log = folder / f"{name}.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, step_seconds: float = 0.0, **environment: str) -> Server:
        settings = {
            "VITASCOPE_HOME": str(self.home),
            "VITASCOPE_WORKER__LEASE_SECONDS": LEASE_SECONDS,
            "VITASCOPE_ENGINE__KIND": "fake",
            "VITASCOPE_ENGINE__SLOTS": "1",  # a busy one is busy: a short job waits for a long one
            "VITASCOPE_ENGINE__FAKE_STEP_SECONDS": str(step_seconds),
            "VITASCOPE_WORKER__DRAIN_SECONDS": "0",
            "VITASCOPE_OUTBOUND__ALLOW": '["127.0.0.0/8"]',
        }
        command = [sys.executable, "-m", "vitascope", "serve", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **settings, **environment}, stderr=log, cwd=self.home
            )
        eventually(self.is_ready, START_SECONDS)
        return self

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz").status_code == 200
        return False

    def ask(self, method: str, path: str, **how: Any) -> Any:
        answer = httpx.request(method, f"{self.url}/api/v1{path}", timeout=30, **how)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def submit(self, **asked: Any) -> dict[str, Any]:
        return self.ask("POST", "/jobs", json={**TINY, **asked})

    def job(self, job: dict[str, Any]) -> dict[str, Any]:
        return self.ask("GET", f"/jobs/{job['id']}")

    def jobs(self) -> list[dict[str, Any]]:
        return self.ask("GET", "/jobs")["jobs"]

    def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        return self.wait(job, lambda now: now["finished_at"])

    def wait(self, job: dict[str, Any], condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        return eventually(lambda: now if condition(now := self.job(job)) else None, 90)

    def kill(self) -> None:
        assert self.process is not None
        members = psutil.Process(self.process.pid).children(recursive=True)
        for each in (self.process, *members):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)


class Pair:
    """A first server whose engine is slow, and a second one; they are each other's peers, and the first one names itself too."""

    def __init__(self, folder: Path) -> None:
        self.first, self.second = Server(folder, "first"), Server(folder, "second")

    def start(self, step_seconds: float = 0.05, **environment: str) -> None:
        peers = json.dumps([{"url": self.first.url}])
        self.second.start(step_seconds, VITASCOPE_PEERS=peers)
        self.start_first(30.0, **environment)
        self.first.wait(self.first.submit(num_inference_steps=100), lambda job: job["status"] == "running")

    def start_first(self, step_seconds: float, **environment: str) -> None:
        peers = json.dumps([{"url": self.first.url}, {"url": self.second.url}])
        self.first.start(step_seconds, VITASCOPE_PEERS=peers, **environment)

    def stop(self) -> None:
        for server in (self.first, self.second):
            server.stop()
        for server in (self.first, self.second):
            assert not server.log.exists() or "Traceback" not in server.log.read_text()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A pair whose first server is busy for as long as the tests of this module take."""
    made = Pair(tmp_path_factory.mktemp("pair"))
    try:
        made.start(VITASCOPE_WATERMARK__TEXT="AI", VITASCOPE_MODELSLAB__WAIT_SECONDS="0")
        yield made
    finally:
        made.stop()


class Receiver(ThreadingHTTPServer):
    """Takes webhooks."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


CARD = """
id = "mine"
source = "folder:/nowhere"
pipeline = "WanPipeline"
modes = { text = "WanPipeline" }
size = { native = ["96x64"], multiple = 32, max_pixels = 0 }
frames = { multiple = 4, offset = 1, minimum = 5, maximum = 17, default = 17 }
fps = 8
steps = { default = 12, minimum = 1, maximum = 100 }
guidance = { default = 4.0, minimum = 1.0, maximum = 20.0 }
"""


def png() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((96, 64), 60).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def choices(job: dict[str, Any]) -> dict[str, str]:
    return {choice["name"]: choice["value"] for choice in job["choices"]}


def test_a_busy_server_hands_over_what_may_be_and_answers_for_it(
    shared: Pair, receiver: Receiver, tmp_path: Path
) -> None:
    """The reply, polling, links, provenance and webhook are the first one's, and the same video comes out."""
    first, second = shared.first, shared.second
    stays = first.submit()
    made = first.ended(
        first.submit(may_hand_over=True, seed=7, webhook=receiver.url, track_id="t", num_videos=2)
    )
    assert (made["status"], made["attempt"], made["may_hand_over"]) == ("succeeded", 1, True)
    assert choices(made)["made_by"] == "a peer server"
    assert {"hand_over", "denoise"} <= made["seconds_by_stage"].keys()
    assert first.job(stays)["status"] == "queued", "what may not is not handed over, and waits its turn"
    first.ask("DELETE", f"/jobs/{stays['id']}")
    assert [video["index"] for video in made["videos"]] == [0, 1]
    for video in made["videos"]:
        for shown in (video, video["thumbnail"], video["spritesheet"]):
            assert shown["signed_url"].startswith(first.url)
            file = httpx.get(shown["signed_url"])
            assert (file.status_code, len(file.content)) == (200, shown["num_bytes"])
        origin = first.ask("GET", f"/jobs/{made['id']}/provenance?index={video['index']}")
        assert (origin["state"], origin["is_known"], origin["model"]) == ("valid", True, "pocket")
    (body,) = eventually(lambda: receiver.bodies)
    assert made["id"] in json.dumps(body)
    eventually(lambda: second.jobs() == [])  # nothing is left there
    own = second.ended(second.submit(seed=7, num_videos=2, watermark="AI"))
    for index in (0, 1):
        files = [httpx.get(job["videos"][index]["signed_url"]).content for job in (made, own)]
        frames = [frames_of(file, tmp_path / "a.mp4") for file in files]
        assert frames[0].shape == (9, 64, 96, 3)
        assert (frames[0] == frames[1]).all(), "what this server would have made, its watermark with it"
    second.ask("DELETE", f"/jobs/{own['id']}")


def frames_of(file: bytes, path: Path) -> Any:
    path.write_bytes(file)
    return media.read_frames(path)


def test_what_was_sent_travels_along(shared: Pair) -> None:
    """A first frame, a watermark's picture, a GIF, shots, previews: the peer plans the same, else it would not make it."""
    first = shared.first
    picture = data_url(png())
    asked: tuple[dict[str, Any], ...] = (
        {"image": picture, "format": "gif", "preview_every": 1},
        {"watermark": {"image": picture, "opacity": 1.0}},
        {"shots": [{"prompt": "a cat"}, {"prompt": "a cow", "transition": "continue"}], "num_frames": 16},
    )
    jobs = [first.submit(may_hand_over=True, seed=3, **more) for more in asked]
    ended = [first.ended(job) for job in jobs]
    assert [choices(job).get("made_by") for job in ended] == ["a peer server"] * 3
    assert [job["video"]["media_type"] for job in ended] == ["image/gif", "video/mp4", "video/mp4"]
    for job in ended:
        assert first.ask("GET", f"/jobs/{job['id']}/provenance")["is_known"]
    assert "event: preview" in httpx.get(f"{first.url}/api/v1/jobs/{ended[0]['id']}/events").text


def test_a_vendors_loadbalancer_means_the_same(shared: Pair, receiver: Receiver) -> None:
    first = shared.first
    asked = {"key": "", "prompt": "a dog", "height": 64, "width": 96, "num_frames": 9, "seed": 5}

    def post(path: str, **more: Any) -> dict[str, Any]:
        answer = httpx.post(f"{first.url}/api/v1/enterprise/{path}", json={**asked, **more}, timeout=60)
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    stays = post("text2video", loadbalancer="no")
    goes = post("text2video", loadbalancer="yes", webhook=receiver.url, track_id="t1")
    fetched = eventually(
        lambda: now if (now := post("fetch", request_id=goes["id"]))["status"] == "success" else None, 90
    )
    (link,) = fetched["output"]
    assert link.startswith(first.url)
    assert httpx.get(link).headers["content-type"] == "video/mp4"
    assert choices(first.job({"id": goes["id"]}))["made_by"] == "a peer server"
    (told,) = eventually(lambda: receiver.bodies)
    assert (told["id"], told["track_id"], told["output"][0][: len(first.url)]) == (
        goes["id"],
        "t1",
        first.url,
    )
    assert first.job({"id": stays["id"]})["status"] == "queued"
    first.ask("DELETE", f"/jobs/{stays['id']}")


def test_a_cancel_reaches_the_peer(shared: Pair) -> None:
    first, second = shared.first, shared.second
    job = first.submit(may_hand_over=True, num_inference_steps=100)
    first.wait(job, lambda now: now["stage"] == "denoise")
    first.ask("POST", f"/jobs/{job['id']}/cancel")
    assert first.ended(job)["status"] == "cancelled"
    eventually(lambda: second.jobs() == [])
    eventually(lambda: second.ask("GET", "/queue")["running"] == 0)


def test_workers_say_whose_jobs_they_make(shared: Pair) -> None:
    workers = shared.first.ask("GET", "/workers")["workers"]
    assert [worker["peer"] for worker in workers].count(None) == 1
    peers = {worker["peer"] for worker in workers}
    assert peers == {None, shared.first.url, shared.second.url}
    queue = shared.first.ask("GET", "/queue")
    assert queue["live_workers"] == 1, "who asks for a job that stays waits for this one"
    assert queue["wait_seconds"] > 0
    eventually(lambda: shared.second.ask("GET", "/queue")["wait_seconds"] == 0)


def test_doctor_asks_each_peer(shared: Pair, tmp_path: Path) -> None:
    peers = [{"url": shared.second.url}, {"url": shared.first.url}, {"url": "http://127.0.0.1:9"}]
    done = subprocess.run(
        [sys.executable, "-m", "vitascope", "doctor", "--json"],
        env={**os.environ, "VITASCOPE_HOME": str(tmp_path), "VITASCOPE_PEERS": json.dumps(peers)},
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    found = {each["name"]: each for each in json.loads(done.stdout)}
    assert (found["peer 1"]["meaning"], found["peer 1"]["ok"]) == ("ready; a job would wait 0 s there", True)
    assert found["peer 2"]["ok"]
    assert (found["peer 3"]["meaning"], found["peer 3"]["ok"]) == (
        "it cannot be reached: jobs stay here",
        False,
    )
    assert done.returncode == 1


def test_a_server_that_names_itself_hands_nothing_over_to_itself(shared: Pair) -> None:
    eventually(lambda: "is this server itself" in shared.first.log.read_text())


class Lone:
    """A store, and `vitascope worker --peer` alone beside it: no worker here makes anything."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "lone"
        self.log = folder / "lone.log"
        self.home.mkdir()
        self.store = Store.open(f"sqlite:///{self.home / 'vitascope.db'}")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, peer: dict[str, str], lease_seconds: float = 3.0) -> None:
        settings = {
            "VITASCOPE_HOME": str(self.home),
            "VITASCOPE_PEERS": json.dumps([peer]),
            "VITASCOPE_WORKER__LEASE_SECONDS": str(lease_seconds),
            "VITASCOPE_WORKER__DRAIN_SECONDS": "0",
        }
        command = [sys.executable, "-m", "vitascope", "worker", "--peer", "1"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **settings}, stderr=log, cwd=self.home
            )

    def submit(self) -> Job:
        asked = {**TINY, "num_inference_steps": 100}
        request = GenerationRequest(model="pocket", seed=1, may_hand_over=True, **asked)
        planned = plan(request, Catalog.open().resolve("pocket"))
        return self.store.create(uuid.uuid4().hex, request, planned, max_queued=100)

    def wait(self, job: Job, condition: Callable[[Job], object]) -> Job:
        return eventually(lambda: now if condition(now := self.store.get(job.id)) else None, 90)

    def handed_over(self) -> Job:
        """A job that the peer has begun with."""
        return self.wait(self.submit(), lambda now: now.stage == "denoise")

    def made(self, job: Job) -> Job:
        ended = self.wait(job, lambda now: now.status.is_terminal)
        assert ended.status is JobStatus.SUCCEEDED, ended.error
        assert LocalStorage(self.home / "files").path_for(ended.videos[0].key).exists()
        return ended

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None:
            self.process.kill() if kill else self.process.terminate()
            self.process.wait(timeout=60)

    def close(self) -> None:
        self.stop()
        self.store.close()
        assert "Traceback" not in self.log.read_text()


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, "second")
    yield made
    made.stop()
    assert "Traceback" not in made.log.read_text()


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Lone]:
    made = Lone(tmp_path)
    yield made
    made.close()


def test_whatever_dies_costs_nothing_but_time(lone: Lone, second: Server) -> None:
    """The worker that hands over, or the peer; for a while, or for good."""
    peer = {"url": second.url}
    second.start(0.1)
    lone.start(peer)
    job = lone.handed_over()
    lone.stop(kill=True)
    lone.start(peer)
    lone.wait(job, lambda now: now.attempt == 2)
    assert len(second.jobs()) == 1, "it is found there, and not made twice"
    assert lone.made(job).videos[0].num_frames == 9

    job = lone.handed_over()
    lone.stop()
    waiting = lone.store.get(job.id)
    assert (waiting.status, waiting.attempt, waiting.progress) == ("queued", 0, 0), "it was handed back"
    assert second.jobs() == [], "and the peer was told"
    lone.start(peer, lease_seconds=30)
    lone.wait(job, lambda now: now.stage == "denoise")
    second.kill()
    second.start(0.02)
    assert lone.made(job).attempt == 1, "a peer's jobs outlive it"
    lone.stop()

    second.stop()
    second.start(0.1)
    lone.start(peer)
    job = lone.handed_over()
    second.kill()
    back = lone.wait(job, lambda now: now.status is JobStatus.QUEUED)
    assert (back.attempt, back.progress, back.error) == (0, 0, None), "as if it had not been handed over"


def test_a_peer_that_refuses_the_key_leaves_jobs_alone(lone: Lone, second: Server) -> None:
    created = subprocess.run(
        [sys.executable, "-m", "vitascope", "keys", "create", "a"],
        env={**os.environ, "VITASCOPE_HOME": str(second.home)}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    key = created.stdout.strip()
    second.start(0.0)
    for name, peer in {"wrong": {"url": second.url, "key": "vs_wrong"}, "none": {"url": second.url}}.items():
        lone.start(peer)
        job = lone.submit()
        eventually(lambda: "answered 401 invalid_api_key" in lone.log.read_text())
        assert lone.store.get(job.id).attempt == 0
        lone.stop()
        lone.log.rename(lone.log.with_name(f"lone.{name}"))
    lone.start({"url": second.url, "key": key})
    assert lone.made(job).details["choices"][-1]["name"] == "made_by"
    texts = [path.read_text() for path in lone.log.parent.glob("lone*") if path.is_file()]
    assert not any("vs_" in text for text in texts)

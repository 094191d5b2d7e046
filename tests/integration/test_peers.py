"""Peers: two real servers, one of which is busy. What the first one's clients see is the first one's."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from vitascope import media
from waiting import eventually

TINY = {"prompt": "a dog", "height": 64, "width": 96, "num_frames": 9, "fps": 8, "num_inference_steps": 4}
LEASE_SECONDS = "3"


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
        self.headers: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, step_seconds: float = 0.0, **environment: str) -> Server:
        settings = {
            "VITASCOPE_HOME": str(self.home),
            "VITASCOPE_WORKER__LEASE_SECONDS": LEASE_SECONDS,
            "VITASCOPE_ENGINE__KIND": "fake",
            "VITASCOPE_ENGINE__FAKE_STEP_SECONDS": str(step_seconds),
            "VITASCOPE_OUTBOUND__ALLOW": '["127.0.0.0/8"]',
        }
        command = [sys.executable, "-m", "vitascope", "serve", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **settings, **environment}, stderr=log, cwd=self.home
            )
        eventually(self.is_ready, 60)
        return self

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz").status_code == 200
        return False

    def ask(self, method: str, path: str, **how: Any) -> Any:
        answer = httpx.request(method, f"{self.url}/api/v1{path}", headers=self.headers, timeout=30, **how)
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
    """A first server whose engine is slow, and a second one that it may hand jobs over to."""

    def __init__(self, folder: Path) -> None:
        self.first, self.second = Server(folder, "first"), Server(folder, "second")

    def start(self, step_seconds: float = 0.0, first_step_seconds: float = 30.0, **environment: str) -> None:
        peers = json.dumps([{"url": self.second.url, "key": self.second.headers.get("key")}])
        self.second.start(step_seconds)
        self.first.start(first_step_seconds, VITASCOPE_PEERS=peers, **environment)

    def busy(self) -> dict[str, Any]:
        """Keep the first one's only worker at work."""
        return self.first.wait(self.first.submit(), lambda job: job["status"] == "running")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    for server in (made.first, made.second):
        server.stop()
        if server.log.exists():
            assert "Traceback" not in server.log.read_text()


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
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def choices(job: dict[str, Any]) -> dict[str, str]:
    return {choice["name"]: choice["value"] for choice in job["choices"]}


def test_a_busy_server_hands_over_what_may_be_and_answers_for_it(
    pair: Pair, receiver: Receiver, tmp_path: Path
) -> None:
    """The reply, polling, links, provenance and webhook are the first one's, and the same video comes out."""
    pair.start()
    running = pair.busy()
    stays = pair.first.submit()
    made = pair.first.ended(
        pair.first.submit(may_hand_over=True, seed=7, webhook=receiver.url, track_id="t", num_videos=2)
    )
    assert (made["status"], made["attempt"], made["may_hand_over"]) == ("succeeded", 1, True)
    assert choices(made)["made_by"] == "a peer server"
    assert "may run on another" in next(c for c in made["choices"] if c["name"] == "made_by")["reason"]
    assert {"hand_over", "denoise"} <= made["seconds_by_stage"].keys()
    assert pair.first.job(running)["status"] == "running"
    assert pair.first.job(stays)["status"] == "queued", "what may not is not handed over, and waits its turn"
    assert [video["index"] for video in made["videos"]] == [0, 1]
    for video in made["videos"]:
        for shown in (video, video["thumbnail"], video["spritesheet"]):
            assert shown["signed_url"].startswith(pair.first.url)
            file = httpx.get(shown["signed_url"])
            assert (file.status_code, len(file.content)) == (200, shown["num_bytes"])
        origin = pair.first.ask("GET", f"/jobs/{made['id']}/provenance?index={video['index']}")
        assert (origin["state"], origin["is_known"], origin["model"]) == ("valid", True, "pocket")
    (body,) = eventually(lambda: receiver.bodies)
    assert made["id"] in json.dumps(body)
    eventually(lambda: pair.second.jobs() == [], 30)
    own = pair.second.ended(pair.second.submit(seed=7, num_videos=2))
    for index in (0, 1):
        paths = [tmp_path / f"{name}{index}.mp4" for name in ("first", "second")]
        for path, server, job in zip(paths, (pair.first, pair.second), (made, own), strict=True):
            path.write_bytes(httpx.get(server.job(job)["videos"][index]["signed_url"]).content)
        first, second = (media.read_frames(path) for path in paths)
        assert first.shape == (9, 64, 96, 3)
        assert (first == second).all(), "what this server would have made"

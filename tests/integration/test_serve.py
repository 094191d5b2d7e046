"""The server as a user starts it: `vitascope serve`, real processes, the official OpenAI SDK as the client."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import psutil
import pytest
from PIL import Image

from serving import Server
from vitascope import media
from vitascope.domain.job import JobStatus
from vitascope.store import Store
from waiting import eventually


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.stop()
    assert "Traceback" not in made.log.read_text()


def test_the_openai_sdk_makes_a_video_with_the_embedded_model(server: Server, tmp_path: Path) -> None:
    server.start()
    with server.client() as client:
        video = client.videos.create(
            prompt="a dog walks along the beach", seconds="4", size="640x360", extra_body={"seed": 3}
        )
        assert (video.status, video.progress) == ("queued", 0)
        seen = [video.progress]

        def is_done() -> bool:
            nonlocal video
            video = client.videos.retrieve(video.id)
            if seen[-1] != video.progress:
                seen.append(video.progress)
            return video.status not in ("queued", "in_progress")

        eventually(is_done, timeout_seconds=240, pause_seconds=0.1)
        assert video.status == "completed", video.error
        assert seen == sorted(seen)
        assert len([percent for percent in seen if 0 < percent < 100]) >= 3
        assert seen[-1] == 100
        client.videos.download_content(video.id).write_to_file(tmp_path / "dog.mp4")
    info = media.probe(tmp_path / "dog.mp4")
    assert (info.width, info.height, info.duration_seconds) == (640, 360, 4.0)
    frames = media.read_frames(tmp_path / "dog.mp4").astype(int)
    assert np.abs(np.diff(frames, axis=0)).mean() > 0.1, "the clip moves"


def test_create_and_poll_and_delete(server: Server, tmp_path: Path) -> None:
    server.start("--engine", "fake", "--fake-step-seconds", "0.01")
    with server.client() as client:
        video = client.videos.create_and_poll(prompt="a dog", seconds="2", size="320x180")
        assert (video.status, video.seconds, video.size, video.progress) == ("completed", "2", "320x180", 100)
        client.videos.download_content(video.id).write_to_file(tmp_path / "a.mp4")
        assert media.probe(tmp_path / "a.mp4").duration_seconds == 2.0
        ranged = httpx.get(f"{server.url}/v1/videos/{video.id}/content", headers={"Range": "bytes=0-99"})
        assert (ranged.status_code, len(ranged.content)) == (206, 100)
        origin = httpx.get(f"{server.url}/api/v1/jobs/{video.id}/provenance").json()
        assert (origin["state"], origin["is_known"], origin["model"]) == ("valid", True, "pocket")
        assert client.videos.delete(video.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.videos.retrieve(video.id)
    assert list((server.home / "files").rglob("*.mp4")) == []


def test_videos_are_made_from_videos(server: Server, tmp_path: Path) -> None:
    """Signed and watermarked files of this server among them, by the whole way from one file to the next."""
    server.start("--engine", "fake", "--fake-step-seconds", "0", VITASCOPE_WATERMARK__TEXT="AI")

    def frames_of(video: openai.types.Video) -> np.ndarray:
        ended = client.videos.poll(video.id, poll_interval_ms=100)
        assert ended.status == "completed", ended.error
        path = tmp_path / f"{video.id}.mp4"
        client.videos.download_content(video.id).write_to_file(path)
        assert media.probe(path).duration_seconds == float(ended.seconds)
        return media.read_frames(path).astype(float)

    def psnr(one: np.ndarray, other: np.ndarray) -> float:
        return float(10 * np.log10(255**2 / np.mean((one - other) ** 2)))

    with server.client() as client:
        video = client.videos.create(prompt="a dog", seconds="2", size="320x180", extra_body={"seed": 1})
        source = frames_of(video)
        fresh = frames_of(client.videos.create(prompt="a cat", seconds="2", size="320x180", extra_body={"seed": 2}))  # fmt: skip
        remix = client.videos.remix(video.id, prompt="a cat", extra_body={"seed": 2})
        assert (remix.remixed_from_video_id, remix.size, remix.seconds) == (video.id, "320x180", "2")
        remixed = frames_of(remix)
        assert psnr(remixed, source) > psnr(fresh, source) + 1, "it is nearer to its source than a new video"
        sent = ("a.mp4", (tmp_path / f"{video.id}.mp4").read_bytes())
        edited = frames_of(client.videos.edit(prompt="a cat", video=sent, extra_body={"seed": 2}))
        assert psnr(edited, source) > psnr(remixed, source)
        longer = client.videos.extend(
            video=b"", prompt="it runs", seconds="4", extra_body={"video": {"id": video.id}}
        )
        assert (longer.seconds, longer.size) == ("6", "320x180")
        begun = frames_of(longer)
        assert (len(begun), psnr(begun[: len(source)], source) > 35) == (3 * len(source), True)
    assert list((server.home / "files" / "inputs").glob("*")) != []


def test_deleting_a_running_video_stops_it_and_leaves_no_file(server: Server) -> None:
    server.start("--engine", "fake", "--fake-step-seconds", "0.2")
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    with server.client() as client:
        asked = {"extra_body": {"num_inference_steps": 100}, "input_reference": ("a.png", picture.getvalue())}
        video = client.videos.create(prompt="runs", **asked)
        eventually(lambda: client.videos.retrieve(video.id).status == "in_progress")
        client.videos.delete(video.id)
        following = client.videos.create_and_poll(prompt="next", extra_body={"num_inference_steps": 1})
        assert following.status == "completed"
        with pytest.raises(openai.NotFoundError):
            client.videos.retrieve(video.id)
    kept = [
        path.name
        for path in (server.home / "files").rglob("*")
        if path.is_file() and path.name != "deployment"
    ]
    owners = {name.partition(".")[0] for name in kept}
    assert owners == {following.id.removeprefix("video_")}, "neither the deleted video nor its first frame"


def test_a_gif_is_served_as_one(server: Server) -> None:
    server.start("--engine", "fake", "--fake-step-seconds", "0")
    with server.client() as client:
        video = client.videos.create_and_poll(
            prompt="a dog", seconds="1", extra_body={"output_format": "gif"}
        )
    answer = httpx.get(f"{server.url}/v1/videos/{video.id}/content")
    assert answer.headers["content-type"] == "image/gif"
    assert ".gif" in answer.headers["content-disposition"]
    assert Image.open(io.BytesIO(answer.content)).n_frames == 8


def test_jobs_survive_kill_9_of_everything(server: Server) -> None:
    server.start("--engine", "fake", "--fake-step-seconds", "0.2")
    with server.client() as client:
        running = client.videos.create(prompt="runs", extra_body={"num_inference_steps": 50})
        queued = client.videos.create(prompt="waits", extra_body={"num_inference_steps": 1})
        eventually(lambda: client.videos.retrieve(running.id).status == "in_progress")
        assert server.process is not None
        everything = [psutil.Process(server.process.pid), *server.members()]
        for process in everything:
            process.send_signal(signal.SIGKILL)
        server.process.wait()
        psutil.wait_procs(everything, timeout=10)
        server.start("--engine", "fake", "--fake-step-seconds", "0")
        for video in (running, queued):
            eventually(lambda v=video: client.videos.retrieve(v.id).status == "completed")


def test_no_process_outlives_the_supervisor(server: Server) -> None:
    server.start("--engine", "fake")
    members = server.members()
    assert len(members) == 3, "web, worker, engine"
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    gone, alive = psutil.wait_procs(members, timeout=15)
    assert alive == []
    assert len(gone) == 3


def test_sigterm_stops_everything(server: Server) -> None:
    server.start("--engine", "fake")
    members = server.members()
    assert server.process is not None
    server.process.terminate()
    assert server.process.wait(timeout=20) == 0
    assert not any(member.is_running() for member in members)


def test_a_stopping_server_answers_until_its_workers_have_ended(server: Server) -> None:
    server.start("--engine", "fake", "--fake-step-seconds", "0.1")
    assert server.process is not None
    with server.client() as client, httpx.Client(base_url=server.url) as http:
        finished = client.videos.create_and_poll(prompt="was made", extra_body={"num_inference_steps": 1})
        video = client.videos.create(prompt="runs", extra_body={"num_inference_steps": 50})
        eventually(lambda: client.videos.retrieve(video.id).status == "in_progress")
        with http.stream("GET", f"/api/v1/jobs/{video.id}/events") as stream:
            events = stream.iter_lines()
            server.process.terminate()
            eventually(lambda: http.get("/readyz").status_code == 503)
            for path in ("/readyz", "/health"):
                assert http.get(path).json() == {"status": "unavailable", "reason": "the server is stopping"}
            assert http.get("/livez").status_code == 200
            assert client.videos.retrieve(video.id).status == "in_progress"
            assert client.videos.download_content(finished.id).read()[4:8] == b"ftyp"
            late = client.videos.create(prompt="is kept for later")
            assert "event: succeeded" in events
    assert server.process.wait(timeout=30) == 0
    store = Store.open(f"sqlite:///{server.home / 'vitascope.db'}")
    statuses = [store.get(made.id.removeprefix("video_")).status for made in (video, late)]
    store.close()
    assert statuses == [JobStatus.SUCCEEDED, JobStatus.QUEUED]


def test_a_web_process_alone_drains_and_ends(server: Server) -> None:
    server.run("web", VITASCOPE_SERVER__DRAIN_SECONDS="1")
    eventually(lambda: server.answers("/livez", 200), 60)
    assert server.process is not None
    assert httpx.get(f"{server.url}/readyz").json()["reason"] == "no worker is running"
    server.process.terminate()
    eventually(lambda: httpx.get(f"{server.url}/readyz").json()["reason"] == "the server is stopping")
    assert server.process.wait(timeout=30) == 128 + signal.SIGTERM


def test_a_second_signal_ends_a_web_process_at_once(server: Server) -> None:
    server.run("web", VITASCOPE_SERVER__DRAIN_SECONDS="3600")
    eventually(lambda: server.answers("/livez", 200), 60)
    assert server.process is not None
    job = httpx.post(f"{server.url}/api/v1/jobs", json={"prompt": "waits"}).json()
    with httpx.stream("GET", f"{server.url}/api/v1/jobs/{job['id']}/events") as stream:
        assert "event: queued" in stream.iter_lines()
        server.process.terminate()
        eventually(lambda: "stopping" in server.log.read_text())
        server.process.terminate()
        assert server.process.wait(timeout=30) == 128 + signal.SIGTERM


@pytest.mark.parametrize("member", ["web", "worker", "engine-process"])
def test_a_killed_member_comes_back(server: Server, member: str) -> None:
    server.start("--engine", "fake", "--fake-step-seconds", "0")

    def found() -> list[psutil.Process]:
        return [process for process in server.members() if member in process.cmdline()]

    victim = eventually(found)[0]  # the server is ready before the engine process has begun
    victim.kill()
    victim.wait(timeout=10)
    eventually(lambda: [p for p in server.members() if p.pid != victim.pid and member in p.cmdline()])
    eventually(server.is_ready)
    with server.client() as client:
        assert client.videos.create_and_poll(prompt="a dog", seconds="1").status == "completed"


def test_the_web_process_has_no_torch(server: Server) -> None:
    server.start("--engine", "fake")
    for process in server.members():
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "libtorch" not in maps, process.cmdline()


def test_a_second_ctrl_c_hands_the_job_back_at_once(server: Server) -> None:
    server.start("--engine", "fake", "--fake-step-seconds", "0.2")
    with server.client() as client:
        video = client.videos.create(prompt="runs", extra_body={"num_inference_steps": 100})
        eventually(lambda: client.videos.retrieve(video.id).status == "in_progress")
        members = server.members()
    assert server.process is not None
    for _ in range(2):
        server.process.send_signal(signal.SIGINT)
        eventually(lambda: "stopping" in server.log.read_text())
    assert server.process.wait(timeout=20) == 130
    assert not any(member.is_running() for member in members)
    store = Store.open(f"sqlite:///{server.home / 'vitascope.db'}")
    job = store.get(video.id.removeprefix("video_"))
    store.close()
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)


def test_a_second_server_on_one_folder_is_refused(server: Server) -> None:
    server.start("--engine", "fake")
    second = subprocess.run(
        [sys.executable, "-m", "vitascope", "serve", "--port", "0"],
        env={**os.environ, "VITASCOPE_HOME": str(server.home)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert second.stderr.startswith("error: another server is using the data folder")


def test_a_public_address_is_refused_without_saying_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vitascope", "serve", "--host", "0.0.0.0"],
        env={**os.environ, "VITASCOPE_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    print(done.stderr)
    assert "allow_public" in done.stderr.lower()
    assert "`vitascope keys create NAME`" in done.stderr


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [sys.executable, "-m", "vitascope", "serve", "--port", str(taken.getsockname()[1])],
            env={**os.environ, "VITASCOPE_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert "Address already in use" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_what_the_engine_cannot_do_here_is_refused_at_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vitascope", "serve", "--port", "0"],
        env={**os.environ, "VITASCOPE_HOME": str(tmp_path), "VITASCOPE_ENGINE__DEVICE": "cuda:99"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cuda:99" in done.stderr
    assert "process ended" not in done.stderr, "it was started again"
    assert "Traceback" not in done.stderr

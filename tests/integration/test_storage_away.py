"""A bucket behind the worker: what it makes is kept there, waited for while it is away, and never seen by half."""

from __future__ import annotations

import hashlib
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import seaweed
from tests.integration.test_worker import Bench
from vitascope import media
from vitascope.domain.errors import StorageUnavailable
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.video import stored_keys
from vitascope.storage import S3Storage
from vitascope.worker import sweep
from waiting import eventually

NOWHERE = "http://127.0.0.1:9"


def storage_at(endpoint: str, prefix: str) -> S3Storage:
    return S3Storage(
        seaweed.BUCKET,
        prefix,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=seaweed.KEY,
        secret_access_key=seaweed.SECRET,
    )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Its storage is not there, if a test does not give it one."""
    made = Bench(tmp_path, f"sqlite:///{tmp_path / 'jobs.db'}")
    made.files = storage_at(NOWHERE, "a")  # type: ignore[assignment]
    yield made
    made.close()


def stages(bench: Bench, job: Job) -> list[str]:
    return [event.stage for event in bench.store.events(job.id) if event.stage is not None]


def check_video(bench: Bench, job: Job) -> None:
    assert job.status is JobStatus.SUCCEEDED, job.error
    assert job.video is not None
    with bench.files.open(job.video.key) as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == job.video.sha256


def test_inputs_and_videos_are_in_the_bucket(bench: Bench, s3_server: seaweed.Server) -> None:
    bench.files = storage_at(s3_server.endpoint, s3_server.prefix())  # type: ignore[assignment]
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(picture, "PNG")
    bench.files.put_bytes(picture.getvalue(), "inputs/a.png")
    job = bench.submit(image="inputs/a.png", num_inference_steps=2)
    bench.start_worker()
    ended = bench.ended(job)
    check_video(bench, ended)
    assert ended.video is not None
    with bench.files.open(ended.video.key) as file:
        assert media.verify(file).state == "valid"
    lost = bench.ended(bench.submit(image="inputs/no.png"))
    assert lost.error is not None
    assert (lost.error.code, lost.error.message) == ("storage_error", "there is no file `inputs/no.png`")
    bench.stop()
    assert list((bench.folder / "work").iterdir()) == []


def test_a_server_that_stops_while_jobs_finish_is_waited_for(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """For many lengths of a lease, with another worker that would take over."""
    bench.step_seconds = 0.1
    with seaweed.running() as server:
        bench.files = storage_at(server.endpoint, "a")  # type: ignore[assignment]
        job = bench.submit(num_inference_steps=20)
        bench.start_worker(lease_seconds=2)
        bench.start_worker(lease_seconds=2, worker_id="w2", work_folder=bench.folder / "work" / "here-2")
        bench.wait(job, lambda found: found.stage == "denoise")
        server.stop()
        eventually(lambda: caplog.text.count("does not answer: tried again") > 3, 120)
        waiting = bench.store.get(job.id)
        assert (waiting.status, waiting.stage, waiting.progress, waiting.video) == (
            "running",
            "store",
            98,
            None,
        )
        server.start()
        ended = bench.ended(job)
        assert ended.attempt == 1
        check_video(bench, ended)
        assert "lease lost" not in caplog.text
        assert {file.key for file in bench.files.files_in("videos")} == set(stored_keys(ended.videos))


def test_a_storage_that_stays_away_fails_the_job_truthfully_and_the_worker_goes_on(bench: Bench) -> None:
    jobs = [bench.submit(num_inference_steps=1) for _ in range(2)]
    bench.start_worker(patience_seconds=0.7)
    for job in jobs:
        ended = bench.ended(job)
        assert (ended.status, ended.attempt, ended.video) == (JobStatus.FAILED, 1, None)
        assert ended.error is not None
        assert ended.error.code == "storage_error"
        assert ended.error.message == "the storage was away for 0.7 s: the object storage does not answer"
        assert stages(bench, job)[-1] == "store"
    assert len(bench.engines) == 1


def test_a_cancel_meanwhile_takes_effect(bench: Bench) -> None:
    job = bench.submit(num_inference_steps=1)
    bench.start_worker()
    bench.wait(job, lambda found: found.stage == "store")
    bench.store.request_cancel(job.id)
    ended = bench.ended(job)
    assert (ended.status, ended.error) == (JobStatus.CANCELLED, None)


def test_a_cancel_while_an_input_is_waited_for_takes_effect(bench: Bench) -> None:
    job = bench.submit(image="inputs/a.png")
    bench.start_worker()
    bench.wait(job, lambda found: found.stage == "load")
    bench.store.request_cancel(job.id)
    assert bench.ended(job).status is JobStatus.CANCELLED


def test_a_stopping_worker_hands_back_what_it_cannot_store(bench: Bench) -> None:
    job = bench.submit(num_inference_steps=1)
    bench.start_worker(drain_seconds=0.5)
    bench.wait(job, lambda found: found.stage == "store")
    bench.stop()
    left = bench.store.get(job.id)
    assert (left.status, left.attempt) == (JobStatus.QUEUED, 0)


def test_a_transfer_that_nobody_waits_for_leaves_nothing(bench: Bench) -> None:
    """The server takes the connection and answers nothing; it goes on when the job has been cancelled."""
    with seaweed.running() as server:
        bench.files = storage_at(server.endpoint, "a")  # type: ignore[assignment]
        bench.step_seconds = 0.2
        job = bench.submit(num_inference_steps=5)
        bench.start_worker(lease_seconds=2)
        bench.wait(job, lambda found: found.stage == "denoise")
        server.freeze()
        bench.wait(job, lambda found: found.stage == "store")
        bench.store.request_cancel(job.id)
        assert bench.ended(job).status is JobStatus.CANCELLED
        server.thaw()
        following = bench.ended(bench.submit(num_inference_steps=1))
        check_video(bench, following)
        bench.stop()
        kept = set(stored_keys(following.videos))
        eventually(lambda: {file.key for file in bench.files.files_in("videos")} == kept, 60)


def test_a_surprise_at_the_storage_fails_the_job_and_not_the_worker(
    bench: Bench, s3_server: seaweed.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise PermissionError(13, "not allowed", "/secret/path")

    bench.files = storage_at(s3_server.endpoint, s3_server.prefix())  # type: ignore[assignment]
    bench.start_worker()
    with monkeypatch.context() as patch:
        patch.setattr(bench.files, "put", broken)
        failed = bench.ended(bench.submit(num_inference_steps=1))
    assert failed.error is not None
    assert (failed.error.code, failed.attempt) == ("storage_error", 1)
    assert "path" not in failed.error.message
    check_video(bench, bench.ended(bench.submit(num_inference_steps=1)))


class Owner:
    """A database that owns some keys."""

    def __init__(self, *keys: str) -> None:
        self.keys = set(keys)

    def deployment_id(self) -> str:
        return "d1"

    def unowned(self, keys: Any) -> set[str]:
        return set(keys) - self.keys


def test_files_that_no_job_needs_are_swept_from_a_bucket(
    s3_server: seaweed.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = storage_at(s3_server.endpoint, s3_server.prefix())
    for key in ("videos/a.mp4", "videos/b.mp4", "inputs/c.png"):
        files.put_bytes(b"content", key)
    sweep.Sweep(Owner("videos/a.mp4"), files).advance()
    assert len([*files.files_in("videos"), *files.files_in("inputs")]) == 3, "they are too young"
    monkeypatch.setattr(sweep, "LEAST_AGE_SECONDS", -100.0)
    sweep.Sweep(Owner("videos/a.mp4"), files).advance()
    assert [file.key for file in [*files.files_in("videos"), *files.files_in("inputs")]] == ["videos/a.mp4"]


def test_a_marker_that_cannot_be_read_is_not_written_anew(
    s3_server: seaweed.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is perhaps another database's, whose files would then be swept."""
    files = storage_at(s3_server.endpoint, s3_server.prefix())
    files.put_bytes(b"other", sweep.MARKER)
    files.put_bytes(b"content", "videos/a.mp4")
    monkeypatch.setattr(sweep, "LEAST_AGE_SECONDS", -100.0)
    swept = sweep.Sweep(Owner(), files)
    with monkeypatch.context() as away:
        away.setattr(files, "open", lambda _key: (_ for _ in ()).throw(StorageUnavailable()))
        swept.advance()
    with files.open(sweep.MARKER) as file:
        assert file.read() == b"other"
    assert [file.key for file in files.files_in("videos")] == ["videos/a.mp4"]


def test_a_disk_that_fills_while_a_video_is_written(tmp_path: Path) -> None:
    """The job fails with its reason, the half file is gone, and the next video is made."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a disk")
    bench = Bench(tmp_path, f"sqlite:///{tmp_path / 'jobs.db'}")
    try:
        large = bench.submit(width=640, height=640, num_frames=120, fps=24, num_inference_steps=1)
        small = bench.submit(width=64, height=64, num_frames=5, fps=5, num_inference_steps=1)
        bench.start_worker(work_folder=disk / "work" / "here-1")
        failed = bench.ended(large)
        assert (failed.status, failed.video) == (JobStatus.FAILED, None)
        assert failed.error is not None
        assert "disk is full" in failed.error.message
        assert bench.ended(small).status is JobStatus.SUCCEEDED
        bench.stop()
        assert [path for path in disk.rglob("*") if path.is_file()] == []
        kept = {file.key for file in bench.files.files_in("videos")}
        assert kept == set(stored_keys(bench.store.get(small.id).videos))
    finally:
        bench.close()
        subprocess.run(["umount", disk], check=True)

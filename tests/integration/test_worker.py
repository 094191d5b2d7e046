"""The worker and its engine process: real processes, a real store, the fake engine."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest
from PIL import Image

import postgres
from vitascope import media
from vitascope.catalog import Catalog
from vitascope.domain.command import CommandKind, CommandStatus, Errand
from vitascope.domain.errors import StorageError, StoreUnavailable
from vitascope.domain.job import Job, JobError, JobStatus, Lease
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.residency import Residency
from vitascope.domain.video import Video, sheet_frames, stored_keys
from vitascope.storage import LocalStorage
from vitascope.store import Store
from vitascope.worker import ahead, patience
from vitascope.worker.engine_process import EngineProcess
from vitascope.worker.parent import Worker, WorkerConfig
from waiting import eventually


class Bench:
    """A store, a storage and a worker in a thread of this process; its engine is a process of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.store = Store.open(url)
        self.files = LocalStorage(folder / "files")
        self.engines: list[EngineProcess] = []
        self.step_seconds = 0.0
        self.program = ["-m", "vitascope"]
        self.config = WorkerConfig(
            worker_id="w1", work_folder=folder / "work" / "here-1", lease_seconds=3, poll_seconds=0.02
        )
        self._running: list[tuple[Worker, threading.Thread]] = []
        self._count = 0

    def start_engine(self) -> EngineProcess:
        environment = {
            **os.environ,
            "VITASCOPE_HOME": str(self.folder / "home"),
            "VITASCOPE_ENGINE__KIND": "fake",
            "VITASCOPE_ENGINE__FAKE_STEP_SECONDS": str(self.step_seconds),
        }
        self.engines.append(
            EngineProcess(lambda fd: [sys.executable, *self.program, "engine-process", str(fd)], environment)
        )
        return self.engines[-1]

    def start_worker(self, **config: Any) -> Worker:
        config_now = replace(self.config, **config)
        worker = Worker(self.store, self.files, self.start_engine, config_now, Catalog.open())
        thread = threading.Thread(target=worker.run)
        thread.start()
        self._running.append((worker, thread))
        return worker

    def submit(self, **asked: Any) -> Job:
        self._count += 1
        spec = Catalog.open().resolve("pocket")
        request = GenerationRequest(**{"prompt": "a dog", "model": "pocket", "seed": 1, **asked})
        return self.store.create(f"job{self._count}", request, plan(request, spec), max_queued=100)

    def wait(self, job: Job, condition: Callable[[Job], object]) -> Job:
        def look() -> Job | None:
            return found if condition(found := self.store.get(job.id)) else None

        return eventually(look, timeout_seconds=120)  # engines are nice: beside busy processes they take long

    def ended(self, job: Job) -> Job:
        return self.wait(job, lambda found: found.status.is_terminal)

    def stop(self) -> None:
        for worker, thread in self._running:
            worker.stop()
            thread.join(timeout=60)
            assert not thread.is_alive()
        self._running.clear()

    def close(self) -> None:
        self.stop()
        self.store.close()
        assert not any(psutil.pid_exists(engine.pid) for engine in self.engines), (
            "no engine outlives its worker"
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, f"sqlite:///{tmp_path / 'jobs.db'}")
    yield made
    made.close()


@pytest.fixture
def postgres_bench(tmp_path: Path) -> Iterator[tuple[Bench, postgres.Server]]:
    """A bench whose database can be taken away."""
    with postgres.running() as server:
        made = Bench(tmp_path, server.create_database())
        yield made, server
        made.close()


def test_no_job_is_begun_where_there_is_no_room(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    job = bench.submit(width=64, height=64, num_frames=5)
    bench.start_worker(min_free_bytes=2**62)
    eventually(lambda: "too little disk space" in caplog.text)
    eventually(lambda: bench.store.live_workers(30))
    bench.stop()
    assert bench.store.get(job.id).attempt == 0
    bench.start_worker()
    assert bench.ended(job).status is JobStatus.SUCCEEDED


def test_a_job_becomes_a_stored_file(bench: Bench) -> None:
    job = bench.submit(width=64, height=64, num_frames=10, fps=10)
    bench.start_worker()
    ended = bench.ended(job)
    assert (ended.status, ended.progress) == (JobStatus.SUCCEEDED, 100)
    assert ended.video is not None
    path = bench.files.path_for(ended.video.key)
    info = media.probe(path)
    assert (info.width, info.height, info.num_frames, info.fps) == (64, 64, 10, 10)
    assert ended.video.num_bytes == path.stat().st_size
    assert ended.details is not None
    assert ended.details["seconds"]["denoise"] >= 0
    assert "engine" in {choice["name"] for choice in ended.details["choices"]}
    bench.stop()
    assert list((bench.folder / "work").iterdir()) == [], "nothing is left in the work folder"


def test_what_jobs_take_is_learnt(bench: Bench) -> None:
    bench.step_seconds = 0.02
    bench.start_worker()
    done = bench.ended(bench.submit(num_inference_steps=20))
    bench.stop()
    bench.store.worker_seen("w2", "fake 0.02 s a step")
    bench.submit(num_inference_steps=50)
    (waiting,) = bench.store.situation(within_seconds=60).waiting
    assert waiting.seconds is not None
    assert done.details is not None
    step_seconds = done.details["seconds"]["denoise"] / 20
    assert step_seconds >= 0.02
    assert waiting.seconds >= 50 * step_seconds * 0.99


def test_progress_rises_between_0_and_100(bench: Bench) -> None:
    bench.step_seconds = 0.3
    job = bench.submit()
    bench.start_worker()
    seen: list[int] = []

    def look() -> bool:
        found = bench.store.get(job.id)
        if not seen or seen[-1] != found.progress:
            seen.append(found.progress)
        return found.status.is_terminal

    eventually(look)
    assert seen == sorted(seen)
    assert seen[-1] == 100
    assert len([percent for percent in seen if 0 < percent < 100]) >= 3


def test_previews_are_events_now_and_then(bench: Bench) -> None:
    bench.step_seconds = 0.05
    job = bench.submit(preview_every=1, num_inference_steps=30)
    bench.start_worker()
    seen: dict[int, str | None] = {}

    def look() -> bool:
        seen.update((e.sequence, e.preview) for e in bench.store.events(job.id) if e.kind == "preview")
        return bench.store.get(job.id).status.is_terminal

    eventually(look, timeout_seconds=120)
    shown = [base64.b64decode(preview) for preview in seen.values() if preview is not None]
    assert len(shown) >= 2
    assert len(shown) < 30, "not at every step of a fast model"
    pictures = [Image.open(io.BytesIO(each)) for each in shown]
    assert all(picture.format == "WEBP" and max(picture.size) == 128 for picture in pictures)


def test_a_killed_engine_is_noticed_and_the_job_runs_again_as_it_ran(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[dict[str, Any]] = []
    send = EngineProcess.send
    monkeypatch.setattr(EngineProcess, "send", lambda its, order: (orders.append(order), send(its, order)))
    bench.step_seconds = 0.2
    job = bench.submit()
    bench.start_worker()
    bench.wait(job, lambda found: found.stage == "denoise")
    os.kill(bench.engines[0].pid, signal.SIGKILL)
    bench.wait(job, lambda found: found.attempt == 2)
    assert bench.ended(job).status is JobStatus.SUCCEEDED
    assert len(bench.engines) == 2
    settled = [tuple(order["plan"]["settled"]) for order in orders if order["do"] == "make"]
    assert settled == [(), (("pattern", "stripes"),)], "what the first engine chose for it"


def test_a_job_that_kills_every_engine_fails_and_the_next_one_runs(bench: Bench) -> None:
    bench.step_seconds = 0.2
    job = bench.submit()
    bench.start_worker(max_attempts=2)
    for attempt in (1, 2):
        bench.wait(job, lambda found, n=attempt: found.attempt == n and found.stage == "denoise")
        os.kill(bench.engines[-1].pid, signal.SIGKILL)
    ended = bench.ended(job)
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert ended.error.code == "worker_lost"
    assert bench.ended(bench.submit(num_inference_steps=1)).status is JobStatus.SUCCEEDED


def test_cancel_stops_a_running_job_and_the_next_one_starts(bench: Bench) -> None:
    bench.step_seconds = 0.2
    job = bench.submit(num_inference_steps=100)
    following = bench.submit(num_inference_steps=1)
    bench.start_worker()
    bench.wait(job, lambda found: found.stage == "denoise")
    bench.store.request_cancel(job.id)
    assert bench.ended(job).status is JobStatus.CANCELLED
    assert bench.ended(following).status is JobStatus.SUCCEEDED
    assert len(bench.engines) == 1, "the engine was not killed for it"
    assert [path.name for path in (bench.folder / "files").rglob("*.mp4")] == [f"{following.id}.1.0.mp4"]


def test_a_silent_engine_is_killed_and_its_job_tried_again(bench: Bench) -> None:
    bench.step_seconds = 0.05
    job = bench.submit()
    bench.start_worker(hang_seconds=6.0)  # a new engine must have said something by then
    bench.wait(job, lambda found: found.stage == "denoise")
    os.kill(bench.engines[0].pid, signal.SIGSTOP)
    assert bench.ended(job).status is JobStatus.SUCCEEDED
    assert bench.store.get(job.id).attempt == 2


def test_an_engine_that_hangs_while_denoising_is_killed_with_its_group_and_the_job_made_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LEAST_SECONDS", 3.0)  # ten of the engine's steps are half a second
    start_another = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)']);"
    )
    bench.program = ["-c", start_another + "from vitascope.cli import main; main()"]
    bench.step_seconds = 0.05
    job = bench.submit(num_inference_steps=100)
    bench.start_worker()
    bench.wait(job, lambda found: found.progress >= 10)
    engine = psutil.Process(bench.engines[0].pid)
    (other,) = engine.children()
    engine.suspend()
    bench.wait(job, lambda found: found.attempt == 2)
    assert not engine.is_running()
    eventually(lambda: not other.is_running() or other.status() == psutil.STATUS_ZOMBIE)
    assert bench.ended(job).status is JobStatus.SUCCEEDED


def frames_of(bench: Bench, job: Job) -> list[Any]:
    """Each video's frames, decoded."""
    return [media.read_frames(bench.files.path_for(video.key)) for video in job.videos]


def stored(bench: Bench) -> set[str]:
    return {file.key for file in bench.files.files_in("videos")}


class TestSeveralVideos:
    SMALL: ClassVar[dict[str, Any]] = {"width": 64, "height": 64, "num_frames": 7, "fps": 8, "seed": 7}

    @pytest.mark.parametrize("format", ["mp4", "gif"])
    def test_each_is_what_a_job_of_its_own_makes(self, bench: Bench, format: str) -> None:
        several = bench.submit(num_videos=3, format=format, num_inference_steps=20, **self.SMALL)
        alone = [bench.submit(**{**self.SMALL, "seed": seed, "format": format}) for seed in (7, 8, 9)]
        bench.start_worker()
        made = bench.ended(several)
        assert (made.status, made.progress, [video.index for video in made.videos]) == (
            "succeeded",
            100,
            [0, 1, 2],
        )
        for frames, job in zip(frames_of(bench, made), alone, strict=True):
            (expected,) = frames_of(bench, bench.ended(job))
            assert (frames == expected).all()
        first, second, _ = frames_of(bench, made)
        assert (first != second).any()
        assert stored(bench) == {
            key for job in (made, *map(bench.ended, alone)) for key in stored_keys(job.videos)
        }
        percents = [event.percent for event in bench.store.events(made.id) if event.kind == "progress"]
        assert percents == sorted(percents)  # type: ignore[type-var]
        stages = [event.stage for event in bench.store.events(made.id) if event.kind == "progress"]
        assert stages.count("denoise") >= 3

    @pytest.mark.parametrize("format", ["mp4", "gif"])
    def test_each_has_its_pictures(self, bench: Bench, format: str) -> None:
        asked = {"width": 800, "height": 450, "num_frames": 31, "format": format, "num_videos": 2, "seed": 7}
        job = bench.submit(fps=8, num_inference_steps=1, **asked)
        bench.start_worker()
        for video in bench.ended(job).videos:
            frames = media.read_frames(bench.files.path_for(video.key))
            assert video.thumbnail is not None
            assert video.spritesheet is not None
            thumbnail, sheet = (Image.open(bench.files.path_for(one.key)) for one in video.files[1:])  # type: ignore[arg-type]
            assert (thumbnail.format, thumbnail.size) == ("WEBP", (640, 360))
            assert (video.thumbnail.width, video.thumbnail.height) == thumbnail.size
            assert (sheet.format, sheet.size) == ("JPEG", (5 * 160, 5 * 90))
            assert (video.spritesheet.width, video.spritesheet.height) == sheet.size
            for picture in (video.thumbnail, video.spritesheet):
                content = bench.files.path_for(picture.key).read_bytes()
                assert (picture.num_bytes, picture.sha256) == (
                    len(content),
                    hashlib.sha256(content).hexdigest(),
                )
            assert near(thumbnail, frames[15])
            for tile, frame in enumerate(sheet_frames(31)):
                left, top = tile % 5 * 160, tile // 5 * 90
                assert near(sheet.crop((left, top, left + 160, top + 90)), frames[frame]), tile

    def test_one_that_fails_does_not_lose_the_others(self, bench: Bench) -> None:
        bench.program = ["-c", failing(8)]
        job = bench.submit(num_videos=3, **self.SMALL)
        bench.start_worker()
        ended = bench.ended(job)
        assert (ended.status, ended.progress, ended.attempt) == ("succeeded", 100, 1)
        assert [video.index for video in ended.videos] == [0, 2]
        assert ended.failed_videos == {1: JobError("out_of_memory", "seed 8 is too large")}
        assert stored(bench) == set(stored_keys(ended.videos))
        (expected,) = frames_of(bench, bench.ended(bench.submit(**{**self.SMALL, "seed": 9})))
        assert (frames_of(bench, ended)[1] == expected).all()

    def test_a_surprise_in_one_does_not_lose_the_others(self, bench: Bench) -> None:
        bench.program = ["-c", failing(7, "RuntimeError")]
        job = bench.submit(num_videos=2, **self.SMALL)
        bench.start_worker()
        ended = bench.ended(job)
        assert [video.index for video in ended.videos] == [1]
        assert ended.failed_videos[0].code == "internal_error"
        assert "seed" not in ended.failed_videos[0].message

    def test_if_all_fail_the_job_fails_as_the_first(self, bench: Bench) -> None:
        bench.program = ["-c", failing(7, 8)]
        job = bench.submit(num_videos=2, **self.SMALL)
        bench.start_worker()
        ended = bench.ended(job)
        assert (ended.status, ended.error) == ("failed", JobError("out_of_memory", "seed 7 is too large"))
        assert stored(bench) == set()

    def test_cancel_in_the_second_keeps_none(self, bench: Bench) -> None:
        bench.step_seconds = 0.1
        job = bench.submit(num_videos=3, num_inference_steps=20, **self.SMALL)
        bench.start_worker()
        bench.wait(job, lambda found: found.progress >= 40)
        bench.store.request_cancel(job.id)
        ended = bench.ended(job)
        assert (ended.status, ended.videos) == ("cancelled", ())
        assert ended.progress < 66
        assert stored(bench) == set()
        eventually(lambda: list(bench.config.work_folder.iterdir()) == [])

    def test_an_engine_that_is_killed_in_the_second_costs_the_attempt_only(self, bench: Bench) -> None:
        bench.step_seconds = 0.1
        job = bench.submit(num_videos=2, num_inference_steps=20, **self.SMALL)
        bench.start_worker()
        bench.wait(job, lambda found: found.progress >= 55)
        bench.step_seconds = 0.0
        os.kill(bench.engines[0].pid, signal.SIGKILL)
        ended = bench.ended(job)
        assert (ended.status, ended.attempt) == ("succeeded", 2)
        assert stored(bench) == set(stored_keys(ended.videos))
        for frames, seed in zip(frames_of(bench, ended), (7, 8), strict=True):
            (expected,) = frames_of(bench, bench.ended(bench.submit(**{**self.SMALL, "seed": seed})))
            assert (frames == expected).all()

    def test_files_that_were_stored_before_one_could_not_be_do_not_stay(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put = bench.files.put

        def refuse_the_last(path: Path, key: str) -> None:
            if key.endswith(".1.spritesheet.jpg"):
                raise StorageError("no more room")
            put(path, key)

        monkeypatch.setattr(bench.files, "put", refuse_the_last)
        job = bench.submit(num_videos=2, **self.SMALL)
        bench.start_worker()
        ended = bench.ended(job)
        assert (ended.status, ended.error) == ("failed", JobError("storage_error", "no more room"))
        assert ended.videos == ()
        eventually(lambda: stored(bench) == set())

    def test_their_time_is_learnt_as_that_of_so_many(self, bench: Bench) -> None:
        bench.step_seconds = 0.05
        job = bench.submit(num_videos=3, num_inference_steps=10, **self.SMALL)
        bench.start_worker()
        bench.ended(job)
        one, five = (replace(job.plan, num_videos=count) for count in (1, 5))
        single, several = (bench.store.expected_seconds(planned, 30) for planned in (one, five))
        assert single is not None
        assert several == pytest.approx(5 * single)
        assert 0.5 <= single < 5


def failing(*seeds: int | str) -> str:
    """An engine process that cannot make the videos of these seeds; a name among them is the exception's."""
    names = [seed for seed in seeds if isinstance(seed, str)]
    numbers = [seed for seed in seeds if isinstance(seed, int)]
    return f"""
from vitascope.cli import main
from vitascope.domain.errors import OutOfMemory
from vitascope.engine import fake
pattern = fake._pattern
def fail(plan):
    if plan.seed in {numbers}:
        raise {names[0] if names else "OutOfMemory"}(f"seed {{plan.seed}} is too large")
    return pattern(plan)
fake._pattern = fail
main()
"""


def near(picture: Image.Image, frame: Any) -> bool:
    """Whether a picture shows a frame, made smaller and stored with little loss."""
    small = Image.fromarray(frame).resize(picture.size, Image.Resampling.LANCZOS)
    difference = np.abs(np.asarray(picture.convert("RGB"), int) - np.asarray(small, int))
    return bool(difference.mean() < 8)


class TestStoreAway:
    """A database that is away for a while costs nothing."""

    def test_an_engine_goes_on_meanwhile(
        self, postgres_bench: tuple[Bench, postgres.Server], caplog: pytest.LogCaptureFixture
    ) -> None:
        bench, server = postgres_bench
        bench.step_seconds = 0.5  # long enough for a slow machine; it is cancelled in the end
        job = bench.submit(num_inference_steps=100)
        bench.start_worker(lease_seconds=60)
        percent = 3
        for times in (1, 2):
            percent = bench.wait(job, lambda found, least=percent: found.progress > least).progress
            server.stop("immediate")
            eventually(lambda n=times: caplog.text.count("the work goes on") == n)
            server.start()
        bench.wait(job, lambda found: found.progress > percent)
        bench.store.request_cancel(job.id)
        ended = bench.ended(job)
        assert (ended.status, ended.attempt) == (JobStatus.CANCELLED, 1)
        assert len(bench.engines) == 1

    def test_a_finished_video_waits_for_it(
        self, postgres_bench: tuple[Bench, postgres.Server], caplog: pytest.LogCaptureFixture
    ) -> None:
        bench, server = postgres_bench
        bench.step_seconds = 0.1
        job = bench.submit()
        bench.start_worker(lease_seconds=60)
        bench.wait(job, lambda found: found.stage == "denoise")
        server.stop("immediate")
        eventually(lambda: "asked again" in caplog.text)
        assert [path.name for path in (bench.folder / "files").rglob("*.mp4")] == [f"{job.id}.1.0.mp4"]
        server.start()
        ended = bench.ended(job)
        assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)
        assert ended.video is not None
        assert bench.files.path_for(ended.video.key).stat().st_size == ended.video.num_bytes

    def test_for_longer_than_the_lease_the_job_is_given_up_uncounted(
        self, postgres_bench: tuple[Bench, postgres.Server]
    ) -> None:
        bench, server = postgres_bench
        bench.step_seconds = 0.3
        job = bench.submit(num_inference_steps=100)
        bench.start_worker(lease_seconds=2)
        bench.wait(job, lambda found: found.stage == "denoise")
        server.stop("immediate")
        eventually(lambda: not psutil.pid_exists(bench.engines[0].pid))
        server.start()
        again = bench.wait(job, lambda found: found.stage == "denoise" and len(bench.engines) == 2)
        assert again.attempt == 1
        bench.store.request_cancel(job.id)
        bench.ended(job)

    @pytest.mark.parametrize("is_deleted", [False, True])
    def test_a_success_whose_answer_was_lost_keeps_its_video(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, is_deleted: bool
    ) -> None:
        succeed = bench.store.succeed
        tries = []

        def lose_the_first_answer(
            lease: Lease, videos: Sequence[Video], details: dict[str, Any], **more: Any
        ) -> list[str]:
            if lease.job.id != "job1":
                return succeed(lease, videos, details, **more)
            tries.append(lease.token)
            if is_deleted and len(tries) == 1:
                bench.store.delete(lease.job.id)
            unneeded = succeed(lease, videos, details, **more)
            if len(tries) == 1:
                raise StoreUnavailable
            return unneeded

        monkeypatch.setattr(bench.store, "succeed", lose_the_first_answer)
        job = bench.submit(num_inference_steps=1)
        following = bench.submit(num_inference_steps=1)
        bench.start_worker()
        assert bench.ended(following).status is JobStatus.SUCCEEDED
        bench.stop()  # it waits until both are settled
        assert tries == [1, 1]
        kept = {path.name for path in (bench.folder / "files").rglob("*.mp4")}
        if is_deleted:
            assert kept == {f"{following.id}.1.0.mp4"}
        else:
            ended = bench.ended(job)
            assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)
            assert kept == {f"{job.id}.1.0.mp4", f"{following.id}.1.0.mp4"}
        assert len(bench.engines) == 1


def test_a_long_writing_is_no_hang_and_can_be_cancelled(bench: Bench) -> None:
    asked = {"width": 1280, "height": 1280, "num_frames": 240, "fps": 24, "num_inference_steps": 1}
    job = bench.submit(**asked)
    following = bench.submit(num_inference_steps=1)
    bench.start_worker(hang_seconds=6.0)
    bench.wait(job, lambda found: found.stage == "write_video" and found.progress > 96)
    bench.store.request_cancel(job.id)
    assert bench.ended(job).status is JobStatus.CANCELLED
    assert bench.ended(following).status is JobStatus.SUCCEEDED
    assert len(bench.engines) == 1, "neither the writing nor the cancelling took the engine down"


def test_a_stopping_worker_hands_its_job_back_uncounted(bench: Bench) -> None:
    bench.step_seconds = 0.2
    job = bench.submit(num_inference_steps=100)
    bench.start_worker(drain_seconds=0.1)
    bench.wait(job, lambda found: found.stage == "denoise")
    bench.stop()
    handed_back = bench.store.get(job.id)
    assert (handed_back.status, handed_back.attempt) == (JobStatus.QUEUED, 0)
    assert bench.store.live_workers(60) == 0


def test_a_stopping_worker_finishes_a_short_job(bench: Bench) -> None:
    bench.step_seconds = 0.1
    job = bench.submit()
    waiting = bench.submit()
    bench.start_worker(drain_seconds=30)
    bench.wait(job, lambda found: found.status is JobStatus.RUNNING)
    bench.stop()
    assert bench.store.get(job.id).status is JobStatus.SUCCEEDED
    assert bench.store.get(waiting.id).status is JobStatus.QUEUED, "nothing more is claimed"


def test_an_unreadable_first_frame_fails_that_job_only(bench: Bench) -> None:
    broken = bench.folder / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    bench.files.put(broken, "inputs/broken.png")
    job = bench.submit(image="inputs/broken.png")
    bench.start_worker()
    ended = bench.ended(job)
    assert ended.error is not None
    assert ended.error.code == "unreadable_image"
    assert str(bench.folder) not in ended.error.message
    assert bench.ended(bench.submit(num_inference_steps=1)).status is JobStatus.SUCCEEDED


def test_a_lost_first_frame_fails_that_job_only(bench: Bench) -> None:
    job = bench.submit(image="inputs/lost.png")
    bench.start_worker()
    ended = bench.ended(job)
    assert ended.error is not None
    assert ended.error.code == "storage_error"
    assert bench.ended(bench.submit(num_inference_steps=1)).status is JobStatus.SUCCEEDED


def test_a_worker_removes_files_that_no_job_needs(bench: Bench) -> None:
    finished, deleted = bench.submit(num_inference_steps=1), bench.submit(num_inference_steps=1)
    bench.start_worker()
    bench.ended(finished)
    bench.ended(deleted)
    bench.stop()
    bench.store.delete(deleted.id)  # as if the web process had been killed before it removed the file
    bench.files.put_bytes(b"picture", "inputs/never-stored.png")
    for path in (bench.folder / "files").rglob("*.*"):
        os.utime(path, (0, 0))
    bench.files.put_bytes(b"picture", "inputs/to-be-stored.png")
    bench.start_worker()
    kept = {*stored_keys(bench.store.get(finished.id).videos), "inputs/to-be-stored.png"}
    assert len(kept) == 4
    folders = ("inputs", "videos")
    eventually(lambda: {file.key for folder in folders for file in bench.files.files_in(folder)} == kept)


def test_what_a_killed_worker_left_is_swept(bench: Bench) -> None:
    gone, alive = (bench.folder / "work" / name for name in ("here-7-abc", "here-8-abc"))
    for folder in (gone, alive):
        folder.mkdir(parents=True)
        (folder / "half.mp4").write_bytes(b"x")
        folder.with_name(f"{folder.name}.lock").touch()
    with alive.with_name(f"{alive.name}.lock").open("rb+") as lock:
        fcntl.flock(
            lock, fcntl.LOCK_EX
        )  # as a worker holds it, on this machine or in a container that has the same name
        bench.start_worker()
        eventually(lambda: bench.store.live_workers(60))
        assert not gone.exists()
        assert not gone.with_name(f"{gone.name}.lock").exists()
        assert alive.exists()


def obeyed(bench: Bench, kind: CommandKind, model: str = "") -> Errand:
    """Tell the worker something and wait until it has done it."""
    eventually(lambda: bench.store.worker_states(30))
    command_id = f"{kind}-{len(bench.store.commands())}"
    bench.store.add_command(command_id, kind, ["w1"], model)
    command = eventually(
        lambda: (
            bench.store.command(command_id)
            if bench.store.command(command_id).status in (CommandStatus.DONE, CommandStatus.FAILED)
            else None
        ),
        timeout_seconds=120,
    )
    assert command is not None
    return command.errands[0]


def test_a_worker_loads_and_unloads_what_it_is_told_to(bench: Bench) -> None:
    bench.start_worker()
    assert obeyed(bench, CommandKind.LOAD, "pocket").message == "loaded"
    (state,) = bench.store.worker_states(30)
    assert state.loaded == ("pocket",), "who waited for it finds it so"
    assert obeyed(bench, CommandKind.CLEAR_CACHES).status is CommandStatus.DONE
    assert obeyed(bench, CommandKind.REMOVE, "pocket").message.startswith("A worker has the model loaded")
    assert obeyed(bench, CommandKind.UNLOAD, "pocket").message == "unloaded"
    assert obeyed(bench, CommandKind.UNLOAD, "pocket").message == "it was not loaded"
    assert bench.store.worker_states(30)[0].loaded == ()
    failed = obeyed(bench, CommandKind.LOAD, "no-such-model")
    assert failed.status is CommandStatus.FAILED
    assert failed.message.startswith("there is no model `no-such-model`")
    assert obeyed(bench, CommandKind.PULL, "pocket").status is CommandStatus.FAILED
    assert bench.ended(bench.submit()).status is JobStatus.SUCCEEDED


def submit_another_model(bench: Bench, **asked: Any) -> Job:
    spec = Catalog.open().resolve("ltx-video")
    request = GenerationRequest(prompt="a dog", model=spec.id, seed=1, num_inference_steps=2, **asked)
    return bench.store.create("another", request, plan(request, spec), max_queued=100)


def test_the_next_jobs_model_is_loaded_while_a_job_is_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "LOOK_SECONDS", 0.0)
    bench.step_seconds = 0.1
    first = bench.submit(width=64, height=64, num_frames=5)
    other = submit_another_model(bench, width=256, height=256, num_frames=9)
    bench.start_worker()
    assert bench.ended(first).status is JobStatus.SUCCEEDED
    assert bench.ended(other).status is JobStatus.SUCCEEDED

    def state() -> Residency:
        return bench.store.worker_states(30)[0].residency

    eventually(lambda: state().hits == 1 and list(state().models) == ["pocket", "ltx-video"])
    assert (state().loads, state().loads_ahead) == (2, 1)


def test_a_model_is_loaded_for_an_operator_while_a_job_is_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "LOOK_SECONDS", 0.0)
    bench.step_seconds = 0.2
    job = bench.submit(width=64, height=64, num_frames=5, num_inference_steps=100)
    bench.start_worker()
    bench.wait(job, lambda found: found.stage == "denoise")
    assert obeyed(bench, CommandKind.LOAD, "ltx-video").message == "loaded"
    assert bench.store.get(job.id).status is JobStatus.RUNNING, "it was not waited for"
    failing_errand = "no-such-model"
    bench.store.add_command("late", CommandKind.LOAD, ["w1"], failing_errand)
    eventually(lambda: bench.store.command("late").status is CommandStatus.RUNNING)
    bench.store.request_cancel(job.id)
    assert bench.ended(job).status is JobStatus.CANCELLED
    late = eventually(
        lambda: found if (found := bench.store.command("late")).status is CommandStatus.FAILED else None
    )
    assert late is not None
    assert late.errands[0].message.startswith("there is no model `no-such-model`")
    assert bench.store.worker_states(30)[0].loaded == ("ltx-video", "pocket")


PREPARING = """
from pathlib import Path
from vitascope.cli import main
from vitascope.engine import fake
calls = Path({calls!r})
def prepare(self, spec):
    calls.write_text((calls.read_text() if calls.exists() else "") + spec.id + " ")
    {then}
fake.FakeEngine.prepare = prepare
main()
"""
"""An engine process that loads nothing ahead."""


def test_a_model_that_cannot_be_loaded_ahead_does_not_cost_the_job_that_is_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with it: who needs it hears that."""
    monkeypatch.setattr(ahead, "LOOK_SECONDS", 0.0)
    calls, then = bench.folder / "calls", "raise TypeError('an odd configuration')"
    bench.program = ["-c", PREPARING.format(calls=str(calls), then=then)]
    bench.step_seconds = 0.1
    first = bench.submit(width=64, height=64, num_frames=5)
    other = submit_another_model(bench, width=256, height=256, num_frames=9)
    bench.start_worker()
    for job in (first, other):
        ended = bench.ended(job)
        assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)
    assert "ltx-video" in calls.read_text()


def test_a_model_that_does_not_come_ahead_is_begun_once_for_an_operator(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at every step: it would be read, and fail or find no room, again and again beside the job."""
    monkeypatch.setattr(ahead, "LOOK_SECONDS", 0.0)
    calls = bench.folder / "calls"
    bench.program = ["-c", PREPARING.format(calls=str(calls), then="return True")]
    bench.step_seconds = 0.2
    job = bench.submit(width=64, height=64, num_frames=5, num_inference_steps=100)
    bench.start_worker()
    bench.wait(job, lambda found: found.stage == "denoise")
    bench.store.add_command("wish", CommandKind.LOAD, ["w1"], "ltx-video")
    eventually(calls.exists)
    now = bench.store.get(job.id).progress
    bench.wait(job, lambda found: found.progress > now + 3)
    bench.store.request_cancel(job.id)
    assert bench.ended(job).status is JobStatus.CANCELLED
    eventually(lambda: bench.store.command("wish").status is CommandStatus.DONE)
    assert calls.read_text() == "ltx-video "


def test_an_operators_wish_ends_with_the_engine_that_had_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "LOOK_SECONDS", 0.0)
    bench.step_seconds = 0.2
    job = bench.submit(width=64, height=64, num_frames=5, num_inference_steps=100)
    bench.start_worker()
    bench.wait(job, lambda found: found.stage == "denoise")
    bench.store.add_command("wish", CommandKind.LOAD, ["w1"], "no-such-model")  # waits for the job's end
    eventually(lambda: bench.store.command("wish").status is CommandStatus.RUNNING)
    os.kill(bench.engines[-1].pid, signal.SIGKILL)
    wish = eventually(
        lambda: found if (found := bench.store.command("wish")).status is CommandStatus.FAILED else None
    )
    assert wish is not None
    assert "engine process" in wish.errands[0].message
    bench.store.request_cancel(job.id)
    assert bench.ended(job).status is JobStatus.CANCELLED


def test_a_restart_gives_another_engine_process_and_keeps_the_worker(bench: Bench) -> None:
    bench.start_worker()
    obeyed(bench, CommandKind.LOAD, "pocket")
    before = bench.engines[-1].pid
    assert obeyed(bench, CommandKind.RESTART).status is CommandStatus.DONE
    assert bench.engines[-1].pid != before
    eventually(lambda: bench.store.worker_states(30)[0].loaded == ())
    assert bench.ended(bench.submit()).status is JobStatus.SUCCEEDED


def test_a_card_that_was_broken_meanwhile_costs_its_model_only(bench: Bench) -> None:
    bench.start_worker()
    assert bench.ended(bench.submit()).status is JobStatus.SUCCEEDED
    cards = bench.folder / "home" / "cards"
    cards.mkdir(parents=True)
    (cards / "new.toml").write_text('id = "new"\ntypo = 1\n')
    obeyed(bench, CommandKind.RESTART)
    job = bench.ended(bench.submit())
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)


def test_an_engine_that_dies_of_a_command_costs_the_command_only(bench: Bench) -> None:
    bench.start_worker(hang_seconds=60)
    obeyed(bench, CommandKind.LOAD, "pocket")
    os.kill(bench.engines[-1].pid, signal.SIGSTOP)
    bench.store.add_command("c", CommandKind.LOAD, ["w1"], "pocket")
    eventually(lambda: bench.store.command("c").status is CommandStatus.RUNNING)
    os.kill(bench.engines[-1].pid, signal.SIGKILL)
    eventually(lambda: bench.store.command("c").status is CommandStatus.FAILED)
    assert "engine process died" in bench.store.command("c").errands[0].message
    assert bench.ended(bench.submit()).status is JobStatus.SUCCEEDED


def test_what_a_stopping_worker_has_not_done_fails(bench: Bench) -> None:
    worker = bench.start_worker()
    obeyed(bench, CommandKind.LOAD, "pocket")
    os.kill(bench.engines[-1].pid, signal.SIGSTOP)
    bench.store.add_command("c", CommandKind.UNLOAD, ["w1"], "pocket")
    eventually(lambda: bench.store.command("c").status is CommandStatus.RUNNING)
    worker.stop(at_once=True)
    eventually(lambda: bench.store.command("c").status is CommandStatus.FAILED)

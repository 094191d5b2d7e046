"""Several jobs at a time in one worker: real processes, a real store, the fake engine."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from vitascope.domain.command import CommandKind, CommandStatus
from vitascope.domain.job import Job, JobStatus
from vitascope.storage import LocalStorage
from vitascope.store import Store
from vitascope.worker.engine_process import EngineProcess
from vitascope.worker.messages import Message
from waiting import eventually
from working import Bench, working

LONG = {"num_inference_steps": 100, "num_videos": 4}
SLOW = {"VITASCOPE_ENGINE__FAKE_STEP_SECONDS": "0.05"}


def is_denoising(job: Job) -> bool:
    return job.stage == "denoise" and job.progress > 3


def with_known_speed(bench: Bench) -> None:
    """Let the worker find out what a step takes: before, nobody knows which job is the shorter one."""
    bench.ended(bench.submit("known", num_inference_steps=2))


def long_and_short(bench: Bench, *, short_steps: int = 40) -> tuple[Job, Job]:
    """Begin a long job, and a short one beside it, which has the device then."""
    with_known_speed(bench)
    long = bench.submit("long", **LONG)
    bench.wait(long, is_denoising)
    short = bench.submit("short", num_inference_steps=short_steps)
    bench.wait(short, lambda found: found.progress > 3)  # or is done: its steps may be over between two looks
    assert bench.store.get("long").status is JobStatus.RUNNING
    return long, short


def test_a_short_job_passes_a_long_one_which_goes_on_where_it_was(tmp_path: Path) -> None:
    with working(tmp_path, **SLOW) as bench:
        long, short = long_and_short(bench, short_steps=10)
        done = bench.ended(short)
        assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 1)
        stood_at = bench.store.get("long").progress
        assert bench.store.get("long").status is JobStatus.RUNNING
        bench.wait(long, lambda found: found.progress > stood_at)
        # what it stood still is told apart, and is no part of what its steps took
        assert done.details is not None
        assert done.details["seconds"]["denoise"] < 10 * 0.05 * 3
        bench.store.request_cancel("long")
        assert (bench.ended(long).status, len(bench.engines)) == (JobStatus.CANCELLED, 1)


def test_cancel_of_one_leaves_the_other(tmp_path: Path) -> None:
    with working(tmp_path, **SLOW) as bench:
        long, short = long_and_short(bench, short_steps=80)
        bench.store.request_cancel("long")  # which stands still
        assert bench.ended(long).status is JobStatus.CANCELLED
        assert bench.store.get("short").status is JobStatus.RUNNING
        bench.store.request_cancel("short")
        assert bench.ended(short).status is JobStatus.CANCELLED
        assert bench.ended(bench.submit("next", num_inference_steps=1)).status is JobStatus.SUCCEEDED
        assert len(bench.engines) == 1
        assert [path.name for path in (tmp_path / "files").rglob("*.mp4")] == [
            "known.1.0.mp4",
            "next.1.0.mp4",
        ]


def test_of_an_engine_that_dies_only_the_job_at_work_is_blamed(tmp_path: Path) -> None:
    with working(tmp_path, **SLOW) as bench:
        long, short = long_and_short(bench, short_steps=80)
        os.kill(bench.engines[0].pid, signal.SIGKILL)
        # each is made alone from now on: nobody knows whose fault it was
        at_work = eventually(
            lambda: next((job for job in (long, short) if is_at_work_again(bench, job)), None), 60
        )
        other = short if at_work is long else long
        assert bench.store.get(other.id).status is JobStatus.QUEUED
        third = bench.submit("third", num_inference_steps=1)
        now = bench.store.get(at_work.id).progress
        bench.wait(at_work, lambda found: found.progress > now + 5)
        assert bench.store.get("third").status is JobStatus.QUEUED
        bench.store.request_cancel("long")
        assert bench.ended(long).attempt <= 1
        assert (bench.ended(short).status, bench.ended(short).attempt) == (JobStatus.SUCCEEDED, 2)
        assert bench.ended(third).status is JobStatus.SUCCEEDED
        assert len(bench.engines) == 2


LOSES_ITS_DEVICE = """
import os, sys
from pathlib import Path
from vitascope.catalog import Catalog
from vitascope.engine import DeviceLost
from vitascope.engine.fake import FakeEngine
from vitascope.worker import child
class Engine(FakeEngine):
    def generate(self, *given):
        if not Path(sys.argv[1]).exists():
            Path(sys.argv[1]).touch()
            raise DeviceLost("CUDA error: an illegal memory access was encountered")
        yield from super().generate(*given)
child.run(int(sys.argv[2]), Engine, Catalog.open().resolve, nice=0)
"""


def test_an_engine_whose_device_is_lost_ends_and_its_job_is_made_by_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else that one would fail, and all that come after it."""
    command = [sys.executable, "-c", LOSES_ITS_DEVICE, str(tmp_path / "was lost")]

    def start_engine(bench: Bench) -> EngineProcess:
        bench.engines.append(EngineProcess(lambda fd: [*command, str(fd)], os.environ))
        return bench.engines[-1]

    monkeypatch.setattr(Bench, "start_engine", start_engine)
    with working(tmp_path) as bench:
        made = bench.ended(bench.submit("job", num_inference_steps=1))
        assert (made.status, made.attempt, len(bench.engines)) == (JobStatus.SUCCEEDED, 2, 2)


def is_at_work_again(bench: Bench, job: Job) -> bool:
    return len(bench.engines) == 2 and is_denoising(bench.store.get(job.id))


def hold_files_of_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have the storage take none of the job `first` before the event that is returned is set."""
    is_let = threading.Event()
    put = bench.files.put

    def wait_and_put(path: Path, key: str) -> None:
        if key.startswith("videos/first."):
            assert is_let.wait(60)
        put(path, key)

    monkeypatch.setattr(bench.files, "put", wait_and_put)
    return is_let


PICTURE = "inputs/a.png"


def hold_picture(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Keep PICTURE from coming until the first of these is set; the second one is, once it has come."""
    is_let, has_come = threading.Event(), threading.Event()
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(picture, "PNG")
    bench.files.put_bytes(picture.getvalue(), PICTURE)

    def wait_and_fetch(_key: str, path: Path) -> None:
        assert is_let.wait(60)
        path.write_bytes(picture.getvalue())
        has_come.set()

    monkeypatch.setattr(bench.files, "path_for", lambda _key: None)
    monkeypatch.setattr(bench.files, "fetch", wait_and_fetch)
    return is_let, has_come


def test_the_next_job_is_made_while_one_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with working(tmp_path) as bench:
        is_let = hold_files_of_first(bench, monkeypatch)
        first = bench.submit("first")
        bench.wait(first, lambda found: found.stage == "store")
        assert bench.ended(bench.submit("second")).status is JobStatus.SUCCEEDED
        assert bench.store.get("first").status is JobStatus.RUNNING
        is_let.set()
        ended = bench.ended(first)
        assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)


def test_others_are_made_while_the_picture_of_one_does_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with working(tmp_path) as bench:
        is_let, _ = hold_picture(bench, monkeypatch)
        first = bench.submit("first", image=PICTURE)
        bench.wait(first, lambda found: found.status is JobStatus.RUNNING)
        for name in ("second", "third"):
            assert bench.ended(bench.submit(name)).status is JobStatus.SUCCEEDED
        assert bench.store.get("first").status is JobStatus.RUNNING
        is_let.set()
        ended = bench.ended(first)
        assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)


def test_who_is_made_alone_is_not_joined_by_one_whose_picture_comes_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    send = EngineProcess.send

    def note_and_send(self: EngineProcess, message: Message) -> None:
        if message["do"] == "make":
            made.append(message["job"])
        send(self, message)

    monkeypatch.setattr(EngineProcess, "send", note_and_send)
    with closing(Store.open(f"sqlite:///{tmp_path / 'jobs.db'}")) as store:
        elsewhere = Bench(tmp_path, store, LocalStorage(tmp_path / "files"), {})
        tried = elsewhere.submit("tried", **LONG)
        lease = store.claim("w0", 600.0)
        assert lease is not None
        with working(tmp_path, **SLOW) as bench:
            is_let, has_come = hold_picture(bench, monkeypatch)
            late = bench.submit("late", image=PICTURE, num_inference_steps=2)
            bench.wait(late, lambda found: found.status is JobStatus.RUNNING)
            store.release(lease, count_attempt=True)  # perhaps it was the reason why an engine died
            bench.wait(tried, is_denoising)
            is_let.set()
            assert has_come.wait(60)
            now = bench.store.get("tried").progress
            bench.wait(tried, lambda found: found.progress > now + 5)
            assert (made, bench.store.get("late").status) == (["tried"], JobStatus.RUNNING)
            bench.store.request_cancel("tried")
            assert bench.ended(tried).status is JobStatus.CANCELLED
            ended = bench.ended(late)
            assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)


def test_a_model_is_loaded_by_the_engine_that_is_there_while_a_dead_ones_job_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with working(tmp_path) as bench:
        is_let = hold_files_of_first(bench, monkeypatch)
        first = bench.submit("first")
        bench.wait(first, lambda found: found.stage == "store")
        os.kill(bench.engines[0].pid, signal.SIGKILL)
        eventually(lambda: not bench.engines[0].is_alive())
        assert bench.ended(bench.submit("second")).status is JobStatus.SUCCEEDED
        assert len(bench.engines) == 2
        bench.store.add_command("load", CommandKind.LOAD, ["w1"], "pocket")
        eventually(lambda: bench.store.command("load").status is CommandStatus.DONE)
        is_let.set()
        assert bench.ended(first).status is JobStatus.SUCCEEDED


def test_what_needs_the_engine_for_itself_waits_for_all_and_nothing_is_begun_meanwhile(
    tmp_path: Path,
) -> None:
    with working(tmp_path, **SLOW) as bench:
        long, short = long_and_short(bench)
        bench.store.add_command("restart", CommandKind.RESTART, ["w1"], "")
        eventually(lambda: bench.store.command("restart").status is CommandStatus.RUNNING)
        assert bench.ended(short).status is JobStatus.SUCCEEDED
        third = bench.submit("third", num_inference_steps=1)
        now = bench.store.get("long").progress
        bench.wait(long, lambda found: found.progress > now + 5)
        assert bench.store.get("third").status is JobStatus.QUEUED
        bench.store.request_cancel("long")
        assert bench.ended(third).status is JobStatus.SUCCEEDED
        assert bench.store.command("restart").status is CommandStatus.DONE
        assert len(bench.engines) == 2


def test_a_stopping_worker_hands_all_jobs_back_uncounted(tmp_path: Path) -> None:
    with working(tmp_path, **SLOW) as bench:
        long_and_short(bench)
        bench.worker.stop(at_once=True)
        for name in ("long", "short"):
            bench.wait(bench.store.get(name), lambda found: found.status is JobStatus.QUEUED)
            assert bench.store.get(name).attempt == 0

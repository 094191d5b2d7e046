"""Sweepers of expired files as real processes that are killed with SIGKILL, and disks without room."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from vitascope.domain.errors import VideoExpired
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.video import Video
from vitascope.service import Expiry, Service
from vitascope.storage import LocalStorage
from vitascope.store import Store
from vitascope.store.for_expiry import TRY_AGAIN

NUM_JOBS = 3

# One pass of a sweeper that tells what it is about to do, and waits to be let.
SWEEPER = """
import sys
from pathlib import Path
from vitascope.service import Expiry
from vitascope.storage import LocalStorage
from vitascope.store import Store

def told(name, call):
    def tell(*given):
        print(name, flush=True)
        sys.stdin.readline()
        return call(*given)
    return tell

store, files = Store.open(sys.argv[1]), LocalStorage(Path(sys.argv[2]))
for owner, name in ((store, "begin_removal"), (store, "finish_removal"), (files, "delete")):
    setattr(owner, name, told(name, getattr(owner, name)))
Expiry(store, files).advance()
print("done", flush=True)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


def make(url: str, files: LocalStorage, spec: ModelSpec, clock: Callable[[], datetime]) -> None:
    """Store jobs with two files each, which have expired by now."""
    with closing(Store.open(url, clock)) as store:
        for number in range(NUM_JOBS):
            image, key = f"inputs/job{number}.png", f"videos/job{number}.1.mp4"
            for one in (image, key):
                files.put_bytes(b"content", one)
            request = GenerationRequest(
                prompt="a dog", model="small", seed=1, image=image, expires_in_seconds=60
            )
            store.create(f"job{number}", request, plan(request, spec), 100)
            lease = store.claim("w1", 15)
            assert lease is not None
            video = Video(key=key, media_type="video/mp4", num_bytes=7, sha256="", height=64, width=96, num_frames=17, fps=8)  # fmt: skip
            store.succeed(lease, [video], {})


def killed_after(calls: int, url: str, folder: Path) -> list[str]:
    """Let a sweeper make so many calls and kill it when it is about to make the next; returns all that it told."""
    command = [sys.executable, "-c", SWEEPER, url, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sweeper:
        assert sweeper.stdin is not None
        assert sweeper.stdout is not None
        told = [sweeper.stdout.readline().strip()]
        while len(told) <= calls and told[-1] != "done":
            sweeper.stdin.write("\n")
            sweeper.stdin.flush()
            told.append(sweeper.stdout.readline().strip())
        sweeper.kill()
    return told


@pytest.mark.parametrize("calls", [2, 4, 7])
def test_a_sweeper_that_is_killed_leaves_nothing_untold(
    url: str, tmp_path: Path, small_spec: ModelSpec, clock: Any, calls: int
) -> None:
    """It is killed between the files of a job, between two jobs, and before it writes down that their files are gone."""
    files = LocalStorage(tmp_path / "files")
    make(url, files, small_spec, clock)
    told = killed_after(calls, url, tmp_path / "files")
    steps = ["begin_removal", *["delete"] * 2 * NUM_JOBS, "finish_removal", "done"]
    assert told == steps[: calls + 1]
    service = Service(None, None, files, clock=clock)  # type: ignore[arg-type]  # its clock stands before the expiry
    with closing(Store.open(url)) as store:
        for number in range(NUM_JOBS):
            job = store.get(f"job{number}")
            is_there = (tmp_path / "files" / f"videos/job{number}.1.mp4").exists()
            assert not (is_there and job.expired_at)
            if not is_there:
                with pytest.raises(VideoExpired):
                    service.results.open_video(job)
    with closing(Store.open(url, lambda: datetime.now(UTC) + TRY_AGAIN)) as later:
        Expiry(later, files).advance()
        assert [file.key for folder in ("inputs", "videos") for file in files.files_in(folder)] == []
        assert all(later.get(f"job{number}").expired_at for number in range(NUM_JOBS))

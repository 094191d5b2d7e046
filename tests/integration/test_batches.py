"""Feeders of batches as real processes that are killed with SIGKILL, on both databases."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from vitascope.catalog import Catalog
from vitascope.domain.access import Caller, Scope
from vitascope.domain.batch import Batch, BatchStatus
from vitascope.domain.video import Video
from vitascope.service import FileId, Service
from vitascope.storage import LocalStorage
from vitascope.store import Store
from waiting import eventually

NUM_LINES = 6

ME = Caller("", frozenset({Scope.GENERATE}))

CARD = """
id = "small"
source = "folder:/nowhere"
pipeline = "WanPipeline"
modes = { text = "WanPipeline" }
size = { native = ["96x64"], multiple = 32, max_pixels = 0 }
frames = { multiple = 4, offset = 1, minimum = 5, maximum = 17, default = 17 }
fps = 8
steps = { default = 12, minimum = 1, maximum = 100 }
guidance = { default = 4.0, minimum = 1.0, maximum = 20.0 }
"""

# A web process's feeder that tells what it is about to write, and waits to be let. Its lease is short: so is the test.
FEEDER = """
import asyncio, sys
from pathlib import Path
from vitascope.catalog import Catalog
from vitascope.dialects.openai import VideosBatch
from vitascope.service import Feeder, Service, feeding
from vitascope.storage import LocalStorage
from vitascope.store import Cipher, Store, for_batches

for_batches.LEASE_SECONDS, feeding.PAUSE_SECONDS, feeding.LINES_AT_ONCE = 1.0, 0.0, 2

def told(name, call):
    def tell(*given, **named):
        if sys.argv[4] == "asks":
            print(name, flush=True)
            sys.stdin.readline()
        return call(*given, **named)
    return tell

store, files = Store.open(sys.argv[1], cipher=Cipher((b"k" * 32,))), LocalStorage(Path(sys.argv[2]))
for name in ("claim_batch", "clear_lines", "add_lines", "begin_batch", "feed_line", "refuse_line", "settle_lines", "end_batch"):
    setattr(store, name, told(name, getattr(store, name)))
files.put = told("put", files.put)
service = Service(store, Catalog.open(Path(sys.argv[3]), "small"), files)

async def with_inputs(caller, draft, base_url):
    return draft

async def feed():
    feeder = Feeder(service, store, {"/v1/videos": VideosBatch(service)}, with_inputs)
    while store.batch_page().batches[0].finished_at is None:
        if not await feeder.advance():
            await asyncio.sleep(0.05)
    print("done", flush=True)

asyncio.run(feed())
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "small.toml").write_text(CARD)
    return folder


@contextmanager
def feeder(url: str, files: Path, cards: Path, how: str = "asks") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", FEEDER, url, str(files), str(cards), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def let(process: subprocess.Popen[str], calls: int) -> list[str]:
    """Let a process make so many calls; returns these and the one that it is about to make."""
    assert process.stdin is not None
    assert process.stdout is not None
    told = [process.stdout.readline().strip()]
    while len(told) <= calls and told[-1] != "done":
        process.stdin.write("\n")
        process.stdin.flush()
        told.append(process.stdout.readline().strip())
    return told


def begin(service: Service) -> Batch:
    lines = [
        {"custom_id": f"{n}", "method": "POST", "url": "/v1/videos", "body": {"prompt": f"{n}", "seconds": "1"}}
        for n in range(NUM_LINES)
    ]  # fmt: skip
    lines[2]["body"] = {"prompt": "2", "size": "silly"}
    data = "\n".join(json.dumps(line) for line in lines).encode()
    upload = service.files.prepare(data, "a.jsonl", "batch", ME)
    service.files.put(upload)
    file = FileId(service.files.add(upload, ME).id, "it")
    return service.batches.create(file, "/v1/videos", ME, metadata={})


def work(store: Store, batch: Batch) -> Batch | None:
    """End what waits; returns the batch once it has ended."""
    while (lease := store.claim("w", 3600)) is not None:
        video = Video(key=f"videos/{lease.job.id}.mp4", media_type="video/mp4", num_bytes=1, sha256="00", height=64, width=96, num_frames=17, fps=8)  # fmt: skip
        store.succeed(lease, [video], {})
    found = store.batch(batch.id)
    return found if found.status.is_terminal else None


def results(service: Service, batch: Batch) -> dict[str, Any]:
    found = {}
    for file_id in (batch.output_file_id, batch.error_file_id):
        assert file_id is not None
        for line in service.files.read(service.files.get(file_id, ME)).decode().splitlines():
            found[json.loads(line)["custom_id"]] = json.loads(line)["response"]
    return found


def test_each_line_is_one_video_although_every_feeder_is_killed(
    url: str, tmp_path: Path, cards: Path
) -> None:
    """Each process may make some calls more than the one before; the last one is not killed."""
    files = LocalStorage(tmp_path / "files")
    seen: set[str] = set()
    with closing(Store.open(url)) as store:
        service = Service(store, Catalog.open(cards, "small"), files, clock=lambda: datetime.now(UTC))
        batch = begin(service)
        for calls in (5, 8, 9, 3, 3):
            with feeder(url, tmp_path / "files", cards) as process:
                seen |= set(let(process, calls)[-1:])
            work(store, batch)
        with feeder(url, tmp_path / "files", cards, "runs"):
            ended = eventually(lambda: work(store, batch), 60)
        assert ended is not None
        assert (ended.status, ended.num_succeeded, ended.num_failed) == (BatchStatus.SUCCEEDED, 5, 1)
        jobs = store.page(limit=100).jobs
        assert sorted(job.request.prompt for job in jobs) == ["0", "1", "3", "4", "5"]
        told = results(service, ended)
        assert set(told) == {f"{n}" for n in range(NUM_LINES)}
        assert {told[f"{n}"]["status_code"] for n in (0, 1, 3, 4, 5)} == {200}
        assert told["2"]["status_code"] == 400
        print(f"killed before {', '.join(sorted(seen))}")

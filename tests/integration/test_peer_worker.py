"""When a job is handed over, and what becomes of it: a real store and worker, and a peer that says what a test wants."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from vitascope.catalog import Catalog
from vitascope.dialects.native.answers import plan_object
from vitascope.domain.errors import UnknownModel
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.marks import MarkRules
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest
from vitascope.outbound.peer import PeerAway, PeerRefused, PeerState
from vitascope.storage import LocalStorage
from vitascope.store import Store
from vitascope.worker import peer_job, peer_worker
from vitascope.worker.parent import WorkerConfig
from vitascope.worker.peer_engine import PeerEngine
from vitascope.worker.peer_files import PeerMarks
from vitascope.worker.peer_job import Link
from vitascope.worker.peer_worker import PeerWorker
from waiting import eventually

FILE = b"\0\0\0\x18ftypisom" + b"a video" * 1000
QUEUED, RUNNING, SUCCEEDED = (
    {"sequence": number, "kind": kind} for number, kind in enumerate(("queued", "running", "succeeded"), 1)
)
STEP = {"sequence": 9, "kind": "progress", "percent": 40, "stage": "denoise"}


@dataclass
class FakePeer:
    """Answers what a test wants; remembers what was asked."""

    plans: Callable[[dict[str, Any]], dict[str, Any]]
    wait_seconds: float | None = 0.0
    deployment: str = "other"
    known: dict[str, Any] | None = field(
        default_factory=lambda: {"source": "embedded:pocket", "revision": None}
    )
    #: What a call raises, by its name; a list is used up.
    raises: dict[str, list[Exception]] = field(default_factory=dict)
    events_now: list[dict[str, Any] | None] = field(
        default_factory=lambda: [QUEUED, RUNNING, STEP, SUCCEEDED]
    )
    file: bytes = FILE
    #: Of the job as it is shown at its end.
    shown: dict[str, Any] = field(default_factory=dict)
    created: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.raises.get(name):
            raise self.raises[name].pop(0)

    def state(self) -> PeerState:
        self._called("state")
        return PeerState("0.0.1", self.deployment, self.wait_seconds)

    def model(self, _model: str) -> dict[str, Any] | None:
        self._called("model")
        return self.known

    def plan(self, body: dict[str, Any]) -> dict[str, Any]:
        self._called("plan")
        return self.plans(body)

    def create(self, body: dict[str, Any], once: str) -> dict[str, Any]:
        self.created.append((body, once))
        self._called("create")
        return {"id": "theirs", "status": "queued", "seed": body["seed"], **self.shown.get("created", {})}

    def events(self, job_id: str, _after: int) -> Iterator[dict[str, Any] | None]:
        self._called("events")
        if job_id in self.deleted:
            raise PeerRefused(404, "job_not_found")
        yield from self.events_now
        if self.events_now and self.events_now[-1] is None:
            raise PeerAway("gave no answer in time")

    def job(self, _job_id: str) -> dict[str, Any]:
        self._called("job")
        body, _ = self.created[-1]
        file = {"num_bytes": len(FILE), "sha256": hashlib.sha256(FILE).hexdigest()}
        size = {name: body[name] for name in ("height", "width", "num_frames", "fps")}
        videos = [
            {"index": index, "seed": body["seed"] + index, **file, **size}
            for index in range(body["num_videos"])
        ]
        found = {"status": "succeeded", "provenance": False, "videos": videos, "choices": []}
        return {**found, "seconds_by_stage": {"denoise": 1.0}, **self.shown.get("job", {})}

    def download(self, _id: str, _index: int, _variant: str, path: Path, _bytes: int, _sha256: str) -> None:
        self._called("download")
        path.write_bytes(self.file)

    def delete(self, job_id: str) -> None:
        self._called("delete")
        self.deleted.append(job_id)

    def close(self) -> None:
        """Nothing is open."""


class Bench:
    """A store with jobs, and a worker that hands over to a fake peer."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(f"sqlite:///{folder / 'jobs.db'}")
        self.files = LocalStorage(folder / "files")
        self.spec = Catalog.open().resolve("pocket")
        self.peer = FakePeer(
            lambda body: plan_object(self.planned(self.request(num_videos=body["num_videos"])), None)
        )
        config = WorkerConfig("p", folder / "work" / "p", lease_seconds=3, poll_seconds=0.02, drain_seconds=0)

        def connect() -> Any:
            return self.peer

        link = Link(connect, "peer fake", lambda _id: self.spec, PeerMarks(), patience_seconds=0.2)
        self.worker = PeerWorker(
            self.store,
            self.files,
            lambda: PeerEngine(link),
            config,
            Catalog.open(),
            peer="fake",
            connect=connect,
        )
        self._thread = threading.Thread(target=self.worker.run)

    def request(self, **asked: Any) -> GenerationRequest:
        more = {
            "height": 64,
            "width": 96,
            "num_frames": 9,
            "fps": 8,
            "num_inference_steps": 4,
            "provenance": False,
        }
        request = GenerationRequest(prompt="a dog", model="pocket", seed=1, may_hand_over=True, **more)
        return replace(request, **asked)

    def planned(self, request: GenerationRequest) -> Plan:
        return plan(request, self.spec, MarkRules(is_signing_optional=True))

    def submit(self, **asked: Any) -> Job:
        request = self.request(**asked)
        planned = self.planned(request)
        return self.store.create(uuid.uuid4().hex, request, planned, max_queued=100)

    def start(self) -> None:
        self._thread.start()

    def ended(self, job: Job) -> Job:
        return eventually(lambda: now if (now := self.store.get(job.id)).status.is_terminal else None)

    def stays(self, job: Job) -> None:
        """Wait until the worker has decided against the job; nothing is seen of that by its client."""
        eventually(lambda: job.id in self.worker._left)
        self._is_as_it_was(job)

    def rests(self, job: Job, problem: str) -> None:
        eventually(lambda: self.worker._problem == problem)
        self._is_as_it_was(job)

    def comes_back(self, job: Job) -> Job:
        eventually(lambda: job.id in self.worker._left)
        return eventually(lambda: now if (now := self.store.get(job.id)).status is JobStatus.QUEUED else None)

    def _is_as_it_was(self, job: Job) -> None:
        assert self.peer.created == []
        assert [event.kind for event in self.store.events(job.id)] == ["queued"]

    def close(self) -> None:
        self.worker.stop(at_once=True)
        if self._thread.is_alive():
            self._thread.join(timeout=60)
        self.store.close()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(peer_worker, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(peer_worker, "AWAY_SECONDS", 0.02)
    monkeypatch.setattr(peer_job, "RETRY_SECONDS", 0.02)
    made = Bench(tmp_path)
    yield made
    made.close()


def test_what_may_be_is_made_by_the_peer(bench: Bench) -> None:
    stays = bench.submit(may_hand_over=False)
    job = bench.submit(num_videos=2)
    bench.start()
    ended = bench.ended(job)
    assert (ended.status, [video.index for video in ended.videos]) == ("succeeded", [0, 1])
    assert bench.files.path_for(ended.videos[1].key).read_bytes() == FILE
    ((body, once),) = bench.peer.created
    assert (once, body["may_hand_over"], body["seed"]) == (job.id, False, 1)
    assert ended.details is not None
    (made_by,) = [choice for choice in ended.details["choices"] if choice["name"] == "made_by"]
    assert "that one is of version 0.0.1, this one" in made_by["reason"]
    assert set(ended.details["seconds"]) == {"denoise", "hand_over"}
    stages = {event.stage for event in bench.store.events(job.id) if event.kind == "progress"}
    assert {"hand_over", "denoise"} <= stages
    eventually(lambda: bench.peer.deleted == ["theirs"])
    assert bench.store.get(stays.id).status is JobStatus.QUEUED


def test_nothing_is_handed_over_while_a_worker_here_is_free(bench: Bench) -> None:
    bench.store.worker_seen("w", "cpu")
    job = bench.submit()
    bench.start()
    other = bench.submit(may_hand_over=False)
    assert bench.store.claim("w", 60, job_id=other.id)
    assert bench.ended(job).status is JobStatus.SUCCEEDED, "now it is not"
    assert bench.peer.calls[0] == "state"


def test_a_peer_where_it_would_wait_as_long_is_left_alone(bench: Bench) -> None:
    bench.store.worker_seen("w", "cpu")
    other = bench.submit(may_hand_over=False)
    assert bench.store.claim("w", 60, job_id=other.id)
    bench.peer.wait_seconds = 60.0  # what is taken for a model that was never measured
    job = bench.submit()
    bench.start()
    eventually(lambda: bench.peer.calls.count("state") > 3)
    bench.peer.wait_seconds = None
    eventually(lambda: bench.peer.calls.count("state") > 6)
    bench._is_as_it_was(job)
    bench.peer.wait_seconds = 40.0
    assert bench.ended(job).status is JobStatus.SUCCEEDED


@pytest.mark.parametrize(
    "change",
    [
        lambda bench: setattr(bench.peer, "known", None),
        lambda bench: setattr(bench.peer, "known", {"source": "folder", "revision": None}),
        lambda bench: setattr(bench.peer, "plans", lambda _body: {}),
        lambda bench: bench.peer.raises.update(plan=[PeerRefused(400, "invalid_parameter")]),
    ],
    ids=["no model", "another model", "another plan", "refusal"],
)
def test_what_the_peer_does_not_make_never_leaves_the_queue(
    bench: Bench, change: Callable[[Bench], None]
) -> None:
    change(bench)
    job = bench.submit()
    bench.start()
    bench.stays(job)


def test_what_a_peer_cannot_be_told_is_not_even_asked(bench: Bench) -> None:
    job = bench.submit(source_has_border=True)
    bench.start()
    bench.stays(job)
    assert bench.peer.calls == []


def test_a_model_that_is_gone_ends_no_worker(bench: Bench) -> None:
    job = bench.submit()
    bench.worker._models = Catalog.open()

    def gone(name: str | None) -> Any:
        raise UnknownModel(f"there is no model {name}")

    bench.worker._models.resolve = gone  # type: ignore[method-assign]
    bench.start()
    bench.stays(job)


def test_a_peer_that_cannot_be_used_is_asked_again_later(bench: Bench) -> None:
    bench.peer.raises["state"] = [PeerAway("cannot be reached")] * 3 + [
        PeerRefused(401, "invalid_api_key")
    ] * 3
    bench.peer.deployment = bench.store.deployment_id()
    job = bench.submit()
    bench.start()
    bench.rests(job, "is this server itself")
    bench.peer.deployment = "another"
    assert bench.ended(job).attempt == 1


@pytest.mark.parametrize(
    ("shown", "events"),
    [
        ({"job": {"status": "failed", "error": {"code": "out_of_memory"}}}, None),
        ({"job": {"status": "failed", "error": "?"}}, None),
        ({"job": {"videos": []}}, None),
        ({"job": {"videos": [{"index": 0}]}}, None),
        ({"job": {"videos": "?"}}, None),
        ({"job": {"provenance": True}}, None),
        ({"created": {"seed": 2}}, None),
        ({}, [QUEUED, {"sequence": 2, "kind": "cancelled"}]),
    ],
)
def test_what_a_peer_makes_otherwise_is_made_here(
    bench: Bench, shown: dict[str, Any], events: list[dict[str, Any]] | None
) -> None:
    """The job is queued again as if it had not been handed over, the peer's is deleted, and it is not asked again."""
    bench.peer.shown = shown
    bench.peer.events_now = events or bench.peer.events_now
    if events:
        bench.peer.shown["job"] = {"status": "cancelled"}
    job = bench.submit()
    bench.start()
    back = bench.comes_back(job)
    assert (back.attempt, back.progress, back.error) == (0, 0, None)
    eventually(lambda: bench.peer.deleted == ["theirs"])
    assert len(bench.peer.created) == 1
    assert bench.worker._left[job.id] == float("inf")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("create", PeerRefused(429, "queue_full", 1.0)),
        ("events", PeerRefused(503, "store_unavailable")),
        ("job", PeerRefused(500)),
        ("create", PeerAway("cannot be reached")),
        ("download", PeerAway("sent another file than it had said")),
    ],
)
def test_a_peer_that_fails_for_now_gives_the_job_back_for_now(
    bench: Bench, call: str, error: Exception
) -> None:
    bench.peer.raises[call] = [error] * 100
    job = bench.submit()
    bench.start()
    back = bench.comes_back(job)
    assert (back.attempt, back.error) == (0, None)
    assert bench.worker._left[job.id] < float("inf")


def test_a_peer_that_ends_the_events_before_the_job_is_not_asked_on_and_on(bench: Bench) -> None:
    bench.peer.events_now = []
    job = bench.submit()
    bench.start()
    assert bench.comes_back(job).attempt == 0
    assert bench.peer.calls.count("events") < 50


def test_a_video_that_would_fill_the_disk_is_not_fetched(bench: Bench) -> None:
    job = bench.submit()
    file = {"num_bytes": 1 << 40, "sha256": "0" * 64, "index": 0, "seed": 1}
    size = {"height": 64, "width": 96, "num_frames": 9, "fps": 8}
    bench.peer.shown["job"] = {"videos": [{**file, **size}]}
    bench.start()
    bench.comes_back(job)
    assert "download" not in bench.peer.calls


@pytest.mark.parametrize("file", [b"", b"<html>" * 100, b"GIF89a" + FILE])
def test_what_is_no_video_is_not_taken_for_one(bench: Bench, file: bytes) -> None:
    bench.peer.file = file
    job = bench.submit()
    bench.start()
    bench.comes_back(job)
    assert bench.worker._left[job.id] == float("inf")


def test_a_video_of_which_nothing_is_said_sends_the_job_back(bench: Bench) -> None:
    file = {"num_bytes": len(FILE), "sha256": hashlib.sha256(FILE).hexdigest(), "index": 1, "seed": 2}
    size = {"height": 64, "width": 96, "num_frames": 9, "fps": 8}
    bench.peer.shown["job"] = {"videos": [{**file, **size}]}
    job = bench.submit(num_videos=2)
    bench.start()
    bench.comes_back(job)


def test_a_short_absence_is_waited_for(bench: Bench) -> None:
    for call in ("create", "events", "job", "download"):
        bench.peer.raises[call] = [PeerAway("gave no answer in time")]
    job = bench.submit()
    bench.start()
    assert bench.ended(job).attempt == 1


def test_a_try_that_was_given_up_does_not_stand_in_the_way(bench: Bench) -> None:
    bench.peer.raises["create"] = [PeerRefused(409, "idempotency_conflict")]
    job = bench.submit()
    bench.start()
    assert bench.ended(job).status is JobStatus.SUCCEEDED
    assert [once for _, once in bench.peer.created] == [job.id, f"{job.id}-1"]


def test_a_job_that_waits_where_nobody_works_comes_back(bench: Bench) -> None:
    bench.peer.events_now = [QUEUED, None]
    job = bench.submit()
    bench.start()
    eventually(lambda: bench.store.get(job.id).stage == "hand_over")
    bench.peer.wait_seconds = None
    bench.comes_back(job)


def test_one_video_that_failed_there_has_failed_here(bench: Bench) -> None:
    job = bench.submit(num_videos=2)
    real = bench.peer.job

    def shown(job_id: str) -> dict[str, Any]:
        found = real(job_id)
        failed = [
            {"index": 1, "code": "invalid_output", "message": "x"},
            {"index": 7, "code": "a", "message": ""},
        ]
        return {**found, "videos": found["videos"][:1], "failed_videos": failed}

    bench.peer.job = shown  # type: ignore[method-assign]
    bench.start()
    ended = bench.ended(job)
    assert [video.index for video in ended.videos] == [0]
    assert {index: error.code for index, error in ended.failed_videos.items()} == {1: "invalid_output"}

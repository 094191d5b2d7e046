"""The service: drafts, ids, and what is cleaned up when something is refused."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitascope.domain.access import OPEN
from vitascope.domain.choice import Choice
from vitascope.domain.errors import (
    InvalidParameter,
    JobConflict,
    JobNotFound,
    QueueFull,
    StorageError,
    UnknownModel,
    VideoFailed,
    VideoNotReady,
)
from vitascope.domain.job import JobError, JobStatus
from vitascope.domain.model_spec import Bounds, ModelSpec
from vitascope.domain.request import GenerationRequest
from vitascope.domain.video import Video
from vitascope.service import Sent, Service, ids
from vitascope.storage import LocalStorage
from vitascope.store import Store

REQUEST = GenerationRequest(prompt="a dog", model="small")


class Shelf:
    """A catalog of one model."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec

    def all(self) -> list[ModelSpec]:
        return [self._spec]

    def resolve(self, name: str | None) -> ModelSpec:
        if name not in (None, self._spec.id, *self._spec.aliases):
            raise UnknownModel
        return self._spec

    def is_here(self, spec: ModelSpec) -> bool:
        return True


@pytest.fixture
def store(tmp_path: Path, clock: Any) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path / 'jobs.db'}", clock)
    yield store
    store.close()


@pytest.fixture
def service(store: Store, tmp_path: Path, small_spec: ModelSpec) -> Service:
    return Service(store, Shelf(small_spec), LocalStorage(tmp_path / "files"), max_queued=2)


def picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, "WEBP")
    return content.getvalue()


def stored(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder / "files")) for path in (folder / "files").rglob("*.*"))


def finish(store: Store, folder: Path, key: str = "videos/a.mp4") -> None:
    lease = store.claim("w1", 15)
    assert lease is not None
    (folder / "part").write_bytes(b"video")
    LocalStorage(folder / "files").put(folder / "part", key)
    video = Video(
        key=key, media_type="video/mp4", num_bytes=5, sha256="", height=64, width=96, num_frames=17, fps=8
    )
    store.succeed(lease, [video], {})


def test_ids_sort_by_time_and_are_told_from_anything_else() -> None:
    made = [ids.new_id() for _ in range(500)]
    assert len(set(made)) == 500
    assert [one[:10] for one in made] == sorted(one[:10] for one in made)
    assert all(ids.is_id(one) for one in made)
    for wrong in (
        "",
        "a",
        made[0][:-1],
        made[0] + "0",
        made[0].upper(),
        "8" + made[0][1:],
        "\x00" * 26,
        "é" * 26,
    ):
        assert not ids.is_id(wrong)


def test_a_seed_is_drawn_once_and_kept(service: Service) -> None:
    first, second = service.submit(REQUEST, OPEN), service.submit(REQUEST, OPEN)
    assert first.plan.seed != second.plan.seed
    assert service.jobs.get(first.id, OPEN).plan.seed == first.plan.seed == first.request.seed
    assert 0 <= first.plan.seed < 2**32


def test_a_given_seed_stays(service: Service) -> None:
    request = GenerationRequest(prompt="a dog", model="sora-2", seed=7)
    job = service.submit(request, OPEN)
    assert (job.request, job.plan.seed, job.plan.model) == (request, 7, "small")


def test_choices_of_the_dialect_come_first(service: Service) -> None:
    choice = Choice("model", "small", "no other")
    draft = service.drafts.prepare(REQUEST, OPEN, choices=[choice])
    assert draft.plan.choices[0] == choice


def test_what_cannot_be_made_is_refused_before_anything_is_stored(
    service: Service, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(InvalidParameter):
        service.submit(GenerationRequest(prompt="a", model="small", fps=999), OPEN, Sent(image=picture()))
    with pytest.raises(UnknownModel):
        service.submit(GenerationRequest(prompt="a", model="other"), OPEN, Sent(image=picture()))
    with pytest.raises(InvalidParameter) as refused:
        service.submit(REQUEST, OPEN, Sent(image=b"no picture"))
    assert refused.value.parameter == "image"
    with pytest.raises(InvalidParameter) as refused:  # the first of two was good, and stored before
        service.submit(REQUEST, OPEN, Sent(image=picture(), watermark=b"no picture"))
    assert refused.value.parameter == "watermark.image"
    assert store.page().jobs == ()
    assert stored(tmp_path) == []


def test_a_picture_is_stored_as_png_and_goes_with_its_job(service: Service, tmp_path: Path) -> None:
    job = service.submit(REQUEST, OPEN, Sent(image=picture()))
    assert job.request.image == job.plan.image == f"inputs/{job.id}.png"
    assert stored(tmp_path) == [job.request.image]
    with Image.open(tmp_path / "files" / f"inputs/{job.id}.png") as kept:
        assert kept.format == "PNG"
    service.jobs.remove(service.jobs.delete(job.id, OPEN))
    assert stored(tmp_path) == []


def test_a_full_queue_keeps_no_picture(service: Service, tmp_path: Path) -> None:
    service.submit(REQUEST, OPEN)
    service.submit(REQUEST, OPEN)
    with pytest.raises(QueueFull):
        service.submit(REQUEST, OPEN, Sent(image=picture()))
    assert stored(tmp_path) == []


@pytest.mark.parametrize("job_id", ["", "a", "../../etc/passwd", "\x00", "0" * 26])
def test_unknown_and_malformed_ids_are_the_same(service: Service, job_id: str) -> None:
    for call in (service.jobs.get, service.jobs.cancel, service.jobs.delete):
        with pytest.raises(JobNotFound):
            call(job_id, OPEN)


def test_the_video_can_be_opened_when_it_is_there(service: Service, store: Store, tmp_path: Path) -> None:
    job = service.submit(REQUEST, OPEN)
    with pytest.raises(VideoNotReady, match="queued"):
        service.results.open_video(job)
    finish(store, tmp_path)
    job = service.jobs.get(job.id, OPEN)
    found = service.results.open_video(job)
    assert (found.num_bytes, found.suffix, found.url) == (5, ".mp4", None)
    assert b"".join(found.read(1, 4)) == b"ide"
    (tmp_path / "files" / job.videos[0].key).unlink()
    with pytest.raises(StorageError):
        service.results.open_video(job)


def test_a_job_that_is_deleted_before_its_video_is_opened_is_not_there(
    service: Service, store: Store, tmp_path: Path
) -> None:
    job = service.submit(REQUEST, OPEN)
    finish(store, tmp_path)
    job = service.jobs.get(job.id, OPEN)
    service.jobs.remove(service.jobs.delete(job.id, OPEN))
    assert stored(tmp_path) == []
    with pytest.raises(JobNotFound):
        service.results.open_video(job)


def test_a_job_without_a_video_says_why(service: Service, store: Store) -> None:
    failed, cancelled = service.submit(REQUEST, OPEN), service.submit(REQUEST, OPEN)
    lease = store.claim("w1", 15)
    assert lease is not None
    store.fail(lease, JobError("out_of_memory", "The device ran out of memory."))
    with pytest.raises(VideoFailed, match="ran out of memory"):
        service.results.open_video(service.jobs.get(failed.id, OPEN))
    assert service.jobs.cancel(cancelled.id, OPEN).status is JobStatus.CANCELLED
    with pytest.raises(VideoFailed, match="cancelled"):
        service.results.open_video(service.jobs.get(cancelled.id, OPEN))


def test_readiness_needs_a_live_worker(service: Service, store: Store, clock: Any) -> None:
    assert service.condition.why_not_ready() == "no worker is running"
    store.worker_seen("w1")
    assert service.condition.why_not_ready() is None
    clock.advance(31)
    assert service.condition.why_not_ready() == "no worker is running"


def test_a_retry_keeps_seed_picture_and_what_was_told(service: Service, tmp_path: Path) -> None:
    draft = service.drafts.prepare(
        REQUEST, OPEN, Sent(image=picture()), [Choice("model", "small", "no other")]
    )
    service.drafts.store_inputs(draft)
    first = service.enqueue(draft, OPEN)
    with pytest.raises(JobConflict, match="queued"):
        service.retry(first.id, OPEN)
    service.jobs.cancel(first.id, OPEN)
    second = service.retry(first.id, OPEN)
    assert (second.plan.seed, second.plan.choices) == (first.plan.seed, first.plan.choices)
    assert second.request.image == f"inputs/{second.id}.png"
    assert stored(tmp_path) == [first.request.image, second.request.image], "each has its own"
    service.jobs.remove(service.jobs.delete(first.id, OPEN))
    with pytest.raises(JobNotFound):
        service.retry(first.id, OPEN)


def test_a_retry_is_planned_by_the_card_of_today(
    store: Store, tmp_path: Path, small_spec: ModelSpec, service: Service
) -> None:
    first = service.submit(REQUEST, OPEN)
    service.jobs.cancel(first.id, OPEN)
    slower = dataclasses.replace(small_spec, fps=4, num_inference_steps=Bounds(20, 1, 100))
    later = Service(store, Shelf(slower), LocalStorage(tmp_path / "files"))
    assert later.retry(first.id, OPEN).plan.num_inference_steps == 20
    gone = Service(store, Shelf(dataclasses.replace(small_spec, id="new")), LocalStorage(tmp_path / "files"))
    with pytest.raises(UnknownModel):
        gone.retry(first.id, OPEN)

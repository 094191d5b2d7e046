"""Rows in, domain objects out."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from vitascope.domain.arbiter import UNKNOWN_SECONDS, Candidate
from vitascope.domain.job import Job, JobError, JobStatus
from vitascope.domain.plan import Plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.video import Video, stored_keys

if TYPE_CHECKING:
    from functools import _lru_cache_wrapper

T = TypeVar("T")

Row = sa.Row[Any]

JOBS_REMEMBERED = 4096
"""Jobs whose request and plan are kept decoded: who polls reads the same job again and again, and they never change."""

MOST_REMEMBERED_CHARS = 16_384
"""Longer texts are decoded each time: long prompts and many shots make megabytes, and thousands of those would fill the memory."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs in order, and whether more follow."""

    jobs: tuple[Job, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    job_id: str
    #: Rises within the job, in the order in which readers can see the events; numbers may be left out.
    sequence: int
    #: The status that was reached, a wish (`cancel_requested`, `deleted`), `progress` or `preview`.
    kind: str
    attempt: int
    created_at: datetime
    #: Of `progress` and `preview` only.
    percent: int | None = None
    stage: str | None = None
    #: Of `preview` only: a small WebP, as base64.
    preview: str | None = None


@dataclass(frozen=True, slots=True)
class Lapsed:
    """What came of taking jobs from workers that were silent for too long."""

    num_jobs: int
    #: Storage keys that nobody needs any more: those of jobs that were deleted while they ran.
    unneeded: Sequence[str]


@dataclass(frozen=True, slots=True)
class Removal:
    """A job whose files are to be removed."""

    job_id: str
    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How busy the deployment is."""

    #: Waiting jobs by model; models without any are left out.
    queued: Mapping[str, int]
    running: Mapping[str, int]
    oldest_queued_seconds: float
    #: All jobs that ever were, by status; deleted ones count.
    total: Mapping[JobStatus, int]


@dataclass(frozen=True, slots=True)
class Running:
    """A running job, as far as the turns of others depend on it."""

    job_id: str
    worker_id: str
    #: Estimated for all of it; None if its model was never measured.
    seconds: float | None
    #: Whole percent.
    progress: int
    #: Since its worker took it, but for those in which others had the device.
    worked_seconds: float

    @property
    def remaining_seconds(self) -> float | None:
        """The rest, from its model's speed, else from its own progress; None before it has any."""
        share_left = 1 - self.progress / 100
        if self.seconds is not None:
            return self.seconds * share_left
        return self.worked_seconds / self.progress * 100 * share_left if self.progress > 0 else None


@dataclass(frozen=True, slots=True)
class Situation:
    """All that waiting times depend on, at one moment."""

    waiting: Sequence[Candidate]
    running: Sequence[Running]
    #: Ids of the workers that live.
    workers: Collection[str]
    #: Device seconds that each key has had lately, with those of running jobs.
    served_seconds: Mapping[str, float]
    #: Ids of the workers that live and hand their jobs over to another server.
    peers: Collection[str] = ()

    @property
    def free_in(self) -> list[float]:
        """For each worker, the seconds until it is free; a guess where that is unknown."""
        left = dict.fromkeys(self.workers, 0.0)
        for job in self.running:  # several jobs of one worker share its device
            if job.worker_id in left:
                seconds = job.remaining_seconds
                left[job.worker_id] += UNKNOWN_SECONDS if seconds is None else seconds
        return list(left.values())

    @property
    def lost(self) -> frozenset[str]:
        """Ids of jobs that dead workers hold: they will begin again, nobody knows when."""
        living = {*self.workers, *self.peers}
        return frozenset(job.job_id for job in self.running if job.worker_id not in living)


def job_of(row: Row) -> Job:
    """Make the domain's job of a row of `jobs`; `request` and `plan` may also be the JSON text that is stored."""
    return Job(
        id=row.id,
        number=row.number,
        status=JobStatus(row.status),
        request=_remembered(_request_of, row.request)
        if isinstance(row.request, str)
        else GenerationRequest.from_dict(row.request),
        plan=_remembered(_plan_of, row.plan) if isinstance(row.plan, str) else Plan.from_dict(row.plan),
        cancel_requested=row.cancel_requested,
        progress=row.progress,
        stage=row.stage,
        attempt=row.attempt,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        expires_at=row.expires_at,
        expired_at=row.expired_at,
        is_being_removed=row.removal_tried_at is not None,
        error=None if row.error_code is None else JobError(row.error_code, row.error_message),
        videos=tuple(Video.from_dict(values) for values in row.videos or ()),
        details=row.details,
        key_id=row.key_id,
        is_read=row.read_at is not None,
        price=row.price,
        charged=row.charged,
    )


def _remembered(read: _lru_cache_wrapper[T], text: str) -> T:
    return read(text) if len(text) <= MOST_REMEMBERED_CHARS else read.__wrapped__(text)


@lru_cache(JOBS_REMEMBERED)
def _request_of(text: str) -> GenerationRequest:
    return GenerationRequest.from_dict(json.loads(text))


@lru_cache(JOBS_REMEMBERED)
def _plan_of(text: str) -> Plan:
    return Plan.from_dict(json.loads(text))


def event_of(job_id: str, row: Row) -> Event:
    """Make an event of a row of `events`."""
    return Event(job_id, row.sequence, row.kind, row.attempt, row.created_at, **(row.data or {}))


def video_values(videos: Sequence[Video]) -> dict[str, Any]:
    """Make the columns of finished videos, as `job_of` reads them."""
    return {
        "videos": [asdict(video) for video in videos],
        "num_bytes": sum(video.total_bytes for video in videos),
    }


def storage_keys(row: Row) -> list[str]:
    """Files that belong to a job and to nothing else."""
    request = row.request
    keys = [
        request.get("image"),
        request.get("last_image"),
        request.get("video"),
        request.get("continues"),
        (request.get("watermark") or {}).get("image"),
        *request.get("references", ()),
    ]
    videos = (Video.from_dict(values) for values in row.videos or ())
    return [key for key in keys if key is not None] + stored_keys(videos)

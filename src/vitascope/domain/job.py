"""The durable unit of work and the ways it may change.

    queued ──► running ──► succeeded
      │          │ ├─────► failed
      │          │ └─────► cancelled
      │          └───────► queued      (the worker died or handed it back)
      ├──────────────────► cancelled
      └──────────────────► failed      (no attempts left)

"Please stop" is the flag `cancel_requested`, not a status: a status is a fact, a wish is a flag.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from .plan import Plan
from .request import GenerationRequest
from .video import Video


class JobStatus(StrEnum):
    """What is known of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})

TRANSITIONS: frozenset[tuple[JobStatus, JobStatus]] = frozenset(
    {
        (JobStatus.QUEUED, JobStatus.RUNNING),
        (JobStatus.QUEUED, JobStatus.CANCELLED),
        (JobStatus.QUEUED, JobStatus.FAILED),
        (JobStatus.RUNNING, JobStatus.QUEUED),
        (JobStatus.RUNNING, JobStatus.SUCCEEDED),
        (JobStatus.RUNNING, JobStatus.FAILED),
        (JobStatus.RUNNING, JobStatus.CANCELLED),
    }
)


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed, as told to its client."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job as the store has it. All instants are aware UTC."""

    id: str
    #: In order of arrival, from 1: the id that vendors show whose ids are whole numbers.
    number: int
    status: JobStatus
    request: GenerationRequest
    plan: Plan
    cancel_requested: bool
    #: Whole percent; only rises within an attempt, and is 100 only when the file can be fetched.
    progress: int
    #: What it is doing now, such as "denoise"; empty while queued.
    stage: str
    #: How often a worker has started it.
    attempt: int
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: When its files go, which is known once it has ended; None keeps them.
    expires_at: datetime | None = None
    #: When they were found to be gone.
    expired_at: datetime | None = None
    #: Whether their removal has begun, which is never taken back: some may be gone.
    is_being_removed: bool = False
    error: JobError | None = None
    #: Those that were made, by their index; a job that has succeeded has at least one.
    videos: tuple[Video, ...] = ()
    #: What the worker chose and measured: automatic choices with reasons, seconds by stage.
    details: dict[str, Any] | None = None
    #: Whose job it is; empty where the server has no keys.
    key_id: str = ""
    #: Whether its client has asked about it, and so knows its id.
    is_read: bool = False
    #: Credits that were set aside for it; None if its key is not counted.
    price: int | None = None
    #: What of them was paid, once it has ended.
    charged: int | None = None

    @property
    def video(self) -> Video | None:
        """The first one."""
        return self.videos[0] if self.videos else None

    def video_at(self, index: int) -> Video | None:
        """The one of this index; None if it has not been made."""
        return next((video for video in self.videos if video.index == index), None)

    @property
    def failed_videos(self) -> dict[int, JobError]:
        """Why videos of this job were not made, although others were; by index."""
        failed = (self.details or {}).get("failed_videos", ())
        return {values["index"]: JobError(values["code"], values["message"]) for values in failed}

    @property
    def enhanced_prompts(self) -> tuple[str, ...]:
        """What a language model has written in the place of the texts that the model would read; empty if nothing (yet)."""
        return tuple((self.details or {}).get("enhanced_prompts", ())) or self.plan.enhanced_prompts

    @property
    def settled(self) -> tuple[tuple[str, str], ...]:
        """What an earlier try chose that its pictures depend on; see `Plan.settled`."""
        return tuple((self.details or {}).get("settled", {}).items())

    @property
    def enhanced_prompt(self) -> str | None:
        """The same as one text."""
        return " / ".join(self.enhanced_prompts) or None

    def is_expired(self, now: datetime) -> bool:
        """Whether its files are given out no more: their time is over, or some are gone, whatever this clock says."""
        if self.is_being_removed or self.expired_at is not None:
            return True
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A worker's right to a job until `expires_at`; every later write shows the token, and a stale one is refused."""

    job: Job
    token: int
    expires_at: datetime
    #: Estimated, on the device that it was claimed for; None if that is not known.
    expected_seconds: float | None = None

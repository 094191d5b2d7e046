"""How this dialect answers, as far as settings decide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request

from vitascope.domain.job import Job, JobStatus

StatusNames = Literal["openai", "ezmodel"]

NAMES: dict[StatusNames, dict[JobStatus, str]] = {
    # the only four that the vendor's clients know: any other makes their polling stop as if the video were done
    "openai": {
        JobStatus.QUEUED: "queued",
        JobStatus.RUNNING: "in_progress",
        JobStatus.SUCCEEDED: "completed",
        JobStatus.FAILED: "failed",
        JobStatus.CANCELLED: "failed",
    },
    "ezmodel": {
        JobStatus.QUEUED: "pending",
        JobStatus.RUNNING: "processing",
        JobStatus.SUCCEEDED: "completed",
        JobStatus.FAILED: "failed",
        JobStatus.CANCELLED: "failed",
    },
}


@dataclass(frozen=True, slots=True)
class Manner:
    """What the settings of the topic `openai` say."""

    status_names: StatusNames = "openai"
    #: Form of the replies of `/v1/video/generations`.
    generations: Literal["flat", "wrapped"] = "flat"
    #: How long `/v1/videos/sync` waits.
    sync_seconds: float = 540.0

    def status(self, job: Job) -> str:
        """Return the name of a job's status."""
        return NAMES[self.status_names][job.status]


DEFAULT = Manner()


def manner_of(request: Request) -> Manner:
    """Return what the app was made with."""
    manner: Manner = request.app.state.openai
    return manner

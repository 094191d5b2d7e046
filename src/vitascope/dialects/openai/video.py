"""Answers in the vendor's form: the video object, the list, the error envelope."""

from __future__ import annotations

import dataclasses
from typing import Any

from starlette.responses import JSONResponse

from vitascope.dialects._http import retry_headers, status_of
from vitascope.domain.errors import (
    InvalidParameter,
    JobNotFound,
    QueueFull,
    UnknownModel,
    VitascopeError,
)
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.webhook import EventType

PREFIX = "video_"

POLL_AFTER_MS = 500
"""The vendor's SDK keeps the first value that it sees."""

#: The only four names that the vendor's clients know; any other makes their polling stop as if the video were done.
STATUS = {
    JobStatus.QUEUED: "queued",
    JobStatus.RUNNING: "in_progress",
    JobStatus.SUCCEEDED: "completed",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "failed",
}


def video_object(job: Job) -> dict[str, Any]:
    """Show a job as the vendor shows a video: all keys are always there."""
    return {
        "id": PREFIX + job.id,
        "object": "video",
        "model": job.request.model,
        "status": STATUS[job.status],
        "progress": job.progress,
        "created_at": int(job.created_at.timestamp()),
        "completed_at": None if job.finished_at is None else int(job.finished_at.timestamp()),
        "expires_at": _expires_at(job),
        "prompt": job.request.prompt,
        "size": f"{job.plan.width}x{job.plan.height}",
        "seconds": f"{round(job.plan.duration_seconds, 3):g}",
        "remixed_from_video_id": None if job.request.source is None else PREFIX + job.request.source,
        "error": _job_error(job),
        # ours: the SDKs keep what they do not know
        "fps": job.plan.fps,
        "num_frames": job.plan.num_frames,
        "seed": job.plan.seed,
        "user": job.request.user,
        "metadata": _metadata(job),
    }


def _expires_at(job: Job) -> int | None:
    """The vendor's is about the file that can be downloaded: without one there is none."""
    return int(job.expires_at.timestamp()) if job.video is not None and job.expires_at is not None else None


def webhook_body(event: EventType, job: Job) -> dict[str, Any]:
    """Tell that a job has ended, and no more than whose: the receiver asks for the rest.

    The vendor's own form; `timestamp` and `track_id` are ours, the first as Standard Webhooks asks for it.
    """
    assert job.finished_at is not None
    data: dict[str, Any] = {"id": PREFIX + job.id}
    if job.request.track_id is not None:
        data["track_id"] = job.request.track_id
    return {
        "id": f"evt_{job.id}",
        "object": "event",
        "created_at": int(job.finished_at.timestamp()),
        "type": event.value,
        "timestamp": job.finished_at.isoformat(),
        "data": data,
    }


def _job_error(job: Job) -> dict[str, str] | None:
    if job.status is JobStatus.CANCELLED:
        return {"code": "cancelled", "message": "The video was cancelled."}
    if job.error is None:
        return None
    return {"code": job.error.code, "message": job.error.message}


def _metadata(job: Job) -> dict[str, Any]:
    """The client's own keys, the two that other servers of this API add, and what was decided here."""
    details = job.details or {}
    decided = {
        "model": job.plan.model,
        "stage": job.stage,
        "attempt": job.attempt,
        "choices": details.get("choices") or [dataclasses.asdict(choice) for choice in job.plan.choices],
        "seconds_by_stage": details.get("seconds") or {},
    }
    return {"fps": job.plan.fps, "seed": job.plan.seed, **job.request.metadata, "vitascope": decided}


def video_response(job: Job) -> JSONResponse:
    headers = {} if job.status.is_terminal else {"openai-poll-after-ms": str(POLL_AFTER_MS)}
    return JSONResponse(video_object(job), headers=headers)


def error_response(error: VitascopeError) -> JSONResponse:
    """Show an error in the vendor's envelope."""
    status = status_of(error)
    kind = "server_error" if status >= 500 else "invalid_request_error"
    if isinstance(error, QueueFull):
        kind = "rate_limit_error"
    code = "video_not_found" if isinstance(error, JobNotFound) else error.code
    message = error.message if status < 500 else type(error)().message  # details of ours are for the log
    if error.hint and status < 500:
        message = f"{message} ({error.hint})"
    return envelope(status, message, kind=kind, code=code, param=_param(error), headers=retry_headers(error))


def _param(error: VitascopeError) -> str | None:
    if isinstance(error, InvalidParameter):
        return error.parameter
    return "model" if isinstance(error, UnknownModel) else None


def envelope(
    status: int,
    message: str,
    *,
    code: str,
    kind: str = "invalid_request_error",
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Make an error answer."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status_code=status, headers=headers)

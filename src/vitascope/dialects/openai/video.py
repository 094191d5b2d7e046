"""Answers in the vendor's form: the video object, the list, the error envelope."""

from __future__ import annotations

import dataclasses
from typing import Any

from starlette.responses import JSONResponse

from vitascope.domain.errors import (
    BodyTooLarge,
    ForbiddenOrigin,
    InvalidParameter,
    JobConflict,
    JobNotFound,
    QueueFull,
    RequestError,
    StoreUnavailable,
    UnknownModel,
    UnsupportedContentType,
    VideoFailed,
    VideoNotReady,
    VitascopeError,
)
from vitascope.domain.job import Job, JobStatus

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

#: Status, type and code by error; every other RequestError is 400, every other error 500, with its own code.
_ERRORS: dict[type[VitascopeError], tuple[int, str, str]] = {
    ForbiddenOrigin: (403, "invalid_request_error", ForbiddenOrigin.code),
    JobNotFound: (404, "invalid_request_error", "video_not_found"),
    VideoNotReady: (404, "invalid_request_error", VideoNotReady.code),
    VideoFailed: (404, "invalid_request_error", VideoFailed.code),
    JobConflict: (409, "invalid_request_error", JobConflict.code),
    BodyTooLarge: (413, "invalid_request_error", BodyTooLarge.code),
    UnsupportedContentType: (415, "invalid_request_error", UnsupportedContentType.code),
    QueueFull: (429, "rate_limit_error", QueueFull.code),
    StoreUnavailable: (503, "server_error", StoreUnavailable.code),
}

STORE_RETRY_SECONDS = 2


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
        "expires_at": None,
        "prompt": job.request.prompt,
        "size": f"{job.plan.width}x{job.plan.height}",
        "seconds": f"{round(job.plan.duration_seconds, 3):g}",
        "remixed_from_video_id": None,
        "error": _job_error(job),
        # ours: the SDKs keep what they do not know
        "fps": job.plan.fps,
        "num_frames": job.plan.num_frames,
        "seed": job.plan.seed,
        "user": job.request.user,
        "metadata": _metadata(job),
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
    fallback = (
        (400, "invalid_request_error", error.code)
        if isinstance(error, RequestError)
        else (500, "server_error", error.code)
    )
    status, kind, code = _ERRORS.get(type(error), fallback)
    headers = {}
    if isinstance(error, QueueFull):
        headers["retry-after"] = str(error.retry_after_seconds)
    elif isinstance(error, StoreUnavailable):
        headers["retry-after"] = str(STORE_RETRY_SECONDS)
    message = error.message if status < 500 else type(error)().message  # details of ours are for the log
    if error.hint and status < 500:
        message = f"{message} ({error.hint})"
    return envelope(status, message, kind=kind, code=code, param=_param(error), headers=headers)


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

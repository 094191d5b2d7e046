"""Answers in the vendor's form: `{code, message, data}`, whatever the call; the task; errors by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse

from vitascope.dialects._http import retry_headers, status_of
from vitascope.domain import errors
from vitascope.domain.errors import InvalidApiKey, VitascopeError
from vitascope.domain.job import Job, JobStatus

STATUS = {
    JobStatus.QUEUED: "pending",
    JobStatus.RUNNING: "running",
    JobStatus.SUCCEEDED: "succeeded",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "failed",
}

UNCOUNTED_CREDITS = 1_000_000_000
"""What a key has that is not counted: programs that look before they send a task would stop at none."""

NO_AUTH = -1

CODES: Mapping[type[VitascopeError], int] = {
    InvalidApiKey: NO_AUTH,
    errors.InvalidParameter: 40001,
    errors.UnknownModel: 40002,
    errors.ContentRejected: 40003,
    errors.UnreadableBody: 40004,
    errors.InsufficientCredits: 40201,
    errors.PermissionDenied: 40301,
    errors.ForbiddenOrigin: 40302,
    errors.StorageLimitReached: 40303,
    errors.JobNotFound: 40401,
    errors.BodyTooSlow: 40801,
    errors.IdempotencyConflict: 40901,
    errors.BodyTooLarge: 41301,
    errors.UnsupportedContentType: 41501,
    errors.RateLimitExceeded: 42901,
    errors.QueueFull: 42902,
    errors.StoreUnavailable: 50301,
    errors.StorageUnavailable: 50302,
    errors.DiskFull: 50303,
    errors.ModerationUnavailable: 50304,
}
"""Of `code`. What is not here, which these calls do not answer with, is HTTP's status with two zeros behind it."""

SAID_WITH_200 = frozenset({400, 402, 404, 409})
"""Statuses that are told by `code` alone, beside HTTP 200, as the vendor says of most errors."""


def success(data: Mapping[str, Any], *, message: str = "ok") -> JSONResponse:
    """Answer with what was asked for."""
    return JSONResponse({"code": 0, "message": message, "data": data})


def error_response(error: VitascopeError) -> JSONResponse:
    """Show an error in the vendor's envelope."""
    status = status_of(error)
    if isinstance(error, InvalidApiKey):
        message = "no auth"
    elif isinstance(error, errors.JobNotFound):
        message = "There is no such task."
    elif status < 500:
        message = f"{error.message} ({error.hint})" if error.hint else error.message
    else:
        message = (type(error).__doc__ or "").split("\n", 1)[0]  # details of ours are for the log
    is_logical = status in SAID_WITH_200 or isinstance(error, errors.StorageLimitReached)
    return JSONResponse(
        {"code": code_of(error), "message": message, "data": None},
        status_code=200 if is_logical else status,
        headers=retry_headers(error),
    )


def code_of(error: VitascopeError) -> int:
    """Return an error's number: never 0."""
    return CODES.get(type(error), 100 * status_of(error))


def task_object(job: Job, link: Callable[[int], str]) -> dict[str, Any]:
    """Show a job as the vendor does: all keys are there from the start.

    Args:
        job: which.
        link: makes an address of a video that needs no key, by its index.
    """
    status, reason = _state(job)
    is_there = status == "succeeded"
    urls = [link(video.index) for video in job.videos] if is_there else []
    pids = [f"s_{job.id}" if index == 0 else f"s_{job.id}_{index}" for index in range(len(urls))]
    return {
        "status": status,
        "progress": job.progress,
        "result_url": urls[0] if urls else "",
        "result_urls": urls,
        "failure_reason": reason,
        "error_message": reason or None,
        "credits_refunded": _is_refunded(job),
        "refund_trans_no": None,
        "result_pid": pids[0] if pids else "",
        "result_pids": pids,
        "metadata": {"remixTargetId": None, "characters": []},
    }


def _state(job: Job) -> tuple[str, str]:
    """Return the status, and what went wrong; nothing if nothing did."""
    if job.status is JobStatus.SUCCEEDED and job.is_expired(datetime.now(UTC)):
        return "failed", "The video was made, but is not kept any more."
    if job.status is JobStatus.CANCELLED:
        return "failed", "The task was cancelled."
    return STATUS[job.status], "" if job.error is None else job.error.message


def _is_refunded(job: Job) -> bool:
    """Whether the job has ended and its key, which is counted, has got some of its price back."""
    return job.status.is_terminal and job.price is not None and (job.charged or 0) < job.price

"""Answers and webhooks in the vendor's form: the job, the error envelope, the event."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse

from vitascope.dialects._http import retry_headers, status_of
from vitascope.domain.errors import (
    ContentRejected,
    InvalidParameter,
    VideoExpired,
    VideoFailed,
    VideoNotReady,
    VitascopeError,
    shorten,
)
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.secret import Secret
from vitascope.domain.webhook import EventType
from vitascope.service.links import Link

STATUS = {
    JobStatus.QUEUED: "pending",
    JobStatus.RUNNING: "in_progress",
    JobStatus.SUCCEEDED: "completed",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "cancelled",
}

MAX_FLAGGED_CHARS = 100
"""Of a text that was refused, as the vendor documents it."""

USAGE = {"cost": 0.0, "is_byok": False}
"""In USD: the hardware is the operator's own, and nothing is charged."""


def job_object(job: Job, base_url: str, link: Callable[[int], Link]) -> dict[str, Any]:
    """Show a job as the vendor does: what is not known yet is left out.

    Args:
        job: the job.
        base_url: with what addresses begin.
        link: makes an address of a video that needs no key, by its index.
    """
    status, error = _state(job)
    shown: dict[str, Any] = {"id": job.id, "polling_url": _url(base_url, job), "status": status}
    if error is not None:
        shown["error"] = error
    if status == "completed":
        links = [link(video.index) for video in job.videos]
        shown["unsigned_urls"] = _unsigned_urls(base_url, job)
        shown["urls"] = [one.url for one in links]
        shown["expires_at"] = min(int(one.expires_at.timestamp()) for one in links)
        shown["usage"] = USAGE
    return shown


def _state(job: Job) -> tuple[str, str | None]:
    """Return the status, and what went wrong."""
    if job.status is JobStatus.SUCCEEDED and job.is_expired(datetime.now(UTC)):
        return "expired", "The video is not kept any more"
    return STATUS[job.status], _error_of(job)


def _error_of(job: Job) -> str | None:
    if job.status is JobStatus.CANCELLED:
        return "Job was cancelled"
    return None if job.error is None else job.error.message


def _url(base_url: str, job: Job) -> str:
    return f"{base_url.rstrip('/')}/api/v1/videos/{job.id}"


def _unsigned_urls(base_url: str, job: Job) -> list[str]:
    return [f"{_url(base_url, job)}/content?index={video.index}" for video in job.videos]


def error_response(error: VitascopeError) -> JSONResponse:
    """Show an error in the vendor's envelope; `metadata` is ours."""
    status = _status_of(error)
    message = error.message if status < 500 else type(error)().message  # details of ours are for the log
    if error.hint and status < 500:
        message = f"{message} ({error.hint})"
    metadata: dict[str, Any] = {"code": error.code}
    if isinstance(error, InvalidParameter):
        metadata["parameter"] = error.parameter
    if isinstance(error, ContentRejected):
        flagged = shorten(error.value, MAX_FLAGGED_CHARS)
        metadata |= {"parameter": error.parameter, "reasons": list(error.reasons), "flagged_input": flagged}
    return _envelope(status, message, metadata, retry_headers(error))


def _status_of(error: VitascopeError) -> int:
    if isinstance(error, VideoNotReady | VideoFailed):
        return 400
    if isinstance(error, ContentRejected):
        return 403
    return 410 if isinstance(error, VideoExpired) else status_of(error)


def _envelope(
    status: int, message: str, metadata: dict[str, Any], headers: dict[str, str] | None = None
) -> JSONResponse:
    problem = {"code": status, "message": message, "metadata": metadata}
    return JSONResponse({"error": problem}, status_code=status, headers=headers)


def refuse_range(status: int) -> JSONResponse:
    """Answer a Range header that cannot be followed."""
    message = "The file has no such bytes." if status == 416 else "The Range header cannot be read."
    return _envelope(status, message, {"code": "invalid_range"})


def webhook_body(_event: EventType, job: Job) -> dict[str, Any]:
    """Tell how a job has ended."""
    assert job.finished_at is not None
    status = STATUS[job.status]
    data: dict[str, Any] = {
        "id": job.id,
        "status": status,
        "generation_id": None,
        "model": job.request.model,
    }
    if job.status is JobStatus.SUCCEEDED:
        data |= {"unsigned_urls": _unsigned_urls(job.request.base_url, job), "usage": USAGE}
    else:
        data["error"] = _error_of(job)
    told = job.finished_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"type": f"video.generation.{status}", "created_at": told, "data": data}


def webhook_headers(body: bytes, now: datetime, good: Sequence[Secret]) -> Mapping[str, str]:
    """Sign as the vendor does, beside what every webhook has: the newest secret's signature is the first."""
    data = json.loads(body)["data"]
    time = int(now.timestamp())
    signed = f"{time},".encode() + body
    marks = [f"v1={hmac.new(secret.value.encode(), signed, 'sha256').hexdigest()}" for secret in good]
    return {
        "x-openrouter-idempotency-key": f"{data['id']}-{data['status']}",
        "x-openrouter-signature": ",".join([f"t={time}", *marks]),
    }

"""Answers in the vendor's form: the video object, the list, the error envelope."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.dialects._http import retry_headers, status_of
from vitascope.domain.errors import (
    ContentRejected,
    InsufficientCredits,
    InvalidParameter,
    JobNotFound,
    QueueFull,
    StorageError,
    UnknownModel,
    VideoExpired,
    VitascopeError,
)
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.webhook import EventType
from vitascope.service import Service

from .create import NOTES
from .embedded import JSONWithFiles
from .manner import DEFAULT, Manner, manner_of

PREFIX = "video_"

MIN_POLL_MS, MAX_POLL_MS, UNKNOWN_POLL_MS = 500, 2000, 1000
"""When to ask again. The vendor's SDK keeps the first value that it sees; without one it asks each second."""

CODES = {
    JobNotFound.code: "video_not_found",
    ContentRejected.code: "moderation_blocked",
    InsufficientCredits.code: "insufficient_quota",
}
"""The vendor's names of errors, where they are not ours."""

POLL_SHARE = 0.1
"""Of the expected time: who asks again after so much of it learns of the end that much too late at most."""


def job_id_of(video_id: str) -> str:
    """Return the id of the job that the client knows as this video.

    Raises:
        JobNotFound: no video has such an id.
    """
    if not video_id.startswith(PREFIX):
        raise JobNotFound
    return video_id.removeprefix(PREFIX)


def video_object(job: Job, manner: Manner = DEFAULT) -> dict[str, Any]:
    """Show a job as the vendor shows a video: all keys are always there. Without its files' addresses."""
    notes = job.request.notes.get(NOTES, {})
    return {
        "id": PREFIX + job.id,
        "object": "video",
        "model": job.request.model,
        "status": manner.status(job),
        "progress": job.progress,
        "created_at": int(job.created_at.timestamp()),
        "completed_at": None if job.finished_at is None else int(job.finished_at.timestamp()),
        "expires_at": _expires_at(job),
        "prompt": notes.get("prompt", job.request.prompt),
        "size": f"{job.plan.width}x{job.plan.height}",
        "seconds": notes.get("seconds") or f"{round(job.plan.duration_seconds, 3):g}",
        "remixed_from_video_id": None if job.request.source is None else PREFIX + job.request.source,
        "error": job_error(job),
        # ours: the SDKs keep what they do not know
        "fps": job.plan.fps,
        "num_frames": job.plan.num_frames,
        "seed": job.plan.seed,
        "n": job.plan.num_videos,
        "user": job.request.user,
        "url": None,
        "data": [],
        "metadata": _metadata(job),
    }


def _expires_at(job: Job) -> int | None:
    """Tell when the file goes; before the job has ended when it would go if it were ready now.

    The time counts from the end, so this never promises more than is kept. A job without a file has none.
    """
    if job.status is JobStatus.SUCCEEDED:
        return None if job.expires_at is None else int(job.expires_at.timestamp())
    if job.status.is_terminal or job.request.expires_in_seconds is None:
        return None
    kept, now = timedelta(seconds=job.request.expires_in_seconds), datetime.now(UTC)
    start = job.created_at if job.created_at + kept > now else now
    return int((start + kept).timestamp())


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


def job_error(job: Job) -> dict[str, str] | None:
    """Return why there is no video; None if there is one, or may be."""
    if job.status is JobStatus.CANCELLED:
        return {"code": "cancelled", "message": "The video was cancelled."}
    if job.error is None:
        return None
    return {"code": CODES.get(job.error.code, job.error.code), "message": job.error.message}


def _metadata(job: Job) -> dict[str, Any]:
    """The client's own keys, the two that other servers of this API add, and what was decided here."""
    details = job.details or {}
    decided = {
        "model": job.plan.model,
        "native_size": f"{job.plan.native_width}x{job.plan.native_height}",
        "native_fps": job.plan.native_fps,
        "native_num_frames": job.plan.native_num_frames,
        "fit": job.plan.fit,
        "num_inference_steps": job.plan.num_inference_steps,
        "stage": job.stage,
        "attempt": job.attempt,
        "choices": details.get("choices") or [dataclasses.asdict(choice) for choice in job.plan.choices],
        "seconds_by_stage": details.get("seconds") or {},
    }
    if job.enhanced_prompt is not None:
        decided["enhanced_prompt"] = job.enhanced_prompt
    if job.failed_videos:
        decided["failed_videos"] = [
            {"index": index, "code": error.code, "message": error.message}
            for index, error in job.failed_videos.items()
        ]
    return {"fps": job.plan.fps, "seed": job.plan.seed, **job.request.metadata, "vitascope": decided}


async def video_response(request: Request, job: Job) -> Response:
    """Answer with a job: when to ask again, or where its files are; with their data where its client has asked for that."""
    body = shown(request, job)
    if not job.status.is_terminal:
        return JSONResponse(body, headers=await poll_headers(request, job))
    wanted = job.request.notes.get(NOTES, {}).get("response_format")
    if body["data"] and wanted == "b64_json":
        # without them what is known of the job is true all the same, and the files' own addresses say what is wrong
        with contextlib.suppress(StorageError, VideoExpired):
            return await _with_files(request, job, body)
    return JSONResponse(body)


def shown(request: Request, job: Job) -> dict[str, Any]:
    """Show a job to who asks for it, with its files' addresses."""
    base_url = _http.base_url_of(request)
    return linked(job, _http.desk_of(request).service, manner_of(request), base_url)


def linked(job: Job, service: Service, manner: Manner, base_url: str) -> dict[str, Any]:
    """Show a job with its files' addresses: signed links, which anyone can fetch for a while."""
    body = video_object(job, manner)
    if job.video is not None and not service.jobs.is_expired(job):
        links = [
            (video.index, service.results.link_for(job, base_url, video.index).url) for video in job.videos
        ]
        body["url"] = links[0][1]
        body["data"] = [{"index": index, "url": url} for index, url in links]
    return body


async def poll_headers(request: Request, job: Job) -> dict[str, str]:
    """Tell when to ask for an unfinished job again."""
    if job.status.is_terminal:
        return {}
    eta = (await _http.desk_of(request).expectation(job)).eta_seconds
    after = UNKNOWN_POLL_MS if eta is None else int(eta * 1000 * POLL_SHARE)
    return {"openai-poll-after-ms": str(min(max(after, MIN_POLL_MS), MAX_POLL_MS))}


async def _with_files(request: Request, job: Job, body: dict[str, Any]) -> Response:
    """Put the files themselves in the place of their addresses."""
    service = _http.desk_of(request).service
    files = [
        await asyncio.to_thread(service.results.open_video, job, entry["index"]) for entry in body["data"]
    ]
    data = [
        {"index": entry["index"], "b64_json": file} for entry, file in zip(body["data"], files, strict=True)
    ]
    return JSONWithFiles({**body, "data": data})


def error_response(error: VitascopeError) -> JSONResponse:
    """Show an error in the vendor's envelope."""
    status, problem = problem_of(error)
    return JSONResponse({"error": problem}, status_code=status, headers=retry_headers(error))


def problem_of(error: VitascopeError) -> tuple[int, dict[str, Any]]:
    """Tell an error's status and what the vendor's envelope holds."""
    status = status_of(error)
    kind = "server_error" if status >= 500 else "invalid_request_error"
    if isinstance(error, QueueFull):
        kind = "rate_limit_error"
    if isinstance(error, InsufficientCredits):  # as OpenAI says that an account has nothing left
        status, kind = 429, "insufficient_quota"
    code = CODES.get(error.code, error.code)
    message = error.message if status < 500 else type(error)().message  # details of ours are for the log
    if error.hint and status < 500:
        message = f"{message} ({error.hint})"
    return status, {"message": message, "type": kind, "param": _param(error), "code": code}


def _param(error: VitascopeError) -> str | None:
    if isinstance(error, InvalidParameter | ContentRejected):
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

"""POST /v1/videos/sync: vLLM-Omni's way to have the file as the answer."""

from __future__ import annotations

import json
import time

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.errors import InvalidParameter, StorageError
from vitascope.domain.job import Job, JobStatus
from vitascope.service import StoredVideo

from . import schema
from .create import Order
from .files import refuse_range
from .making import make_job
from .manner import manner_of
from .video import PREFIX, envelope, job_error, poll_headers, shown

_binary = {"schema": {"type": "string", "format": "binary"}}

RESPONSES: schema.Responses = {
    200: {"description": "The file.", "content": {"video/mp4": _binary, "image/gif": _binary}},
    202: {
        "model": schema.Video,
        "description": "It takes longer than this server lets a client wait (`openai.sync_seconds`): ask for the video by its id.",
    },
    **schema.ERRORS,
}


def add_routes(router: APIRouter) -> None:
    """Add what this module answers."""
    router.add_api_route(
        "/videos/sync",
        create_and_wait,
        methods=["POST"],
        response_class=Response,
        responses=RESPONSES,
        openapi_extra=schema.CREATE,
    )


async def create_and_wait(request: Request) -> Response:
    """Make a video and answer with its file. What goes wrong once it was begun is no status that clients try again after."""
    started_at = time.perf_counter()
    job = await make_job(request, _one_file)
    job = await _http.ended(request, job, started_at + manner_of(request).sync_seconds)
    headers = {"x-video-id": PREFIX + job.id, "x-model": job.plan.model}
    if job.status.is_terminal and job.status is not JobStatus.SUCCEEDED:
        problem = job_error(job) or {"code": "cancelled", "message": "The video was cancelled."}
        return envelope(
            422, problem["message"], code=problem["code"], kind="generation_error", headers=headers
        )
    stored = await _file(request, job)
    if stored is None:
        headers |= await poll_headers(request, job)
        return JSONResponse(shown(request, job), status_code=202, headers=headers)
    answer = _http.VideoFile(stored, f"{PREFIX}{job.id}{stored.suffix}", refuse_range)
    seconds = (job.details or {}).get("seconds") or {}
    headers["x-inference-time-s"] = f"{time.perf_counter() - started_at:.3f}"
    headers["x-stage-durations"] = json.dumps(seconds, separators=(",", ":"))
    answer.headers.update(headers)
    return answer


def _one_file(order: Order) -> None:
    if order.request.num_videos > 1:
        number = order.request.num_videos
        raise InvalidParameter("num_videos", number, "an answer holds one file", nearest=1)


async def _file(request: Request, job: Job) -> StoredVideo | None:
    """Find the job's file; None if it is not there, or cannot be had now."""
    if job.status is not JobStatus.SUCCEEDED:
        return None
    try:
        return await _http.desk_of(request).open_video(job)
    except StorageError:
        return None

"""`/v1/video/generations`: New API's older path to the same videos, with replies of its own form.

Its documentation and its code disagree on that form; the setting `openai.generations` chooses. The fields of a request, the ids and
the files are those of `/v1/videos`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from vitascope.dialects import _http
from vitascope.domain.errors import JobNotFound, VitascopeError
from vitascope.domain.job import Job, JobStatus

from . import schema
from .making import make_job
from .manner import Manner, manner_of
from .video import PREFIX, poll_headers, problem_of, shown

WRAPPED_STATUS = {
    JobStatus.QUEUED: "QUEUED",
    JobStatus.RUNNING: "IN_PROGRESS",
    JobStatus.SUCCEEDED: "SUCCESS",
    JobStatus.FAILED: "FAILURE",
    JobStatus.CANCELLED: "FAILURE",
}

FAILED_CODE = 1
"""The documentation says that it is a number, and no more."""


def router(manner: Manner) -> APIRouter:
    """Make the routes."""
    made = APIRouter(
        tags=["New API"],
        route_class=_http.route_class(_render(manner.generations == "wrapped")),
    )
    made.add_api_route(
        "/video/generations",
        create,
        methods=["POST"],
        responses={200: {"model": schema.GenerationMade}, **schema.GENERATION_ERRORS},
        openapi_extra=schema.CREATE,
    )
    found = schema.WrappedGeneration if manner.generations == "wrapped" else schema.Generation
    made.add_api_route(
        "/video/generations/{video_id}",
        query,
        responses={200: {"model": found}, **schema.GENERATION_ERRORS},
    )
    return made


async def create(request: Request) -> JSONResponse:
    """Make a video, as `POST /v1/videos` does."""
    job = await make_job(request)
    body = shown(request, job)
    reply = {name: body[name] for name in schema.GenerationMade.model_fields if name in body}
    headers = await poll_headers(request, job)
    return JSONResponse({**reply, "task_id": body["id"]}, headers=headers)


async def query(video_id: str, request: Request) -> JSONResponse:
    """Show a video's state."""
    if not video_id.startswith(PREFIX):
        raise JobNotFound
    job = await _http.desk_of(request).find(_http.caller_of(request), video_id.removeprefix(PREFIX))
    body = shown(request, job)
    form = _wrapped if manner_of(request).generations == "wrapped" else _flat
    return JSONResponse(form(job, body), headers=await poll_headers(request, job))


def _flat(job: Job, body: dict[str, Any]) -> dict[str, Any]:
    error = body["error"]
    return {
        "task_id": body["id"],
        "status": body["status"],
        "url": body["url"] or "",
        "format": job.plan.format,
        "metadata": {
            "duration": round(job.plan.duration_seconds, 3),
            "fps": job.plan.fps,
            "width": job.plan.width,
            "height": job.plan.height,
            "seed": job.plan.seed,
        },
        "error": error and {"code": FAILED_CODE, "message": error["message"], "type": error["code"]},
        "progress": job.progress,
        "data": body["data"],
    }


def _wrapped(job: Job, body: dict[str, Any]) -> dict[str, Any]:
    def second(name: str) -> int:
        value = getattr(job, name)
        return 0 if value is None else int(value.timestamp())

    task = {
        "id": int(job.created_at.timestamp() * 1000),
        "created_at": second("created_at"),
        "updated_at": second("finished_at") or second("started_at") or second("created_at"),
        "task_id": body["id"],
        "platform": "vitascope",
        "user_id": 0,
        "group": "default",
        "channel_id": 0,
        "quota": 0,
        "action": "textGenerate" if job.plan.mode == "text" else "generate",
        "status": WRAPPED_STATUS[job.status],
        "fail_reason": body["error"]["message"] if body["error"] else "",
        "result_url": body["url"] or "",
        "submit_time": second("created_at"),
        "start_time": second("started_at"),
        "finish_time": second("finished_at"),
        "progress": f"{job.progress}%",
        "properties": {"input": body["prompt"], "origin_model_name": body["model"]},
        "data": body,
    }
    return {"code": "success", "message": "", "data": task}


def _render(is_wrapped: bool) -> Callable[[VitascopeError], JSONResponse]:
    """Errors stand at the top, where this path's clients read them; and in the envelope of its neighbours, if not wrapped."""

    def render(error: VitascopeError) -> JSONResponse:
        status, problem = problem_of(error)
        headers = _http.retry_headers(error)
        if is_wrapped:
            is_unknown = isinstance(error, JobNotFound)
            code = "task_not_exist" if is_unknown else problem["code"]
            body = {"code": code, "message": problem["message"], "data": None}
            return JSONResponse(body, status_code=400 if is_unknown else status, headers=headers)
        return JSONResponse({**problem, "error": problem}, status_code=status, headers=headers)

    return render

"""Our own API, `/api/v1`: the full vocabulary, in our words. The command line and the studio use only this.

Belongs here: jobs, models and the queue as they are, and errors with everything that is known of them.
Never here: a vendor's word.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope import __version__
from vitascope.dialects import _http
from vitascope.domain.errors import InvalidParameter, JobNotFound
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.video import Variant
from vitascope.service import Link

from . import account, added, events, gallery, keys, models, schema, storage, webhooks
from .answers import error_response, job_object, plan_object, provenance_object
from .reading import read_plan, read_request

__all__ = ["NativeDialect", "error_response"]

_NUMBER = re.compile("[0-9]{1,18}", re.ASCII)


class NativeDialect:
    """The routes.

    Args:
        has_open_gallery: whether the gallery can be read without a key.
    """

    def __init__(self, *, has_open_gallery: bool = False) -> None:
        self._has_open_gallery = has_open_gallery

    def router(self) -> APIRouter:
        """Make the routes for clients and those for operators."""
        both = APIRouter()
        both.include_router(self._for_clients())
        both.include_router(keys.router())
        both.include_router(account.router())
        both.include_router(gallery.router(is_open=self._has_open_gallery))
        both.include_router(models.router())
        both.include_router(added.router())
        both.include_router(storage.router())
        both.include_router(webhooks.router())
        return both

    def _for_clients(self) -> APIRouter:
        router = APIRouter(
            prefix="/api/v1", tags=["Vitascope"], route_class=_http.route_class(error_response)
        )
        add, errors = router.add_api_route, schema.ERRORS
        job = {200: {"model": schema.Job}, **errors}
        add("/jobs", self.create, methods=["POST"], status_code=201, responses={200: {"model": schema.Job}, 201: {"model": schema.Job}, **errors}, openapi_extra=schema.CREATE)  # fmt: skip
        add(
            "/jobs",
            self.page,
            responses={200: {"model": schema.JobPage}, **errors},
            openapi_extra=schema.PAGE,
        )
        add("/jobs/{job_id}", self.get, responses=job)
        add("/jobs/{job_id}", self.delete, methods=["DELETE"], status_code=204, responses=errors)
        add("/jobs/{job_id}/cancel", self.cancel, methods=["POST"], responses=job)
        add("/jobs/{job_id}/retry", self.retry, methods=["POST"], status_code=201, responses={201: {"model": schema.Job}, **errors})  # fmt: skip
        add(
            "/jobs/{job_id}/events",
            self.events,
            response_class=Response,
            responses={**schema.EVENTS, **errors},
        )
        add("/jobs/{job_id}/content", self.content, methods=["GET"], response_class=Response, responses={**schema.CONTENT, **errors}, openapi_extra=schema.FILE)  # fmt: skip
        add("/jobs/{job_id}/content", self.content, methods=["HEAD"], include_in_schema=False)
        add("/jobs/{job_id}/provenance", self.provenance, responses={200: {"model": schema.Provenance}, **errors}, openapi_extra=schema.FILE)  # fmt: skip
        add("/plan", self.plan, methods=["POST"], responses={200: {"model": schema.Plan}, **errors}, openapi_extra=schema.PLAN)  # fmt: skip
        add("/queue", self.queue, responses={200: {"model": schema.Queue}, **errors})
        return router

    async def create(self, request: Request) -> Response:
        """Store a job and answer with it. What cannot be made is refused before anything is stored.

        An `Idempotency-Key` names the request for a day: sent again, it answers 200 with the job that it made.
        """
        desk = _http.desk_of(request)
        fields, wanted, sent = await read_request(request)
        once = await _http.once_of(request, fields)
        caller = _http.caller_of(request)
        await desk.admit(request, once)
        if sent.has_jobs_videos:
            # looked for before those videos are: they may have gone since
            first = await desk.write(desk.service.jobs.made_before, once, caller)
            if first is not None:
                return await _shown(request, first)
            sent = await desk.with_kept(caller, sent)
        draft = desk.service.drafts.prepare(wanted, caller, sent)
        job = await desk.submit(caller, draft, once, base_url=_http.base_url_of(request))
        return await _shown(request, job, made=job.id == draft.job_id)

    async def plan(self, request: Request) -> Response:
        """Tell how a request would be made and how long it would take, or why not; nothing is stored, fetched or charged.

        What was sent with it is not read: size and length of a video are then unknown, and the choices say so.
        """
        desk = _http.desk_of(request)
        draft = await read_plan(request)
        return JSONResponse(
            plan_object(draft.plan, await desk.read(desk.service.drafts.expected_seconds, draft))
        )

    async def page(self, request: Request) -> Response:
        """List jobs."""
        desk = _http.desk_of(request)
        query = _http.Fields(dict(request.query_params))
        query.check_names(("limit", "order", "after", "status", "user"))
        limit, order = _http.limit_and_order(query, min_limit=1)
        page = await desk.read(
            desk.service.jobs.page,
            _http.caller_of(request),
            after=await _own(request, query.text("after") or "") or None,
            limit=limit,
            order=order,
            statuses=_statuses(query.text("status")),
            user=query.text("user") or None,
        )
        jobs = [await _job_object(request, job) for job in page.jobs]
        return JSONResponse({"jobs": jobs, "has_more": page.has_more})

    async def get(self, job_id: str, request: Request) -> Response:
        """Show a job. It is found by the id that any dialect showed for it."""
        desk = _http.desk_of(request)
        return await _shown(request, await desk.find(_http.caller_of(request), await _own(request, job_id)))

    async def cancel(self, job_id: str, request: Request) -> Response:
        """Cancel a job: a queued one at once, a running one within one denoising step; one that has ended stays as it is."""
        desk = _http.desk_of(request)
        return await _shown(
            request,
            await desk.write(desk.service.jobs.cancel, await _own(request, job_id), _http.caller_of(request)),
        )

    async def retry(self, job_id: str, request: Request) -> Response:
        """Make a new job of the request of one that has ended, with the same seed, and answer with the new one."""
        desk = _http.desk_of(request)
        caller = _http.caller_of(request)
        ended = await desk.find(caller, await _own(request, job_id))
        once = await _http.once_of(request, _http.Fields({}))
        await desk.admit(request, once)
        # looked for before the inputs are: they may have expired since
        first = await desk.write(desk.service.jobs.made_before, once, caller)
        if first is not None:
            return await _shown(request, first)
        draft = await asyncio.to_thread(desk.service.drafts.prepare_again, ended, caller)
        job = await desk.submit(caller, draft, once, base_url=_http.base_url_of(request))
        return await _shown(request, job, made=job.id == draft.job_id)

    async def delete(self, job_id: str, request: Request) -> Response:
        """Delete a job and its files; one that has not ended is cancelled."""
        desk = _http.desk_of(request)
        await desk.delete(_http.caller_of(request), await _own(request, job_id))
        return Response(status_code=204)

    async def events(self, job_id: str, request: Request) -> Response:
        """Follow a job as server-sent events: each change of status, progress and preview; ends after the last.

        `Last-Event-ID` resumes after the event of that number, without loss or repetition, at any web process.
        """
        desk = _http.desk_of(request)
        return events.stream(request, await desk.find(_http.caller_of(request), await _own(request, job_id)))

    async def content(self, job_id: str, request: Request) -> Response:
        """Download a file, one of the job's videos or a picture of it; understands Range, If-Range and HEAD."""
        desk = _http.desk_of(request)
        query = _http.Fields(dict(request.query_params))
        query.check_names(("index", "variant"))
        job = await desk.find(_http.caller_of(request), await _own(request, job_id))
        stored = await desk.open_video(job, *_http.file_asked(query))
        return _http.VideoFile(stored, f"{job.id}{stored.suffix}", _refuse_range)

    async def provenance(self, job_id: str, request: Request) -> Response:
        """Read back what a video, or a picture of one, says of its origin, and whether it is still true."""
        desk = _http.desk_of(request)
        query = _http.Fields(dict(request.query_params))
        query.check_names(("index", "variant"))
        job = await desk.find(_http.caller_of(request), await _own(request, job_id))
        index, variant = _http.file_asked(query)
        found = await asyncio.to_thread(desk.service.results.provenance, job, index, variant)
        return JSONResponse(provenance_object(found))

    async def queue(self, request: Request) -> Response:
        """Tell how many jobs wait and run, and how long one that came now would wait."""
        desk = _http.desk_of(request)
        stats = await desk.read(desk.service.condition.queue_stats)
        return JSONResponse(
            {
                "queued": sum(stats.queued.values()),
                "running": sum(stats.running.values()),
                "queued_by_model": stats.queued,
                "oldest_queued_seconds": round(stats.oldest_queued_seconds, 3),
                "live_workers": await desk.read(desk.service.condition.live_workers),
                "wait_seconds": await desk.newcomer_waits(),
                "version": __version__,
                "deployment": await desk.read(desk.service.condition.deployment_id),
            }
        )


async def _job_object(request: Request, job: Job) -> dict[str, Any]:
    desk = _http.desk_of(request)
    is_there = bool(job.videos) and not job.is_expired(datetime.now(UTC))
    base_url = _http.base_url_of(request)

    def link_to(index: int, variant: Variant) -> Link | None:
        return desk.service.results.link_for(job, base_url, index, variant) if is_there else None

    return job_object(job, await desk.expectation(job), link_to)


async def _shown(request: Request, job: Job, *, made: bool = False) -> JSONResponse:
    """Show a job as it stands; one that this request has made with its address."""
    answer = JSONResponse(await _job_object(request, job), status_code=201 if made else 200)
    if made:
        answer.headers["location"] = f"/api/v1/jobs/{job.id}"
    return answer


def _statuses(text: str | None) -> list[JobStatus]:
    """Read statuses that are joined by commas."""
    found: list[JobStatus] = []
    for name in text.split(",") if text else ():
        try:
            found.append(JobStatus(name.strip()))
        except ValueError:
            rule = f"it must be some of {', '.join(JobStatus)}, joined by commas"
            raise InvalidParameter("status", name.strip(), rule) from None
    return found


async def _own(request: Request, shown: str) -> str:
    """Find our id in the one that a dialect shows: with a word and an underscore before it, or the job's number."""
    if not _NUMBER.fullmatch(shown):
        return shown.rpartition("_")[2]
    desk = _http.desk_of(request)
    try:
        return (await desk.read(desk.service.jobs.numbered, int(shown), _http.caller_of(request))).id
    except JobNotFound:
        return shown  # which no job has as its id


def _refuse_range(status: int) -> Response:
    rule = "the file has no such bytes" if status == 416 else "it cannot be read as a list of byte ranges"
    return error_response(InvalidParameter("Range", "given", rule), status=status)

"""OpenAI's Videos API, `/v1/videos`, with what other servers of the same path accept beyond it.

Belongs here: that vendor's field names, objects, status names and errors. Never here: anything that another dialect needs.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.access import Caller
from vitascope.domain.errors import InvalidParameter, JobNotFound
from vitascope.domain.job import Job
from vitascope.service import Draft, Sent, Service

from . import derived, files, schema, webhook_endpoints
from .create import Order, to_order
from .files import refuse_range
from .video import PREFIX, envelope, error_response, video_object, video_response, webhook_body

__all__ = ["OpenAIDialect", "envelope", "error_response", "refuse_range", "webhook_body"]


class OpenAIDialect:
    """The routes."""

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=_http.route_class(error_response))
        add, errors = router.add_api_route, schema.ERRORS
        videos, video = "/videos", "/videos/{video_id}"
        found = {200: {"model": schema.Video}, **errors}
        deleted = {200: {"model": schema.VideoDeleted}, **errors}
        add(videos, self.create, methods=["POST"], responses=found, openapi_extra=schema.CREATE)
        add(
            videos,
            self.page,
            responses={200: {"model": schema.VideoList}, **errors},
            openapi_extra=schema.LIST,
        )
        add(video, self.retrieve, responses=found)
        add(video, self.delete, methods=["DELETE"], responses=deleted)
        derived.add_to(router)
        content = {"responses": schema.CONTENT_RESPONSES, "openapi_extra": schema.CONTENT}
        add(f"{video}/content", self.content, methods=["GET"], response_class=Response, **content)  # type: ignore[arg-type]
        add(f"{video}/content", self.content, methods=["HEAD"], include_in_schema=False)
        files.add_routes(router)
        add("/models", self.models, responses={200: {"model": schema.ModelList}, **errors})
        router.include_router(webhook_endpoints.router())
        return router

    async def create(self, request: Request) -> Response:
        """Make a video: answers at once, with a job that survives whatever happens to the server."""
        desk = _http.desk_of(request)
        fields = await _http.read_body(request, desk.max_body_bytes)
        order = await _http.in_thread_if_large(
            fields.num_bytes, lambda: to_order(fields, desk.service.spec_of_vendor)
        )
        once = await _http.once_of(request, fields)
        caller = _http.caller_of(request)
        await desk.admit(request, once)
        try:
            draft = _prepare(desk.service, order, caller)
            job = await desk.submit(caller, draft, once, base_url=_http.base_url_of(request))
        except InvalidParameter as error:
            raise order.in_clients_words(error) from None
        return video_response(job)

    async def page(self, request: Request) -> Response:
        """List videos."""
        desk = _http.desk_of(request)
        query = _http.Fields(dict(request.query_params))
        limit, order = _http.limit_and_order(query, min_limit=0)
        after = _after(query.text("after"))
        page = await desk.read(
            desk.service.page, _http.caller_of(request), after=after, limit=limit, order=order
        )
        data = [video_object(job) for job in page.jobs]
        ends = (
            {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
            if data
            else {"first_id": None, "last_id": None}
        )
        return JSONResponse({"object": "list", "data": data, **ends, "has_more": page.has_more})

    async def retrieve(self, video_id: str, request: Request) -> Response:
        """Show a video's state."""
        return video_response(await _job(request, video_id))

    async def delete(self, video_id: str, request: Request) -> Response:
        """Delete a video and its file; one that has not ended is cancelled."""
        await _http.desk_of(request).delete(_http.caller_of(request), _job_id(video_id))
        return JSONResponse({"id": video_id, "object": "video.deleted", "deleted": True})

    async def content(self, video_id: str, request: Request) -> Response:
        """Download the file; understands Range, If-Range and HEAD."""
        variant = request.query_params.get("variant") or "video"
        job = await _job(request, video_id)
        if variant != "video":
            rule = "this server makes no thumbnails or spritesheets yet"
            raise InvalidParameter("variant", variant, rule, nearest="video")
        stored = await _http.desk_of(request).open_video(job)
        return _http.VideoFile(stored, f"{video_id}{stored.suffix}", refuse_range)

    async def models(self, request: Request) -> Response:
        """List the models that are served, the default one first."""
        specs = _http.desk_of(request).service.models(_http.caller_of(request))
        data = [
            {
                "id": spec.id,
                "object": "model",
                "created": 0,
                "owned_by": "vitascope",
                "title": spec.title,
                "aliases": list(spec.aliases),
            }
            for spec in specs
        ]
        return JSONResponse({"object": "list", "data": data})


def _prepare(service: Service, order: Order, caller: Caller) -> Draft:
    try:
        return service.prepare(order.request, caller, Sent(image=order.image), order.choices)
    except InvalidParameter as error:
        shorter = order.shortened(error)
        if shorter is None:
            raise
        return service.prepare(shorter.request, caller, Sent(image=shorter.image), shorter.choices)


async def _job(request: Request, video_id: str) -> Job:
    return await _http.desk_of(request).find(_http.caller_of(request), _job_id(video_id))


def _job_id(video_id: str) -> str:
    if not video_id.startswith(PREFIX):
        raise JobNotFound
    return video_id.removeprefix(PREFIX)


def _after(video_id: str | None) -> str | None:
    if not video_id:
        return None
    if not video_id.startswith(PREFIX):
        raise InvalidParameter("after", video_id, "no video has this id")
    return video_id.removeprefix(PREFIX)

"""OpenAI's Videos API, `/v1/videos`, with what other servers of the same path accept beyond it.

Belongs here: that vendor's field names, objects, status names and errors. Never here: anything that another dialect needs.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.job import Job

from . import batches, characters, derived, files, generations, schema, sync, webhook_endpoints
from .batches import VideosBatch
from .files import refuse_range
from .making import make_job
from .manner import DEFAULT, Manner
from .schema import ERRORS
from .video import PREFIX, envelope, error_response, job_id_of, shown, video_response, webhook_body

__all__ = [
    "ERRORS",
    "Manner",
    "OpenAIDialect",
    "VideosBatch",
    "envelope",
    "error_response",
    "refuse_range",
    "webhook_body",
]


class OpenAIDialect:
    """The routes.

    Args:
        manner: how they answer; what each request needs of it stands in the app's state as `openai`.
    """

    def __init__(self, manner: Manner = DEFAULT) -> None:
        self._manner = manner

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
        sync.add_routes(router)
        derived.add_to(router)
        characters.add_routes(router)
        add(video, self.retrieve, responses=found)
        add(video, self.delete, methods=["DELETE"], responses=deleted)
        content = {"responses": schema.CONTENT_RESPONSES, "openapi_extra": schema.CONTENT}
        add(f"{video}/content", self.content, methods=["GET"], response_class=Response, **content)  # type: ignore[arg-type]
        add(f"{video}/content", self.content, methods=["HEAD"], include_in_schema=False)
        files.add_routes(router)
        batches.add_routes(router)
        webhook_endpoints.add_routes(router)
        add("/models", self.models, responses={200: {"model": schema.ModelList}, **errors})
        router.include_router(generations.router(self._manner))
        return router

    async def create(self, request: Request) -> Response:
        """Make a video: answers at once, with a job that survives whatever happens to the server."""
        return await video_response(request, await make_job(request))

    async def page(self, request: Request) -> Response:
        """List videos."""
        desk = _http.desk_of(request)
        query = _http.Fields(dict(request.query_params))
        limit, order = _http.limit_and_order(query, min_limit=0)
        asked = query.text("after")
        after, user = _after(asked), query.text("user") or None
        caller = _http.caller_of(request)
        try:
            page = await desk.read(
                desk.service.jobs.page, caller, after=after, limit=limit, order=order, user=user
            )
        except InvalidParameter:
            raise _no_such_anchor(asked) from None
        data = [shown(request, job) for job in page.jobs]
        ends = (
            {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
            if data
            else {"first_id": None, "last_id": None}
        )
        return JSONResponse({"object": "list", "data": data, **ends, "has_more": page.has_more})

    async def retrieve(self, video_id: str, request: Request) -> Response:
        """Show a video's state."""
        return await video_response(request, await _job(request, video_id))

    async def delete(self, video_id: str, request: Request) -> Response:
        """Delete a video and its file; one that has not ended is cancelled."""
        await _http.desk_of(request).delete(_http.caller_of(request), job_id_of(video_id))
        return JSONResponse({"id": video_id, "object": "video.deleted", "deleted": True})

    async def content(self, video_id: str, request: Request) -> Response:
        """Download a file; understands Range, If-Range and HEAD.

        `variant` is the video itself, a frame of it as WebP (thumbnail), or up to 25 frames in rows of 5 as JPEG (spritesheet).
        """
        job = await _job(request, video_id)
        index, variant = _http.file_asked(_http.Fields(dict(request.query_params)))
        stored = await _http.desk_of(request).open_video(job, index, variant)
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


async def _job(request: Request, video_id: str) -> Job:
    return await _http.desk_of(request).find(_http.caller_of(request), job_id_of(video_id))


def _after(video_id: str | None) -> str | None:
    if not video_id:
        return None
    if not video_id.startswith(PREFIX):
        raise _no_such_anchor(video_id)
    return video_id.removeprefix(PREFIX)


def _no_such_anchor(video_id: str | None) -> InvalidParameter:
    return InvalidParameter("after", video_id, "no video has this id")

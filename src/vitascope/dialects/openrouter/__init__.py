"""OpenRouter's video API: `POST /api/v1/videos`, polling, content, and the list of video models.

Belongs here: that vendor's field names, status names, tables of sizes, error envelope and webhook. Never here: anything that
another dialect needs. `/api/v1` is the native API's too; nothing of it is called `videos`.

How sure each fact is. Nothing was tried against the vendor's host.

| fact | source |
| --- | --- |
| paths, methods, 202, fields and their types, status names, lists of resolutions and ratios | the vendor's Python SDK 1.3.84, and its OpenAPI pages |
| `polling_url` and `unsigned_urls` are absolute | the guide's examples use them as they are (the reference's example has a relative one) |
| `unsigned_urls` need the API key; `urls` do not, until `expires_at` | the SDK. The guide's Python example sends none: it works on a server without keys |
| `frame_images` wins over `input_references`; audio and video references are ignored where they cannot be used | the guide; the SDK |
| `size` instead of `resolution` and `aspect_ratio` | the guide ("interchangeable"). That it wins over them is our choice, and told |
| pixels of 360p to 1080p, 2K and 4K by ratio: the short side, and the long one by the ratio | the sizes that the SDK lists |
| pixels of 1K | not found; taken as 1080p |
| ratio of a `resolution` alone | not found; 16:9 |
| an error is `{"error": {"code": STATUS, "message", "metadata"}}` | the SDK |
| status of content that is not ready: 400; that has expired: 410 | both are documented for the path; which means what is our guess |
| status names of the guide lack `cancelled` and `expired` | the SDK and the webhooks have them. Ours: a file that is not kept any more is `expired` |
| webhook: events, body, `X-OpenRouter-Idempotency-Key`, `X-OpenRouter-Signature` | the guide, word for word |
| what signs it | the guide: the secret's text. Ours is the API key's webhook secret, `whsec_` included |
| unknown fields | not documented; refused here, as a misspelt one could change the video |
| `generate_audio: true`, `previous_job_id`, `creativity`, `upscale_factor` on models without them | documented as not supported; refused with 400 |
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.job import Job

from . import schema
from .answers import error_response, job_object, refuse_range, webhook_body, webhook_headers
from .create import FORMAT, to_order
from .models import model_object

__all__ = ["FORMAT", "OpenRouterDialect", "webhook_body", "webhook_headers"]


class OpenRouterDialect:
    """The routes."""

    def router(self) -> APIRouter:
        """Make the routes."""
        router = APIRouter(
            prefix="/api/v1/videos", tags=["OpenRouter"], route_class=_http.route_class(error_response)
        )
        add, errors = router.add_api_route, schema.ERRORS
        made, found = ({status: {"model": schema.OpenRouterJob}, **errors} for status in (202, 200))
        add("", self.create, methods=["POST"], status_code=202, responses=made, openapi_extra=schema.CREATE)
        add("/models", self.models, responses={200: {"model": schema.OpenRouterModelList}, **errors})
        add("/{job_id}", self.poll, responses=found)
        content = {"response_class": Response, "responses": schema.CONTENT_RESPONSES}
        add("/{job_id}/content", self.content, openapi_extra=schema.CONTENT, **content)  # type: ignore[arg-type]
        add("/{job_id}/content", self.content, methods=["HEAD"], include_in_schema=False)
        return router

    async def create(self, request: Request) -> Response:
        """Make a video: answers at once, with a job that survives whatever happens to the server."""
        desk = _http.desk_of(request)
        fields = await _http.read_body(request, desk.max_body_bytes)
        session = request.headers.get("x-session-id")
        order = await _http.in_thread_if_large(
            fields.num_bytes, lambda: to_order(fields, desk.service.spec_of_vendor, session)
        )
        once = await _http.once_of(request, fields)
        caller = _http.caller_of(request)
        await desk.admit(request, once)
        base_url = desk.service.links.base_url or _http.base_url_of(request)  # the webhook's URLs begin so
        try:
            draft = desk.service.drafts.prepare(order.request, caller, order.sent, order.choices)
            job = await desk.submit(caller, draft, once, base_url=base_url)
        except InvalidParameter as error:
            raise order.in_clients_words(error) from None
        return await _shown(request, job, 202)

    async def poll(self, job_id: str, request: Request) -> Response:
        """Show a job's state, and where its videos are once they are there."""
        return await _shown(request, await _http.desk_of(request).find(_http.caller_of(request), job_id), 200)

    async def content(self, job_id: str, request: Request) -> Response:
        """Download a video; understands Range, If-Range and HEAD."""
        desk = _http.desk_of(request)
        index = _http.Fields(dict(request.query_params)).integer("index") or 0
        job = await desk.find(_http.caller_of(request), job_id)
        stored = await desk.open_video(job, index)
        name = f"{job_id}-{index}" if index else job_id
        return _http.VideoFile(stored, f"{name}{stored.suffix}", refuse_range)

    async def models(self, request: Request) -> Response:
        """List the models that are served, the default one first, with what requests may say of each."""
        specs = _http.desk_of(request).service.models(_http.caller_of(request))
        data = await asyncio.to_thread(lambda: [model_object(spec) for spec in specs])
        return JSONResponse({"data": data})


async def _shown(request: Request, job: Job, status: int) -> Response:
    links = _http.desk_of(request).service.links
    reached = _http.base_url_of(request)
    base_url = links.base_url or job.request.base_url or reached
    return JSONResponse(
        job_object(job, base_url, lambda index: links.make(job, reached, index)), status_code=status
    )

"""Routes that belong to no dialect: probes and metrics for who runs the server, and files by signed links."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from vitascope.dialects import (
    _http,
    openai,
)
from vitascope.domain.errors import VideoNotReady
from vitascope.service import (
    StillMaking,
    metrics,
)

NOT_READY_RETRY_SECONDS = 5
"""When to ask again whether the server is ready: starting a worker takes about as long."""

UNKNOWN_LINK_SECONDS, MAX_LINK_SECONDS = 5, 60
"""When to ask again for a file that is being made: where nothing was measured, and at most."""


def operation_routes() -> APIRouter:
    """Routes for who runs the server."""
    router = APIRouter(tags=["Operations"], route_class=_http.route_class(openai.error_response))
    probes = APIRouter(
        tags=["Operations"], route_class=_http.route_class(openai.error_response, is_public=True)
    )

    @probes.get("/livez")
    async def livez() -> JSONResponse:
        """Tell that the web process runs."""
        return JSONResponse({"status": "ok"})

    not_ready = {
        503: {"description": "Jobs are not being made, or the server is stopping; `reason` says why."}
    }

    @probes.get("/readyz", responses=not_ready)  # type: ignore[arg-type]
    @probes.get("/health", responses=not_ready)  # type: ignore[arg-type]
    async def readyz(request: Request) -> JSONResponse:
        """Tell whether jobs are being made; 503 with a reason if not. `accepts_jobs` is false, with a reason, where the disk is nearly full."""
        desk = _http.desk_of(request)
        if request.app.state.is_stopping:
            reason: str | None = "the server is stopping"
        else:
            reason = await desk.read(desk.service.condition.why_not_ready)
        if reason is None:
            # ready all the same: deleting is what helps, and a load balancer must let it through
            full = await desk.read(desk.service.condition.why_no_jobs)
            return JSONResponse(
                {"status": "ok", "accepts_jobs": full is None, **({"reason": full} if full else {})}
            )
        headers = {"retry-after": str(NOT_READY_RETRY_SECONDS)}
        return JSONResponse({"status": "unavailable", "reason": reason}, status_code=503, headers=headers)

    @router.get("/metrics", response_class=PlainTextResponse, responses=openai.ERRORS)
    async def prometheus(request: Request) -> Response:
        """Show metrics in Prometheus' text format."""
        desk = _http.desk_of(request)
        text = await desk.read(metrics.render, desk.service)
        return Response(text, media_type=metrics.MEDIA_TYPE)

    router.include_router(probes)
    return router


def file_routes() -> APIRouter:
    """Files by signed links: who has one needs no key."""
    router = APIRouter(tags=["Files"], route_class=_http.route_class(openai.error_response, is_public=True))

    async def linked_file(token: str, request: Request) -> Response:
        """Download a file by a signed link; understands Range, If-Range and HEAD.

        A link that is not good is 404; so is one whose file is being made, with a `Retry-After`.
        """
        desk = _http.desk_of(request)
        try:
            stored, name = await asyncio.to_thread(desk.service.results.open_linked, token)
        except StillMaking as error:
            eta = (await desk.expectation(error.job)).eta_seconds
            seconds = UNKNOWN_LINK_SECONDS if eta is None else min(max(1, math.ceil(eta)), MAX_LINK_SECONDS)
            answer = openai.error_response(VideoNotReady(error.message))
            answer.headers["retry-after"] = str(seconds)
            return answer
        return _http.VideoFile(stored, name, openai.refuse_range)

    async def named_file(token: str, name: str, request: Request) -> Response:
        """Download a file by a signed link that ends in a name; else as without one."""
        return await linked_file(token, request)

    responses: dict[int | str, dict[str, Any]] = {
        206: {"description": "The part that was asked for."},
        302: {
            "description": "Where the file is, if this server has clients fetch files from the storage itself."
        },
        304: {"description": "Unchanged."},
        "4XX": {
            "description": "The link is not valid (404), or not any more; or the range is not (400, 416)."
        },
        "5XX": {"description": "The storage does not answer (503), or has lost the file."},
    }
    for path, endpoint in (("/files/{token}", linked_file), ("/files/{token}/{name}", named_file)):
        router.add_api_route(path, endpoint, methods=["GET"], response_class=Response, responses=responses)
        router.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    return router

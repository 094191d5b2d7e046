"""GET /api/v1/gallery: finished videos whose clients let others see them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.service import Shown

from . import schema
from .answers import error_response


def router(*, is_open: bool) -> APIRouter:
    """Make the route.

    Args:
        is_open: whether strangers may read it; else it needs a key, of whatever kind.
    """
    made = APIRouter(
        prefix="/api/v1",
        tags=["Gallery"],
        route_class=_http.route_class(error_response, is_public=is_open),
    )
    answers = {200: {"model": schema.GalleryPage}, **schema.ERRORS}
    made.add_api_route("/gallery", page, responses=answers, openapi_extra=schema.GALLERY_PAGE)
    return made


async def page(request: Request) -> Response:
    """List public videos that can be fetched, whosever they are, the newest first; `last_id` is the `after` of the next page."""
    desk = _http.desk_of(request)
    query = _http.Fields(dict(request.query_params))
    query.check_names(("limit", "after"))
    limit, _ = _http.limit_and_order(query, min_limit=1)
    after = query.text("after") or None
    found = await desk.read(
        desk.service.gallery.page, after=after, limit=limit, base_url=_http.base_url_of(request)
    )
    videos = [_shown(video) for video in found.videos]
    return JSONResponse({"videos": videos, "has_more": found.has_more, "last_id": found.last_id})


def _shown(shown: Shown) -> dict[str, Any]:
    video, links = shown.video, shown.links
    urls = {f"{name}_url": link.url for name, link in links.items()}
    return {
        "id": shown.job_id,
        "index": video.index,
        "prompt": shown.prompt,
        "model": shown.model,
        "thumbnail_url": None,
        "spritesheet_url": None,
        **urls,
        "urls_expire_at": min(link.expires_at for link in links.values()).isoformat(),
        "media_type": video.media_type,
        "num_bytes": video.num_bytes,
        "height": video.height,
        "width": video.width,
        "num_frames": video.num_frames,
        "fps": video.fps,
        "duration_seconds": video.duration_seconds,
        "created_at": shown.created_at.isoformat(),
    }

"""Where this host has the vendor's management calls, and what it has that this server has not."""

from __future__ import annotations

from fastapi import APIRouter

from vitascope.dialects._enterprise import management, render_4xx, unavailable

_UNAVAILABLE = {
    "/api/v1/enterprise/video": unavailable.VIDEO_CALLS | unavailable.IMAGE_CALLS,
    "/api/v6/video": unavailable.VIDEO_CALLS,
    "/api/v6/images": unavailable.IMAGE_CALLS,
    "/api/v6": unavailable.ACCOUNT_CALLS,
    "/api/v7/video-fusion": unavailable.FUSION_CALLS,
}


def router() -> APIRouter:
    """Make the routes."""
    whole = APIRouter()
    whole.include_router(management.router("/api/v1/enterprise/video", render_4xx))
    # the same, where the older Python client calls it
    whole.include_router(management.router("/api/v6/video", render_4xx, is_described=False))
    for prefix, calls in _UNAVAILABLE.items():
        whole.include_router(unavailable.router(prefix, calls, render_4xx))
    return whole

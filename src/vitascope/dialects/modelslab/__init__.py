"""ModelsLab's video API: `/api/v1/enterprise/video/*`, `/api/v6/video/*`, `/api/v7/video-fusion/*`."""

from __future__ import annotations

from fastapi import APIRouter

from vitascope.dialects._enterprise import management, render_4xx

__all__ = ["ModelsLabDialect"]


class ModelsLabDialect:
    """The routes."""

    def router(self) -> APIRouter:
        """Make the routes."""
        router = APIRouter(tags=["ModelsLab"])
        for prefix in ("/api/v1/enterprise/video", "/api/v6/video"):
            is_described = prefix.endswith("enterprise/video")
            router.include_router(
                management.router(prefix, render_4xx, tag="ModelsLab", is_described=is_described)
            )
        return router

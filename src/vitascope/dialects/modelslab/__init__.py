"""ModelsLab's video API: `/api/v1/enterprise/video/*`, `/api/v6/video/*`, `/api/v7/video-fusion/*`."""

from __future__ import annotations

from fastapi import APIRouter

from . import operators

__all__ = ["ModelsLabDialect"]


class ModelsLabDialect:
    """The routes."""

    def router(self) -> APIRouter:
        """Make the routes."""
        router = APIRouter(tags=["ModelsLab"])
        router.include_router(operators.router())
        return router

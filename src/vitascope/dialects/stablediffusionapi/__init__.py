"""stablediffusionapi's enterprise API: `/api/v1/enterprise/*`."""

from __future__ import annotations

from fastapi import APIRouter

from vitascope.dialects._enterprise import management, render_200

__all__ = ["StableDiffusionApiDialect"]


class StableDiffusionApiDialect:
    """The routes."""

    def router(self) -> APIRouter:
        """Make the routes."""
        router = APIRouter(tags=["stablediffusionapi"])
        router.include_router(management.router("/api/v1/enterprise", render_200, tag="stablediffusionapi"))
        return router

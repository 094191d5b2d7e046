"""stablediffusionapi's enterprise API: `/api/v1/enterprise/*`."""

from __future__ import annotations

from fastapi import APIRouter

__all__ = ["StableDiffusionApiDialect"]


class StableDiffusionApiDialect:
    """The routes."""

    def router(self) -> APIRouter:
        """Make the routes."""
        return APIRouter(tags=["stablediffusionapi"])

"""stablediffusionapi's enterprise API: `/api/v1/enterprise/*`."""

from __future__ import annotations

from fastapi import APIRouter

from . import operators

__all__ = ["StableDiffusionApiDialect"]


class StableDiffusionApiDialect:
    """The routes."""

    def router(self) -> APIRouter:
        """Make the routes."""
        router = APIRouter(tags=["stablediffusionapi"])
        router.include_router(operators.router())
        return router

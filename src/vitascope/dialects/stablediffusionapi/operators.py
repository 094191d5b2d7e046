"""Where this host has the vendor's management calls, and what it has that this server has not."""

from __future__ import annotations

from fastapi import APIRouter

from vitascope.dialects._enterprise import management, render_200, unavailable

PREFIX = "/api/v1/enterprise"


def router() -> APIRouter:
    """Make the routes."""
    whole = APIRouter()
    whole.include_router(management.router(PREFIX, render_200))
    for prefix in (PREFIX, f"{PREFIX}/images"):
        whole.include_router(unavailable.router(prefix, unavailable.IMAGE_CALLS, render_200))
    return whole

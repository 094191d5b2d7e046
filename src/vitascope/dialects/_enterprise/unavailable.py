"""Calls that the vendor has and a video server has not: each answers with a sentence that says so."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from vitascope.dialects import _http
from vitascope.domain.errors import NotAvailable

from .routes import route_class

_NO_PICTURES = "this is a video server: it makes no single pictures"
_NO_ACCOUNTS = "this server has no accounts of the vendor's"
_NO_SCENES = (
    "this server writes no scenes out of a story; a video in scenes is made by `shots` of its own API"
)

IMAGE_CALLS: dict[str, str] = dict.fromkeys(
    ("text2img", "img2img", "inpaint", "controlnet", "super_resolution"), _NO_PICTURES
)
"""Of the enterprise server for pictures, which clients of one key may have beside the one for videos."""

VIDEO_CALLS: dict[str, str] = {
    "scene_maker": _NO_SCENES,
    "scene_creator": _NO_SCENES,
    "watermark_remover": "this server removes no watermarks",
    "base64_to_url": "this server keeps no videos that it was sent as base64; `upload_image` keeps a picture",
}

FUSION_CALLS: dict[str, str] = {
    "lip-sync": "this server has no model that moves lips to a sound",
    "motion-control": "this server has no model that follows a motion",
}

ACCOUNT_CALLS: dict[str, str] = dict.fromkeys(
    ("processing/request_count", "delete_image", "assets_generated"), _NO_ACCOUNTS
)


def router(prefix: str, calls: Mapping[str, str], render: _http.RenderError) -> APIRouter:
    """Make routes that answer so. They are in no description: what is described is there.

    Args:
        prefix: a path.
        calls: what follows it, and why it is not available.
        render: makes the answer of an error.
    """
    made = APIRouter(prefix=prefix, route_class=route_class(render))
    for name, reason in calls.items():
        made.add_api_route(f"/{name}", _refusal(name, reason), methods=["POST"], include_in_schema=False)
    return made


def _refusal(name: str, reason: str) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def refuse() -> Response:
        raise NotAvailable(f"`{name}` is not available on this server: {reason}")

    return refuse

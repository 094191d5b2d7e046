"""ModelsLab's video API: `/api/v1/enterprise/video/*`, `/api/v6/video/*`, `/api/v7/video-fusion/*`.

Belongs here: this host's paths, limits and defaults. What it says of a video is `_enterprise`'s, as stablediffusionapi says it too.

How sure each fact is. Nothing was tried against the vendor's host.

| fact | source |
| --- | --- |
| paths, fields, limits, defaults, keys of replies and of `meta` | the vendor's pages, and its Python SDKs `modelslab_py` 0.2.3 and `modelslab` 0.2 |
| everything is POST with the key in the body; SDKs raise unless HTTP says 200 | the SDKs |
| maxima are clamped, not refused | our choice: the vendor's SDK sends 30 frames by default, against a maximum of 25 |
| `upscale_guidance_scale` 12 in examples against a maximum of 8 | clamped to 8 like all others |
| a second pass is made only where a size for it is sent | our choice: the pages' default sizes would make every video 1024 wide |
| how long a reply waits before it says `processing` | not documented: a setting, 20 s, as some of the vendor's clients give up after 30 |
| `status` of a generation that failed: `failed` | the webhook's page and the pages of 2023; newer pages name `error` too |
| text2video_ultra's sizes by `resolution` and `portrait` | not documented: 16:9 with that short side |
| what a repeated `webhook` call looks like, its signature | not documented: Standard Webhooks' headers are sent beside the vendor's body |
"""

from __future__ import annotations

from fastapi import APIRouter

from vitascope.dialects import _enterprise
from vitascope.dialects._enterprise import making, schema

from . import operators
from .calls import ENTERPRISE, FETCH_PREFIXES, MORE_FETCH_PREFIXES, calls

__all__ = ["ModelsLabDialect"]


class ModelsLabDialect:
    """The routes."""

    def router(self) -> APIRouter:
        """Make the routes."""
        router = APIRouter(tags=["ModelsLab"], route_class=_enterprise.route_class(_enterprise.render_4xx))
        for path, call in calls():
            schema.add_call(router, path, call)
        for prefix in (*FETCH_PREFIXES, *MORE_FETCH_PREFIXES):
            path, is_described = f"{prefix}/fetch/{{request_id}}", prefix in FETCH_PREFIXES
            schema.add_fetch(
                router, path, making.fetch_by_path, _enterprise.render_4xx, is_described=is_described
            )
        schema.add_fetch(router, f"{ENTERPRISE}/fetch", making.fetch_by_body, _enterprise.render_4xx)
        router.include_router(operators.router())
        return router

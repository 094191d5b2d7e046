"""stablediffusionapi's enterprise API: `/api/v1/enterprise/*`, where errors come with HTTP 200.

Belongs here: this host's paths, limits and defaults. What it says of a video is `_enterprise`'s, as ModelsLab says it too.

How sure each fact is. Nothing was tried against the vendor's host.

| fact | source |
| --- | --- |
| fields, limits, eighteen schedulers, `enhance_prompt` by default, keys of the finished reply | the vendor's text2video page |
| reply while a video is being made | not shown for videos: as ModelsLab's, the same company's |
| length, rate, steps and guidance of a request that names none | not documented: the model's own |
| `strength` with an `init_image`: how much of it is made anew | the page's own words; only where a model changes given videos |
| `fetch` with `request_id` in the body | the vendor's fetch page. By path too: `fetch_result` is one URL |
"""

from __future__ import annotations

from fastapi import APIRouter

from vitascope.dialects import _enterprise
from vitascope.dialects._enterprise import making, schema
from vitascope.dialects._enterprise.calls import Call, Range

from . import operators

__all__ = ["StableDiffusionApiDialect"]

PREFIX = "/api/v1/enterprise"

TEXT = Call(
    name="text2video",
    prefix=PREFIX,
    own_ranges={
        "num_inference_steps": Range(None, 1, 50),
        "guidance_scale": Range(None, 1, 20),
        "strength": Range(0.7, 0, 1),
    },
    enhances=True,
    is_bare=True,
)


class StableDiffusionApiDialect:
    """The routes."""

    def router(self) -> APIRouter:
        """Make the routes."""
        render = _enterprise.render_200
        router = APIRouter(tags=["stablediffusionapi"], route_class=_enterprise.route_class(render))
        schema.add_call(router, f"{PREFIX}/{TEXT.name}", TEXT)
        schema.add_fetch(router, f"{PREFIX}/fetch", making.fetch_by_body, render)
        # as the vendor's list of pages calls it
        schema.add_fetch(
            router, f"{PREFIX}/fetch_queue_image", making.fetch_by_body, render, is_described=False
        )
        schema.add_fetch(router, f"{PREFIX}/fetch/{{request_id}}", making.fetch_by_path, render)
        router.include_router(operators.router())
        return router

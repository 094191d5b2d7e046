"""The description of the generation calls in `/openapi.json`, and their routes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from vitascope.dialects import _http
from vitascope.dialects._http import RenderError
from vitascope.domain.access import Scope
from vitascope.domain.schedulers import EIGHTEEN

from .calls import Call
from .making import generating
from .routes import route_class

Endpoint = Callable[..., Coroutine[Any, Any, Response]]


class EnterpriseVideo(_http.Described):
    """A finished video. stablediffusionapi's has no `proxy_links`, `meta` and `future_links`."""

    status: Literal["success"]
    #: Seconds.
    generation_time: float | None = Field(None, alias="generationTime")
    id: int
    #: Addresses; `data:` URLs where `base64` asked for them.
    output: list[str]
    proxy_links: list[str] | None = None
    meta: dict[str, Any] | None = None
    future_links: list[str] | None = None
    #: What of the request had no effect, or another one.
    tip: str | None = None


class EnterpriseProcessing(_http.Described):
    """A video that is still being made."""

    status: Literal["processing"]
    tip: str
    #: Seconds.
    eta: int
    message: str
    messege: str
    #: POST there with the key.
    fetch_result: str
    id: int
    output: list[str] | Literal[""]
    proxy_links: list[str]
    meta: dict[str, Any]
    #: Where the files will be; 404 with `Retry-After` until then.
    future_links: list[str]


class EnterpriseFailure(_http.Described):
    """A video that there will not be."""

    status: Literal["failed"]
    id: int
    message: str
    messege: str
    output: Literal[""]


class EnterpriseProblem(_http.Described):
    """What is wrong with a request."""

    status: Literal["error"]
    message: str
    messege: str
    code: str
    retry_after: int | None = None


RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": EnterpriseVideo | EnterpriseProcessing | EnterpriseFailure | EnterpriseProblem},
    "4XX": {"model": EnterpriseProblem, "description": "The request cannot be carried out as it stands."},
    "5XX": {"model": EnterpriseProblem, "description": "The server cannot carry it out now."},
}

_TEXT: dict[str, Any] = {"type": "string"}
_INTEGER: dict[str, Any] = {"type": ["integer", "string", "null"]}
_NUMBER: dict[str, Any] = {"type": ["number", "string", "null"]}
_FLAG: dict[str, Any] = {"type": ["string", "boolean", "null"], "description": "yes or no"}
_KEY = {
    "type": "string",
    "description": "API key; `Authorization: Bearer` and the header `key` are read too.",
}

_WHOLE = (
    "width", "height", "num_frames", "fps", "num_inference_steps", "clip_skip", "upscale_height", "upscale_width",
    "upscale_num_inference_steps", "samples",
)  # fmt: skip
_REAL = (
    "guidance_scale", "strength", "upscale_strength", "upscale_guidance_scale", "min_guidance_scale",
    "max_guidance_scale", "sample_shift",
)  # fmt: skip
_FLAGS = (
    "use_improved_sampling",
    "instant_response",
    "temp",
    "base64",
    "enhance_prompt",
    "loadbalancer",
    "portrait",
)


def _properties(call: Call) -> dict[str, dict[str, Any]]:
    fields: dict[str, dict[str, Any]] = {
        "key": _KEY,
        "model_id": {**_TEXT, "description": "A served model, or another's name; by default the server's own."},
        "prompt": {**_TEXT, "maxLength": 32000},
        "negative_prompt": _TEXT,
        "seed": {**_INTEGER, "description": "null draws one, which `meta` shows."},
        "improved_sampling_seed": _INTEGER,
        "output_type": {"type": "string", "enum": ["mp4", "gif"], "default": call.format},
        "scheduler": {**_TEXT, "description": "Such as " + ", ".join(EIGHTEEN[:3]) + "; see docs/schedulers.md."},
        "init_image": {"type": ["string", "array", "null"], "description": "URL, `data:` URL or base64."},
        "init_video": {"type": ["string", "null"], "description": "URL, `data:` URL or base64."},
        "resolution": {"type": ["integer", "string", "null"], "description": "Pixels of the short side."},
        "aspect_ratio": {**_TEXT, "examples": ["16:9"]},
        "duration": {**_NUMBER, "description": "Seconds, in place of `num_frames`."},
        "lora_models": {**_TEXT, "description": "Names of adapters, with commas between them."},
        "lora_strength": _NUMBER,
        "vae": {**_TEXT, "description": "An autoencoder that was added (`load_vae`)."},
        "webhook": {"type": ["string", "null"], "description": "Where the end is told."},
        "track_id": {"type": ["string", "integer", "null"]},
    }  # fmt: skip
    fields |= {name: _limited(call, name, _INTEGER) for name in _WHOLE}
    fields |= {name: _limited(call, name, _NUMBER) for name in _REAL}
    return fields | dict.fromkeys(_FLAGS, _FLAG)


def _limited(call: Call, name: str, kind: dict[str, Any]) -> dict[str, Any]:
    limits = call.range(name)
    told = {"minimum": limits.minimum, "default": limits.default}
    most = (
        None if limits.maximum is None else f"More than {limits.maximum:g} is taken for {limits.maximum:g}."
    )
    shown = {key: value for key, value in told.items() if value is not None}
    return {**kind, **shown, **({"description": most} if most else {})}


def _body(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, **({"required": required} if required else {})}
    kinds = ("application/json", "multipart/form-data")
    return {"requestBody": {"content": {kind: {"schema": schema} for kind in kinds}}}


def add_call(router: APIRouter, path: str, call: Call) -> None:
    """Add a generation call at a path."""
    router.add_api_route(
        path,
        generating(call),
        methods=["POST"],
        responses=RESPONSES,
        summary=call.name,
        description="Make a video: answers with it if it is there within the time that this server waits, else says how to fetch it.",
        openapi_extra=_body(_properties(call), [call.needs or "prompt"]),
    )


def add_fetch(
    router: APIRouter, path: str, endpoint: Endpoint, render: RenderError, *, is_described: bool = True
) -> None:
    """Add a way to fetch a result, by the id in the path or in the body. A key that may only read may do so too."""
    properties: dict[str, Any] = {"key": _KEY}
    by_body = "{" not in path
    if by_body:
        properties["request_id"] = {"type": ["integer", "string"]}
    router.add_api_route(
        path,
        endpoint,
        methods=["POST"],
        responses=RESPONSES,
        summary="fetch",
        openapi_extra=_body(properties, ["request_id"] if by_body else []),
        include_in_schema=is_described,
        route_class_override=route_class(render, scope=Scope.READ),
    )

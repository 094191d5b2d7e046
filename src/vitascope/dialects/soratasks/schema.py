"""The API's description in `/openapi.json`: what is documented here is what the routes do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from vitascope.dialects import _http

from .create import SHAPES, SIZES
from .names import MODELS, OLDER_MODELS


class SoraTaskId(_http.Described):
    """What to ask check-result for."""

    taskId: str  # noqa: N815


class SoraCreated(_http.Described):
    """A task was made."""

    code: Literal[0]
    message: str
    data: SoraTaskId


class SoraTaskMetadata(_http.Described):
    """What the vendor has here and this server has not."""

    remixTargetId: str | None  # noqa: N815
    characters: list[str]


class SoraTask(_http.Described):
    """How far a task is."""

    status: Literal["pending", "running", "succeeded", "failed"]
    progress: int
    #: Absolute, good without a key for a day; empty until it has succeeded.
    result_url: str
    result_urls: list[str]
    #: Empty unless it has failed.
    failure_reason: str
    error_message: str | None
    #: Of keys that are counted.
    credits_refunded: bool
    refund_trans_no: None
    result_pid: str
    result_pids: list[str]
    metadata: SoraTaskMetadata


class SoraChecked(_http.Described):
    """A task as it stands."""

    code: Literal[0]
    message: str
    data: SoraTask


class SoraStanding(_http.Described):
    """What a key has."""

    left_credits: int
    is_vip: bool


class SoraCredits(_http.Described):
    """What a key has left."""

    code: Literal[0]
    message: str
    data: SoraStanding


class SoraError(_http.Described):
    """Every answer that is not a success; most come with HTTP 200."""

    #: Never 0.
    code: int
    message: str
    data: None


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": SoraError, "description": "No key, or too much of something."},
    "5XX": {"model": SoraError, "description": "The server cannot carry it out now."},
}

_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"anyOf": [{"type": "number"}, {"type": "string"}]}
_FLAG: dict[str, Any] = {"anyOf": [{"type": "boolean"}, {"type": "string"}]}


def _field(kind: dict[str, Any], text: str) -> dict[str, Any]:
    return {**kind, "description": text}


_SHOT = {
    "type": "object",
    "required": ["Scene", "duration"],
    "properties": {"Scene": _TEXT, "duration": _NUMBER},
    "additionalProperties": False,
}
_BOTH: dict[str, dict[str, Any]] = {
    "imageData": _field(_TEXT, "First frame, as a base64 data URL; wins over a URL."),
    "imageUrl": _field(_TEXT, "First frame, by its URL."),
    "removeWatermark": _field({**_FLAG, "default": True}, "False draws a visible watermark."),
    "isPublic": _field({**_FLAG, "default": True}, "Whether the finished video is shown in the gallery."),
}
_FIELDS: dict[str, dict[str, Any]] = {
    "model": {"type": "string", "enum": list(MODELS)},
    "prompt": _field(_TEXT, "What the video shows; needed but for a storyboard, where it is ignored."),
    **_BOTH,
    "aspectRatio": {"type": "string", "enum": list(SHAPES), "default": "landscape"},
    "nFrames": _field(
        _NUMBER, "Seconds: 10 or 15, of a storyboard 25 too; anything else is brought to these."
    ),
    "size": _field({"type": "string", "enum": list(SIZES), "default": "standard"}, "Of pro models alone."),
    "shots": {"type": "array", "minItems": 1, "maxItems": 16, "items": _SHOT},
}
_OLDER_FIELDS: dict[str, dict[str, Any]] = {
    "model": {"type": "string", "enum": list(OLDER_MODELS)},
    "prompt": _TEXT,
    **_BOTH,
    "url": _field(_TEXT, "As `imageUrl`."),
    "aspectRatio": {"type": "string", "enum": list(SHAPES), "default": "9:16"},
    "duration": _field(_NUMBER, "Seconds: 10 or 15; anything else is brought to these."),
}


def _body(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": dict(properties), "required": list(required)}
    return {"requestBody": {"required": bool(required), "content": {"application/json": {"schema": schema}}}}


CREATE = _body(_FIELDS, "model")
OLDER = _body(_OLDER_FIELDS, "model", "prompt")
CHECK = _body({"taskId": _TEXT}, "taskId")
NOTHING = _body({})


def add(
    router: APIRouter, path: str, endpoint: Callable[..., Any], body: dict[str, Any], answer: type[BaseModel]
) -> None:
    """Add a call and what is documented of it: with HTTP 200 its answer or an error."""
    responses: dict[int | str, dict[str, Any]] = {200: {"model": answer | SoraError}, **ERRORS}
    router.add_api_route(path, endpoint, methods=["POST"], responses=responses, openapi_extra=body)

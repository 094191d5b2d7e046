"""The API's description in `/openapi.json`: what is documented here is what the routes do."""

from __future__ import annotations

from typing import Any, Literal

from vitascope.dialects import _http

from .create import PASSTHROUGH, RATIOS, RESOLUTIONS, SLUG


class OpenRouterUsage(_http.Described):
    """What was charged: nothing."""

    cost: float
    is_byok: bool


class OpenRouterJob(_http.Described):
    """A job and how far it is. What is not known yet is left out."""

    id: str
    polling_url: str
    status: Literal["pending", "in_progress", "completed", "failed", "cancelled", "expired"]
    error: str | None = None
    #: They need the API key.
    unsigned_urls: list[str] | None = None
    #: They need no key until `expires_at`.
    urls: list[str] | None = None
    expires_at: int | None = None
    usage: OpenRouterUsage | None = None


class OpenRouterModel(_http.Described):
    """What requests may say of a model."""

    id: str
    canonical_slug: str
    name: str
    description: str
    created: int
    hugging_face_id: str | None
    supported_resolutions: list[str]
    supported_aspect_ratios: list[str]
    supported_sizes: list[str]
    supported_durations: list[int]
    supported_frame_images: list[Literal["first_frame", "last_frame"]] | None
    generate_audio: bool
    seed: bool
    creativity: None
    upscale_factor: None
    pricing_skus: None
    allowed_passthrough_parameters: list[str]


class OpenRouterModelList(_http.Described):
    """All models."""

    data: list[OpenRouterModel]


class OpenRouterDetails(_http.Described):
    """What this server knows beyond the vendor's fields."""

    code: str
    parameter: str | None = None


class OpenRouterProblem(_http.Described):
    """What is wrong."""

    #: The status of HTTP once more.
    code: int
    message: str
    metadata: OpenRouterDetails


class OpenRouterError(_http.Described):
    """Every answer that is not a success."""

    error: OpenRouterProblem


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": OpenRouterError, "description": "The request cannot be carried out as it stands."},
    "5XX": {"model": OpenRouterError, "description": "The server cannot carry it out now."},
}

_TEXT: dict[str, Any] = {"type": "string"}
_INTEGER: dict[str, Any] = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
_NUMBER: dict[str, Any] = {"anyOf": [{"type": "number"}, {"type": "string"}]}


def _field(kind: dict[str, Any], text: str) -> dict[str, Any]:
    return {**kind, "description": text}


def _part(kind: str, **more: dict[str, Any]) -> dict[str, Any]:
    url = {"type": "object", "required": ["url"], "properties": {"url": _TEXT}}
    properties = {"type": {"type": "string", "enum": [kind]}, kind: url, **more}
    return {"type": "object", "required": [kind, *more], "properties": properties}


_FRAME = _part("image_url", frame_type={"type": "string", "enum": ["first_frame", "last_frame"]})
_OWN = {
    "type": "object",
    "properties": {name: {} for name in PASSTHROUGH},
    "additionalProperties": False,
}
_FIELDS: dict[str, dict[str, Any]] = {
    "model": _field(_TEXT, "A served model, or another's name; by default the server's own."),
    "prompt": {"type": "string", "minLength": 1, "maxLength": 32000},
    "duration": _field(_NUMBER, "Seconds; by default the model's own length."),
    "resolution": _field({"type": "string", "enum": list(RESOLUTIONS)}, "Of the short side."),
    "aspect_ratio": _field({"type": "string", "enum": list(RATIOS)}, "Of a resolution alone: 16:9."),
    "size": _field(_TEXT, "WIDTHxHEIGHT in pixels; wins over `resolution` and `aspect_ratio`."),
    "frame_images": _field({"type": "array", "items": _FRAME, "maxItems": 2}, "First and last frame."),
    "input_references": _field(
        {"type": "array", "items": {"anyOf": [_part(kind) for kind in ("image_url", "audio_url", "video_url")]}},
        "Pictures of who or what appears; ignored beside `frame_images`. Audio and videos are ignored.",
    ),
    "generate_audio": _field({"type": "boolean"}, "Only false: no model here makes sound."),
    "seed": _field(_INTEGER, "The same request with the same seed makes the same frames."),
    "callback_url": _field(_TEXT, "Where the end is told."),
    "provider": _field(
        {"type": "object", "properties": {"options": {"type": "object", "properties": {SLUG: _OWN}}}},
        "What is meant for other providers is ignored.",
    ),
    "session_id": {"type": "string", "maxLength": 256},
    "trace": {"type": "object"},
    "user": {"type": "string", "maxLength": 255},
}  # fmt: skip
CREATE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": _FIELDS, "additionalProperties": False}
            }
        },
    }
}

_binary = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("video/mp4", "image/gif")}
CONTENT: dict[str, Any] = {
    "parameters": [
        {
            "name": "index",
            "in": "query",
            "schema": {"type": "integer", "minimum": 0, "default": 0},
            "description": "Which of the job's videos.",
        }
    ]
}
CONTENT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": _binary},
    206: {"description": "The ranges that were asked for.", "content": _binary},
    302: {"description": "Where the file is, if clients fetch files from the storage itself."},
    304: {"description": "The file is the one that the client has."},
    **ERRORS,
}

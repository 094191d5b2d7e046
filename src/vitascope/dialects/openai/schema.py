"""The API's description in `/openapi.json`: what is documented here is what the routes do; a test compares them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from .create import DEFAULT_SECONDS

REMIX_STRENGTH = 0.75
"""How much of its source a remix makes anew: what happens and where stays, what is seen is the prompt's."""

EDIT_STRENGTH = 0.6
"""The same of an edit: shapes and movements stay, colours and surfaces follow the prompt."""


class VideoError(BaseModel):
    """Why a video failed."""

    code: str
    message: str


class Video(BaseModel):
    """A video and how far it is."""

    id: str
    object: Literal["video"]
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    prompt: str | None
    size: str
    seconds: str
    remixed_from_video_id: str | None
    error: VideoError | None
    fps: int
    num_frames: int
    seed: int
    user: str | None
    metadata: dict[str, Any]


class VideoList(BaseModel):
    """Some videos, in order of arrival."""

    object: Literal["list"]
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    """A video that is gone."""

    id: str
    object: Literal["video.deleted"]
    deleted: bool


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    title: str
    aliases: list[str]


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"]
    data: list[Model]


class Problem(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """Every answer that is not a success."""

    error: Problem


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorEnvelope, "description": "The request cannot be carried out as it stands."},
    "5XX": {"model": ErrorEnvelope, "description": "The server cannot carry it out now."},
}

_number_or_text = {"anyOf": [{"type": "number"}, {"type": "string"}]}
_integer_or_text = {"anyOf": [{"type": "integer"}, {"type": "string"}]}


def _described(schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {**schema, "description": text}


_CREATE_FIELDS: dict[str, dict[str, Any]] = {
    "prompt": {"type": "string", "minLength": 1, "maxLength": 32000},
    "model": _described(
        {"type": "string"}, "A served model, or a vendor's name; by default the server's own."
    ),
    "seconds": _described(
        {**_number_or_text, "default": f"{DEFAULT_SECONDS:g}"}, "Length; may be fractional."
    ),
    "duration": _described(_number_or_text, "The same as `seconds`, which wins over it."),
    "size": _described({"type": "string"}, "WIDTHxHEIGHT in pixels; by default the model's own size."),
    "width": _described(_integer_or_text, "Pixels; `size` wins over it."),
    "height": _described(_integer_or_text, "Pixels; `size` wins over it."),
    "negative_prompt": {"type": "string", "maxLength": 32000},
    "num_frames": _described(_integer_or_text, "Frames of the file; wins over `seconds`."),
    "fps": _described(_integer_or_text, "Frames per second of the file."),
    "num_inference_steps": _integer_or_text,
    "steps": _described(_integer_or_text, "The same as `num_inference_steps`, which wins over it."),
    "guidance_scale": _number_or_text,
    "scheduler": _described(
        {"type": "string"}, "A noise scheduler that the model accepts, by diffusers' name."
    ),
    "seed": _described(_integer_or_text, "The same request with the same seed makes the same frames."),
    "n": _described(_integer_or_text, "Only 1."),
    "output_format": {"type": "string", "enum": ["mp4", "gif"], "default": "mp4"},
    "user": {"type": "string", "maxLength": 255},
    "metadata": _described(
        {"anyOf": [{"type": "object"}, {"type": "string"}]},
        "Given back with the video; an object or JSON text.",
    ),
}
_IMAGE = "The first frame: JPEG, PNG or WebP."
_reference = {
    "anyOf": [
        {"type": "string", "description": "An http, https or data: URL, or base64 alone."},
        {"type": "object", "properties": {"image_url": {"type": "string"}}, "required": ["image_url"]},
        {
            "type": "object",
            "properties": {"file_id": {"type": "string"}},
            "required": ["file_id"],
            "description": "A file that was uploaded to `/v1/files`.",
        },
    ],
    "description": _IMAGE,
}
_file = {"type": "string", "format": "binary", "description": _IMAGE}


def _body(image: dict[str, Any]) -> dict[str, Any]:
    properties = {**_CREATE_FIELDS, "input_reference": image, "image": image}
    return {"schema": {"type": "object", "required": ["prompt"], "properties": properties}}


CREATE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": _body(_reference), "multipart/form-data": _body(_file)},
    }
}

_source_text = "The video to start from: a finished one by its id, or MP4 or WebM as an http, https or data: URL or base64."
_source = {
    "anyOf": [
        {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
        {"type": "string"},
    ],
    "description": _source_text,
}
_source_file = {"type": "string", "format": "binary", "description": "An MP4 or WebM file; or `video[id]`."}


def _derived(
    strength: float | None, *names: str, seconds: str = "By default the source's."
) -> dict[str, Any]:
    """Describe a body: what `create` takes, with other defaults, and the source."""
    properties = {
        **_CREATE_FIELDS,
        "seconds": _described(_number_or_text, seconds),
        "size": _described({"type": "string"}, "WIDTHxHEIGHT in pixels; by default the source's."),
        "model": _described({"type": "string"}, "By default the source's."),
    }
    if strength is not None:
        text = f"How much of the source is made anew, up to 1; by default {strength:g}."
        properties["strength"] = _described(_number_or_text, text)

    def body(source: dict[str, Any] | None) -> dict[str, Any]:
        of_source = {} if source is None else {"video": source}
        return {
            "schema": {
                "type": "object",
                "required": ["prompt", *names],
                "properties": {**properties, **of_source},
            }
        }

    has_source = "video" in names
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": body(_source if has_source else None),
                "multipart/form-data": body(_source_file if has_source else None),
            },
        }
    }


REMIX = _derived(REMIX_STRENGTH)
EDIT = _derived(EDIT_STRENGTH, "video")
EXTEND = _derived(
    None, "video", "seconds", seconds="How many seconds are added; the reply's are those of the whole video."
)

LIST: dict[str, Any] = {
    "parameters": [
        {
            "name": "after",
            "in": "query",
            "schema": {"type": "string"},
            "description": "Id of the last video seen.",
        },
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "minimum": 0, "maximum": 100, "default": 20},
        },
        {
            "name": "order",
            "in": "query",
            "schema": {"type": "string", "enum": ["asc", "desc"], "default": "desc"},
        },
    ]
}

_binary = {"schema": {"type": "string", "format": "binary"}}
CONTENT: dict[str, Any] = {
    "parameters": [
        {
            "name": "variant",
            "in": "query",
            "schema": {"type": "string", "enum": ["video"], "default": "video"},
        }
    ]
}
CONTENT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"video/mp4": _binary, "image/gif": _binary}},
    302: {
        "description": "Where the file is, if this server has clients fetch files from the storage itself."
    },
    304: {"description": "The file is the one that the client has."},
    206: {
        "description": "The ranges that were asked for.",
        "content": {"video/mp4": _binary, "image/gif": _binary},
    },
    **ERRORS,
}

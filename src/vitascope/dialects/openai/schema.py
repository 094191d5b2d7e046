"""The API's description in `/openapi.json`: what is documented here is what the routes do; a test compares them."""

from __future__ import annotations

from typing import Any, Literal

from vitascope.dialects import _http
from vitascope.domain.request import MAX_NUM_VIDEOS
from vitascope.domain.video import VARIANTS

from .parameters import FILE, PARAMETERS, REFERENCE


class VideoError(_http.Described):
    """Why a video failed."""

    code: str
    message: str


class VideoURL(_http.Described):
    """Where anyone can fetch a finished file, for a while."""

    index: int
    url: str


class VideoBase64(_http.Described):
    """A finished file."""

    index: int
    b64_json: str


VideoData = VideoURL | VideoBase64


class Video(_http.Described):
    """A video and how far it is."""

    id: str
    object: Literal["video"]
    model: str
    #: `pending` and `processing` only where the setting `openai.status_names` is `ezmodel`.
    status: Literal["queued", "in_progress", "completed", "failed", "pending", "processing"]
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
    #: How many videos the request makes, with this seed, the next one and so on.
    n: int
    user: str | None
    url: str | None
    #: The finished files: `{index, url}`, or `{index, b64_json}` where `response_format` asked for that; in lists always addresses.
    data: list[VideoData]
    metadata: dict[str, Any]


class VideoList(_http.Described):
    """Some videos, in order of arrival."""

    object: Literal["list"]
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(_http.Described):
    """A video that is gone."""

    id: str
    object: Literal["video.deleted"]
    deleted: bool


class Model(_http.Described):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    title: str
    aliases: list[str]


class ModelList(_http.Described):
    """All models."""

    object: Literal["list"]
    data: list[Model]


class Problem(_http.Described):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(_http.Described):
    """Every answer that is not a success."""

    error: Problem


Responses = dict[int | str, dict[str, Any]]

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorEnvelope, "description": "The request cannot be carried out as it stands."},
    "5XX": {"model": ErrorEnvelope, "description": "The server cannot carry it out now."},
}


def _body(image: dict[str, Any]) -> dict[str, Any]:
    properties = {**PARAMETERS, "input_reference": image, "image": image}
    return {"schema": {"type": "object", "required": ["prompt"], "properties": properties}}


CREATE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": _body(REFERENCE), "multipart/form-data": _body(FILE)},
    }
}


class GenerationMade(_http.Described):
    """A video that New API's clients have asked for."""

    id: str
    task_id: str
    object: Literal["video"]
    model: str
    status: str
    progress: int
    created_at: int
    seconds: str
    size: str


class GenerationMetadata(_http.Described):
    """What is made."""

    duration: float
    fps: int
    width: int
    height: int
    seed: int


class GenerationError(_http.Described):
    """Why it failed; `type` is the text code of `/v1/videos`."""

    code: int
    message: str
    type: str


class Generation(_http.Described):
    """A video as New API documents it."""

    task_id: str
    status: str
    url: str
    format: str
    metadata: GenerationMetadata
    error: GenerationError | None
    progress: int
    data: list[VideoData]


class GenerationTask(_http.Described):
    """A video as New API's code shows it."""

    id: int
    created_at: int
    updated_at: int
    task_id: str
    platform: str
    user_id: int
    group: str
    channel_id: int
    quota: int
    action: str
    status: Literal["QUEUED", "IN_PROGRESS", "SUCCESS", "FAILURE"]
    fail_reason: str
    result_url: str
    submit_time: int
    start_time: int
    finish_time: int
    progress: str
    properties: dict[str, Any]
    data: Video


class WrappedGeneration(_http.Described):
    """What New API's code puts around it."""

    code: str
    message: str
    data: GenerationTask


class GenerationProblem(Problem):
    """Every answer that is not a success, where replies are flat."""

    error: Problem


class WrappedProblem(_http.Described):
    """Every answer that is not a success, where replies are wrapped."""

    code: str
    message: str
    data: None


GENERATION_ERRORS: Responses = {
    status: {**described, "model": GenerationProblem | WrappedProblem} for status, described in ERRORS.items()
}

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
        {
            "name": "user",
            "in": "query",
            "schema": {"type": "string"},
            "description": "Only videos that were made for this `user`.",
        },
    ]
}

_binary = {"schema": {"type": "string", "format": "binary"}}
CONTENT: dict[str, Any] = {
    "parameters": [
        {
            "name": "variant",
            "in": "query",
            "schema": {"type": "string", "enum": list(VARIANTS), "default": "video"},
            "description": "The video, a frame of it (WebP), or up to 25 frames of it in rows of 5 (JPEG).",
        },
        {
            "name": "index",
            "in": "query",
            "schema": {"type": "integer", "minimum": 0, "maximum": MAX_NUM_VIDEOS - 1, "default": 0},
            "description": "Which of the videos of one request.",
        },
    ]
}
_files = {kind: _binary for kind in ("video/mp4", "image/gif", "image/webp", "image/jpeg")}
CONTENT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": _files},
    302: {
        "description": "Where the file is, if this server has clients fetch files from the storage itself."
    },
    304: {"description": "The file is the one that the client has."},
    206: {
        "description": "The ranges that were asked for.",
        "content": _files,
    },
    **ERRORS,
}

"""What is asked for: bodies, parameters, and files as answers."""

from __future__ import annotations

from typing import Any

from vitascope.domain.loras import MAX_LORAS
from vitascope.domain.request import MAX_NUM_VIDEOS, TRANSITIONS
from vitascope.domain.speed_levels import SPEED_LEVELS
from vitascope.domain.video import VARIANTS

_NUMBER: dict[str, Any] = {"anyOf": [{"type": "number"}, {"type": "string"}]}
_INTEGER: dict[str, Any] = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
_TEXT: dict[str, Any] = {"type": "string"}


def _field(kind: dict[str, Any], description: str) -> dict[str, Any]:
    return {**kind, "description": description}


_SHOT = {
    "type": "object",
    "properties": {
        "prompt": _field(_TEXT, "What the shot shows."),
        "num_frames": _field(_INTEGER, "Of the file. By default an equal share of what the others leave."),
        "duration_seconds": _field(_NUMBER, "Another way to say `num_frames`."),
        "transition": _field(
            {**_TEXT, "enum": [*TRANSITIONS], "default": "cut"},
            "How it follows the shot before: from that one's last frame, where the model can start from a picture, or by a cut.",
        ),
    },
    "required": ["prompt"],
    "additionalProperties": False,
}

_FIELDS = {
    "prompt": _field({**_TEXT, "minLength": 1, "maxLength": 32000}, "What the video shows."),
    "model": _field(_TEXT, "A model's id or another of its names; by default the server's own."),
    "negative_prompt": _field({**_TEXT, "maxLength": 32000}, "What the video must not show."),
    "height": _field(_INTEGER, "Pixels, even. By default the model's."),
    "width": _field(_INTEGER, "Pixels, even. By default the model's."),
    "num_frames": _field(_INTEGER, "Frames of the file. By default the model's."),
    "fps": _field(_INTEGER, "Frames per second of the file. By default the model's."),
    "duration_seconds": _field(_NUMBER, "Another way to say `num_frames`."),
    "num_inference_steps": _field(_INTEGER, "Denoising steps. By default the model's."),
    "guidance_scale": _field(_NUMBER, "How closely the prompt is followed. By default the model's."),
    "scheduler": _field(
        _TEXT,
        "A noise scheduler by its diffusers class name; what stands in for one that the model has not is among `choices`.",
    ),
    "strength": _field(_NUMBER, "How much of `video` is changed: 0 nothing, 1 all."),
    "loras": _field(
        {
            "anyOf": [
                {
                    "type": "array",
                    "maxItems": MAX_LORAS,
                    "items": {
                        "anyOf": [_TEXT, {"type": "object", "properties": {"name": _TEXT, "scale": _NUMBER}}]
                    },
                },
                _TEXT,
            ]
        },
        "Adapters of the server's operator, which change the model: each a name, or an object with `name` and `scale` (1). "
        "`GET /api/v1/models/{model_id}` lists those that fit.",
    ),
    "clip_skip": _field(_INTEGER, "Layers that are left out at the end of a CLIP text encoder."),
    "enhance_prompt": _field(
        {"anyOf": [{"type": "boolean"}, _TEXT]},
        "Whether a language model writes the prompt out first. By default what the operator wants.",
    ),
    "upscale": _field(
        {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "height": _field(_INTEGER, "Of the file, even: at least the first pass's."),
                        "width": _field(_INTEGER, "Of the file, even: at least the first pass's."),
                        "strength": _field(_NUMBER, "How much of the first result is made anew, up to 1."),
                        "guidance_scale": _field(_NUMBER, "Of the second pass."),
                        "num_inference_steps": _field(
                            _INTEGER, "Of the second pass; `strength` of them run."
                        ),
                    },
                    "additionalProperties": False,
                },
                {"type": "boolean"},
                _TEXT,
            ]
        },
        "A second pass over the finished clip, at a larger size: true, or an object. What it does not say, the model's card does; "
        "without a size the file is twice as high and wide.",
    ),
    "improved_sampling": _field(
        {
            "anyOf": [
                {"type": "boolean"},
                {"type": "object", "properties": {"seed": _INTEGER}, "additionalProperties": False},
                _TEXT,
            ]
        },
        "True for denoising in several rounds, each from the low frequencies of what the one before made, for steadier motion; "
        "or an object with the `seed` of the noise that the further rounds get.",
    ),
    "speed": _field(
        {"type": "string", "enum": list(SPEED_LEVELS)},
        "How far the video may differ from what every step computed in full would make, for the sake of time. By default what the "
        "operator wants.",
    ),
    "preview_every": _field(
        _INTEGER, "A small picture as an event every so many denoising steps; 0, the default, for none."
    ),
    "shots": _field(
        {"anyOf": [{"type": "array", "items": {"anyOf": [_TEXT, _SHOT]}}, _TEXT]},
        "Scenes: each a text, or an object. What `prompt` says, if it is given, stands before each.",
    ),
    "seed": _field(_INTEGER, "Same request, same seed: same frames. Drawn if not given."),
    "num_videos": _field(
        {**_INTEGER, "default": 1}, "Videos to make, 1 to 10: each has the next seed. They are one job."
    ),
    "format": _field({**_TEXT, "enum": ["mp4", "gif"], "default": "mp4"}, "Of the file."),
    "provenance": _field(
        {"anyOf": [{"type": "boolean"}, _TEXT]},
        "Whether the file carries a signed statement of its origin. False only where the operator allows it.",
    ),
    "watermark": _field(
        {"anyOf": [_TEXT, {"type": "object"}, {"type": "boolean", "enum": [False]}]},
        "Text to draw on each frame; or an object with `text` or `image` (as `image` below), `position` (bottom-right) and "
        "`opacity` (0.5); or a file; or false for none where the operator allows it.",
    ),
    "priority": _field(_INTEGER, "From -10 to 10: a higher one goes first. By default 0."),
    "may_hand_over": _field(
        {"anyOf": [{"type": "boolean"}, _TEXT]},
        "Whether another server of the operator's may make the video while this one is busy. By default false.",
    ),
    "is_public": _field(
        {"anyOf": [{"type": "boolean"}, _TEXT]},
        "Whether the finished video is shown in the gallery (`GET /api/v1/gallery`). By default false.",
    ),
    "expires_in_seconds": _field(
        _INTEGER,
        "How long the file and what was sent for it are kept, from the job's end: 60 to 315360000. By default as the server is set.",
    ),
    "metadata": _field({"anyOf": [{"type": "object"}, _TEXT]}, "Given back unchanged."),
    "user": _field({**_TEXT, "maxLength": 255}, "Given back unchanged."),
    "webhook": _field(
        {"anyOf": [_TEXT, {"type": "object", "properties": {"url": _TEXT}}]},
        "URL that is told when the job has ended, or an object with `url`.",
    ),
    "track_id": _field({**_TEXT, "maxLength": 255}, "Your own name for the job; webhooks have it too."),
}


_JOBS_VIDEO = {
    "type": "object",
    "properties": {
        "job": _field(_TEXT, "A job's id."),
        "index": _field(_INTEGER, "Which of its videos; by default the first, 0."),
    },
    "required": ["job"],
    "additionalProperties": False,
}


def _body(file: dict[str, Any]) -> dict[str, Any]:
    text = "; where it is text, an http, https or data: URL or base64."
    video = {"anyOf": [file, _JOBS_VIDEO]}
    properties = {
        **_FIELDS,
        "image": _field(file, f"First frame: PNG, JPEG, WebP or GIF{text}"),
        "last_image": _field(file, f"Last frame, beside `image`: the same formats{text}"),
        "video": _field(video, f"A video that is changed: MP4 or WebM{text} Or another job's, by its id."),
        "continues": _field(
            video,
            f"A video that is continued: its frames come first in the file, and `num_frames` counts them too. As `video`{text} "
            "Or another job's, by its id.",
        ),
        "references": _field(
            {"type": "array", "items": file}, "Pictures of who or what appears, each as `image`."
        ),
    }
    schema = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    return {"schema": schema}


_BODY = {
    "required": True,
    "content": {
        "application/json": _body(_TEXT),
        "multipart/form-data": _body({"type": "string", "format": "binary"}),
    },
}
CREATE: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "schema": {**_TEXT, "maxLength": 255},
            "description": "Your own name for this request: sent again within 24 hours, it answers with the job that it made.",
        }
    ],
    "requestBody": _BODY,
}
PLAN: dict[str, Any] = {"requestBody": _BODY}

_KEY_FIELDS = {
    "name": _field({**_TEXT, "minLength": 1, "maxLength": 255}, "Your own word for it."),
    "scopes": _field(
        {"type": "array", "items": {"enum": ["generate", "read", "admin"]}, "default": ["generate"]},
        "What it is for.",
    ),
    "requests_per_minute": _field(_INTEGER, "Requests that make a job, in each minute of the clock."),
    "max_running": _field(_INTEGER, "Jobs that may run at the same time; more wait."),
    "max_queued": _field(_INTEGER, "Jobs that may wait."),
    "max_storage_bytes": _field(
        _INTEGER, "Bytes of finished videos, files, characters and open batches above which it makes no more."
    ),
    "models": _field({"type": "array", "items": _TEXT}, "Models that it may use; by default all."),
    "expires_at": _field(_TEXT, "An instant such as 2027-01-31T12:00:00Z."),
}
CREATE_KEY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["name"],
                    "properties": _KEY_FIELDS,
                    "additionalProperties": False,
                }
            }
        },
    }
}

_ENDPOINT_FIELDS = {
    "url": _field(_TEXT, "An http or https URL."),
    "events": _field(
        {"type": "array", "items": {"enum": ["video.completed", "video.failed"]}},
        "What it is told; by default all.",
    ),
    "name": _field({**_TEXT, "maxLength": 255}, "Your own word for it."),
}
ADD_ENDPOINT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["url"],
                    "properties": _ENDPOINT_FIELDS,
                    "additionalProperties": False,
                }
            }
        },
    }
}

ADD_MODEL: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["source"],
                    "properties": {
                        "source": _field(
                            _TEXT,
                            "A hub's OWNER/NAME (OWNER/NAME/FILE.safetensors of an adapter) or its page's URL, a folder of the "
                            "workers' machines, or an https URL of an adapter; as the setting `models.allow` has it.",
                        ),
                        "id": _field(
                            _TEXT, "What requests name it; by default the hub's or the file's name."
                        ),
                        "kind": _field(
                            {"type": "string", "enum": ["pipeline", "vae", "lora"], "default": "pipeline"},
                            "A whole model, an autoencoder, or an adapter.",
                        ),
                        "revision": _field(_TEXT, "A branch, a tag or a commit of the hub's."),
                        "webhook": _field(_TEXT, "URL that is told when it is there, or cannot be."),
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}

_OPTIONS: dict[str, dict[str, Any]] = {
    "worker": _field(_TEXT, "Id of the only worker that shall do it; by default all do."),
    "repair": _field({"type": "boolean"}, "Read what is there, and fetch again what is not right."),
    "force": _field({"type": "boolean"}, "Unload it first where it is loaded."),
    "process": _field({"type": "boolean"}, "Start the worker itself anew, and its engine with it."),
    "models": _field({"type": "boolean"}, "Unload all models too."),
}


def options(*names: str) -> dict[str, Any]:
    """Describe the body of a command, all of which may be left out."""
    properties = {name: _OPTIONS[name] for name in ("worker", *names)}
    described = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": described}}}}


REMOVE: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "schema": {"type": _OPTIONS[name]["type"]},
            "description": _OPTIONS[name]["description"],
        }
        for name in ("worker", "force")
    ]
}

PAGE: dict[str, Any] = {
    "parameters": [
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
        },
        {
            "name": "order",
            "in": "query",
            "schema": {"type": "string", "enum": ["asc", "desc"], "default": "desc"},
        },
        {"name": "after", "in": "query", "schema": _TEXT, "description": "Id of the last job seen."},
        {
            "name": "status",
            "in": "query",
            "schema": _TEXT,
            "description": "Only jobs of these, joined by commas.",
        },
        {
            "name": "user",
            "in": "query",
            "schema": _TEXT,
            "description": "Only jobs that were made for this `user`.",
        },
    ]
}

DELIVERY_PAGE: dict[str, Any] = {
    "parameters": [
        *(parameter for parameter in PAGE["parameters"] if parameter["name"] in ("limit", "order")),
        {"name": "after", "in": "query", "schema": _TEXT, "description": "Id of the last delivery seen."},
        {
            "name": "status",
            "in": "query",
            "schema": {**_TEXT, "enum": ["pending", "delivered", "failed"]},
        },
        {"name": "job", "in": "query", "schema": _TEXT, "description": "Only about the job of this id."},
        {"name": "endpoint", "in": "query", "schema": _TEXT, "description": "Only to this endpoint."},
    ]
}

_binary = {"schema": {"type": "string", "format": "binary"}}
_files = {kind: _binary for kind in ("video/mp4", "image/gif", "image/webp", "image/jpeg")}
_index = {
    "name": "index",
    "in": "query",
    "schema": {"type": "integer", "minimum": 0, "maximum": MAX_NUM_VIDEOS - 1, "default": 0},
    "description": "Which of the job's videos.",
}
FILE: dict[str, Any] = {
    "parameters": [
        _index,
        {
            "name": "variant",
            "in": "query",
            "schema": {**_TEXT, "enum": list(VARIANTS), "default": "video"},
            "description": "The video itself, or which picture of it.",
        },
    ]
}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": _files},
    302: {
        "description": "Where the file is, if this server has clients fetch files from the storage itself."
    },
    304: {"description": "The file is the one that the client has."},
    206: {
        "description": "The ranges that were asked for.",
        "content": _files,
    },
}

EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events; `id` is the event's number, `data` a JSON object.",
        "content": {
            "text/event-stream": {}
        },  # a schema would be one of the whole text, or of each event: readers differ
    }
}

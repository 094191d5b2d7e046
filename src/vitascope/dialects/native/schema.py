"""The native API's description in `/openapi.json`; a test compares it with the answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from vitascope.domain.loras import MAX_LORAS
from vitascope.domain.request import MAX_NUM_VIDEOS
from vitascope.domain.video import VARIANTS

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Mode = Literal["text", "image", "last_image", "video", "reference"]


class Choice(BaseModel):
    """What was chosen without being asked for, and why."""

    name: str
    value: str
    reason: str


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str


class FinishedPicture(BaseModel):
    """A picture that was made of a video."""

    #: As the video's.
    url: str
    signed_url: str | None
    signed_url_expires_at: datetime | None
    media_type: str
    num_bytes: int
    sha256: str
    height: int
    width: int


class Spritesheet(FinishedPicture):
    """Frames of a video side by side, in reading order; of T tiles, tile k is the frame at k/T of the duration."""

    rows: int
    columns: int
    #: The last row may have room for more, which is black.
    num_tiles: int


class FailedVideo(BaseModel):
    """One of several videos that was not made, although others were."""

    index: int
    code: str
    message: str


class FinishedVideo(BaseModel):
    """A finished file."""

    #: Which of the job's videos it is, from 0.
    index: int
    seed: int
    #: Needs the API key, as every other call.
    url: str
    #: Needs none: whoever has it has the file, until `signed_url_expires_at`. Both are null once the file has expired.
    signed_url: str | None
    signed_url_expires_at: datetime | None
    media_type: str
    num_bytes: int
    sha256: str
    height: int
    width: int
    num_frames: int
    fps: int
    duration_seconds: float
    #: The frame in its middle, as WebP. Null, as is the next, in jobs from before there were such pictures.
    thumbnail: FinishedPicture | None
    spritesheet: Spritesheet | None


class Shot(BaseModel):
    """One of several scenes."""

    prompt: str
    num_frames: int


class Watermark(BaseModel):
    """What is drawn on each frame."""

    kind: Literal["text", "image"]
    text: str | None
    position: str
    opacity: float


class Upscale(BaseModel):
    """The second pass, over the first result."""

    #: Of the file.
    height: int
    width: int
    #: At which the pass works.
    native_height: int
    native_width: int
    strength: float
    guidance_scale: float
    num_inference_steps: int
    scheduler: str | None
    #: The model that makes it.
    model: str


class ImprovedSampling(BaseModel):
    """Denoising in rounds, each from the low frequencies of what the one before made."""

    #: Of the first video; each further one has the next.
    seed: int
    iterations: int


class Provenance(BaseModel):
    """What a file says of its origin; true only if `state` is `valid`."""

    #: `tampered` is not as it was signed; `none` was not signed.
    state: Literal["valid", "tampered", "none"]
    #: Whether its certificate is this server's.
    is_known: bool
    generator: str | None
    model: str | None
    model_license: str | None
    model_source: str | None
    made_at: str | None
    prompt: str | None
    digital_source_type: str | None
    #: Name of the certificate.
    signer: str | None
    #: Codes of C2PA, or of ours.
    problems: list[str]
    #: What it means.
    message: str


class Lora(BaseModel):
    """An adapter, and how strong it is."""

    name: str
    scale: float


class Job(BaseModel):
    """A job: what was asked for and how it is made, where it stands, and its file."""

    id: str
    status: Status
    cancel_requested: bool
    progress: int
    stage: str
    attempt: int
    #: Of a waiting job; 1 goes next.
    queue_position: int | None
    #: Until the video is ready, from measured speeds; null while they are unknown.
    eta_seconds: float | None
    priority: int
    model: str
    mode: Mode
    prompt: str
    #: Whether a language model writes the prompt out first; where that came to nothing, `choices` say why.
    enhance_prompt: bool
    #: What it has written; null until it has, or if it has not.
    enhanced_prompt: str | None
    negative_prompt: str
    #: Empty where there is only one.
    shots: list[Shot]
    height: int
    width: int
    num_frames: int
    fps: int
    duration_seconds: float
    num_inference_steps: int
    guidance_scale: float
    scheduler: str | None
    #: Of a given video.
    strength: float | None
    #: How many of the frames are those of the video that is continued; 0 if there is none.
    continued_frames: int
    #: Id of the job whose video it is made from.
    source: str | None
    #: Beside those of the model's card.
    loras: list[Lora]
    clip_skip: int | None
    upscale: Upscale | None
    improved_sampling: ImprovedSampling | None
    preview_every: int
    #: Of the first video; each further one has the next.
    seed: int
    num_videos: int
    format: Literal["mp4", "gif"]
    #: Whether the file carries a signed statement of its origin.
    provenance: bool
    watermark: Watermark | None
    metadata: dict[str, Any]
    user: str | None
    webhook: str | None
    track_id: str | int | None
    choices: list[Choice]
    seconds_by_stage: dict[str, float]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    #: How long its files are kept once it has ended; null for as long as the job.
    expires_in_seconds: int | None
    #: When its files go.
    expires_at: datetime | None
    #: When they were gone.
    expired_at: datetime | None
    error: JobError | None
    #: The first of `videos`.
    video: FinishedVideo | None
    videos: list[FinishedVideo]
    #: Of a job that has succeeded with fewer videos than were asked for.
    failed_videos: list[FailedVideo]


class Window(BaseModel):
    """One pass of the model."""

    num_frames: int
    mode: Mode
    #: Frames that it shares with the window before.
    overlap: int
    shot: int


class Plan(BaseModel):
    """How a request would be made."""

    model: str
    mode: Mode
    height: int
    width: int
    num_frames: int
    fps: int
    duration_seconds: float
    fit: Literal["none", "scale", "crop", "pad"]
    native_height: int
    native_width: int
    native_num_frames: int
    native_fps: int
    windows: list[Window]
    num_inference_steps: int
    #: Denoising steps of all windows of one video, in both passes if there are two and in all rounds of improved sampling.
    total_steps: int
    num_videos: int
    guidance_scale: float
    scheduler: str | None
    strength: float | None
    loras: list[Lora]
    #: How many of the frames are those of the video that is continued; 0 if there is none.
    continued_frames: int
    upscale: Upscale | None
    improved_sampling: ImprovedSampling | None
    #: For all videos, once it runs, from measured speeds; null while they are unknown.
    expected_seconds: float | None
    choices: list[Choice]


class JobPage(BaseModel):
    """Some jobs, in order of arrival."""

    jobs: list[Job]
    has_more: bool


class Size(BaseModel):
    """A picture's size in pixels."""

    height: int
    width: int


class FrameRule(BaseModel):
    """Frame counts of one pass: multiple * k + offset."""

    multiple: int
    offset: int
    minimum: int
    maximum: int
    default: int


class Bounds(BaseModel):
    """A number's default and range."""

    default: float
    minimum: float
    maximum: float


class UpscaleRule(BaseModel):
    """How a model makes a second pass over its own clips."""

    #: The model that makes it.
    model: str
    #: Largest picture that it denoises; a larger file is resized.
    max_pixels: int
    strength: Bounds


class ModelDescription(BaseModel):
    """A model and what it accepts."""

    id: str
    title: str
    description: str
    license: str
    aliases: list[str]
    modes: list[Mode]
    sizes: list[Size]
    size_multiple: int
    max_pixels: int
    num_frames: FrameRule
    fps: int
    num_inference_steps: Bounds
    guidance_scale: Bounds
    schedulers: list[str]
    scheduler_family: Literal["flow", "discrete", "cogvideox", "edm"]
    #: Null where it changes no videos.
    strength: Bounds | None
    #: Null where it makes no second pass.
    upscale: UpscaleRule | None
    #: Layers of a CLIP text encoder, which `clip_skip` counts; 0 if there is none.
    clip_layers: int
    #: Adapters that its card always applies.
    card_loras: list[Lora]
    #: Names of the operator's adapters that fit it; empty while it is not on the server's machine.
    loras: list[str]
    takes_prompt: bool
    takes_negative_prompt: bool
    #: Of the device, in bfloat16; 0 if unknown.
    memory_gb: float
    price_class: str
    is_default: bool
    #: `hub:OWNER/NAME`, `embedded:NAME` or `folder`.
    source: str
    #: The commit that is on this machine, or that a broken download is of.
    revision: str | None
    #: Whether all of it is on the server's machine.
    downloaded: bool
    num_bytes_on_disk: int
    #: Why it cannot be loaded.
    problem: str | None
    #: Ids of workers that would start with it at once.
    loaded_on: list[str]


class ModelPage(BaseModel):
    """All models, the default one first."""

    models: list[ModelDescription]


class CommandPart(BaseModel):
    """How far a worker is with a command."""

    worker: str
    status: Literal["queued", "running", "done", "failed"]
    message: str
    num_bytes: int
    total_bytes: int
    started_at: datetime | None
    finished_at: datetime | None


class Command(BaseModel):
    """What an operator wants of workers, and what came of it."""

    id: str
    kind: Literal["load", "unload", "clear_caches", "restart", "pull", "verify", "remove"]
    model: str | None
    status: Literal["queued", "running", "done", "failed"]
    created_at: datetime
    workers: list[CommandPart]


class CommandList(BaseModel):
    """The commands of the last day, the newest first."""

    commands: list[Command]


class ModelMemory(BaseModel):
    """What a loaded model takes."""

    #: Of its weights.
    weights_bytes: int
    #: Most that its work has taken beside them; null before that was measured.
    work_bytes: int | None
    #: Generations that are open.
    num_open: int


class WorkerMemory(BaseModel):
    """What a worker's engine has in memory, and counts since it was started."""

    models: dict[str, ModelMemory]
    #: What models and their work may take; null where what is free decides.
    budget_bytes: int | None
    loads: int
    load_seconds: float
    #: How many of the loads were done while something else ran.
    loads_ahead: int
    #: Generations whose model was there already.
    hits: int
    #: Models that went because another needed the room.
    evictions: int
    #: Generations and loads that failed because the memory was not enough.
    out_of_memory: int


class Worker(BaseModel):
    """A worker that lives."""

    id: str
    device: str
    loaded: list[str]
    memory: WorkerMemory
    started_at: datetime


class WorkerList(BaseModel):
    """All workers that live."""

    workers: list[Worker]


class Queue(BaseModel):
    """How much is waiting."""

    queued: int
    running: int
    queued_by_model: dict[str, int]
    oldest_queued_seconds: float
    live_workers: int


class Key(BaseModel):
    """What is kept of an API key."""

    id: str
    name: str
    prefix: str
    last4: str
    scopes: list[Literal["generate", "read", "admin"]]
    requests_per_minute: int | None
    max_running: int | None
    max_queued: int | None
    max_storage_bytes: int | None
    models: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKey(Key):
    """A key with its secret, which nobody can show again."""

    key: str


class KeyList(BaseModel):
    """All keys that ever were, oldest first."""

    keys: list[Key]


class WebhookSecret(BaseModel):
    """What webhooks are signed with; `expires_at` is set on the one that was replaced."""

    secret: str
    created_at: datetime
    expires_at: datetime | None


class WebhookSecrets(BaseModel):
    """The secrets that are good now, the current one first."""

    key_id: str
    secrets: list[WebhookSecret]


class Endpoint(BaseModel):
    """A receiver of all that happens to a key's jobs."""

    id: str
    #: The holder's own word for it; may be empty.
    name: str
    url: str
    events: list[Literal["video.completed", "video.failed"]]
    created_at: datetime
    #: Set once it has answered 410 (Gone), or nothing has arrived there for days.
    disabled_at: datetime | None
    disabled_reason: str | None


class NewEndpoint(Endpoint):
    """An endpoint with what its messages are signed with."""

    secret: str


class EndpointList(BaseModel):
    """The key's endpoints, oldest first."""

    endpoints: list[Endpoint]


class EndpointSecrets(BaseModel):
    """The secrets that are good now, the current one first."""

    endpoint_id: str
    secrets: list[WebhookSecret]


class Attempt(BaseModel):
    """What came of sending a webhook once."""

    number: int
    ended_at: datetime
    #: Of HTTP; null if there was no answer.
    status: int | None
    #: Empty after success.
    reason: str
    duration_ms: int


class Delivery(BaseModel):
    """A webhook, and what became of it."""

    id: str
    status: Literal["pending", "delivered", "failed"]
    event: Literal["video.completed", "video.failed", "webhook.test"]
    format: str
    url: str
    job_id: str | None
    endpoint_id: str | None
    created_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None
    reason: str
    attempts: list[Attempt]


class DeliveryPage(BaseModel):
    """Some webhooks, by age."""

    deliveries: list[Delivery]
    has_more: bool


class ErrorDetail(BaseModel):
    """What is wrong. `parameter`, `rule` and `nearest` are there for an illegal parameter."""

    code: str
    message: str
    hint: str | None
    parameter: str | None = None
    rule: str | None = None
    nearest: Any = None


class ErrorAnswer(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "The request cannot be carried out as it stands."},
    "5XX": {"model": ErrorAnswer, "description": "The server cannot carry it out now."},
}

_NUMBER: dict[str, Any] = {"anyOf": [{"type": "number"}, {"type": "string"}]}
_INTEGER: dict[str, Any] = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
_TEXT: dict[str, Any] = {"type": "string"}


def _field(kind: dict[str, Any], description: str) -> dict[str, Any]:
    return {**kind, "description": description}


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
    "preview_every": _field(
        _INTEGER, "A small picture as an event every so many denoising steps; 0, the default, for none."
    ),
    "shots": _field(
        {"anyOf": [{"type": "array", "items": {"anyOf": [_TEXT, {"type": "object"}]}}, _TEXT]},
        "Scenes with cuts between them: each a text, or an object with `prompt` and `num_frames` or `duration_seconds`. "
        "What `prompt` says, if it is given, stands before each.",
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

_OPTIONS: dict[str, dict[str, Any]] = {
    "worker": _field(_TEXT, "Id of the only worker that shall do it; by default all do."),
    "repair": _field({"type": "boolean"}, "Read what is there, and fetch again what is not right."),
    "force": _field({"type": "boolean"}, "Unload it first where it is loaded."),
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

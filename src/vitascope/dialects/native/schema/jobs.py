"""Answers about jobs, their plans and their files."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from vitascope.dialects import _http

from .credits import JobCredits

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Mode = Literal["text", "image", "last_image", "video", "reference"]


class Choice(_http.Described):
    """What was chosen without being asked for, and why."""

    name: str
    value: str
    reason: str


class JobError(_http.Described):
    """Why a job failed."""

    code: str
    message: str


class FinishedPicture(_http.Described):
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


class FailedVideo(_http.Described):
    """One of several videos that was not made, although others were."""

    index: int
    code: str
    message: str


class FinishedVideo(_http.Described):
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


class Shot(_http.Described):
    """One of several scenes."""

    prompt: str
    num_frames: int
    duration_seconds: float
    #: How it is made to follow the one before: from that one's last frame, or by a cut, as which the first one counts.
    transition: Literal["continue", "cut"]


class Watermark(_http.Described):
    """What is drawn on each frame."""

    kind: Literal["text", "image"]
    text: str | None
    position: str
    opacity: float


class Upscale(_http.Described):
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


class ImprovedSampling(_http.Described):
    """Denoising in rounds, each from the low frequencies of what the one before made."""

    #: Of the first video; each further one has the next.
    seed: int
    iterations: int


class Provenance(_http.Described):
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


class Lora(_http.Described):
    """An adapter, and how strong it is."""

    name: str
    scale: float


class Job(_http.Described):
    """A job: what was asked for and how it is made, where it stands, and its file."""

    id: str
    #: In order of arrival: the id in dialects whose ids are whole numbers.
    number: int
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
    may_hand_over: bool
    is_public: bool
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
    #: The level in effect, which may be more careful than what was asked for: `choices` says why.
    speed: Literal["lossless", "balanced", "fast"]
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
    #: What it costs; null if its key is not counted.
    credits: JobCredits | None


class Window(_http.Described):
    """One pass of the model."""

    num_frames: int
    mode: Mode
    #: Frames that it shares with the window before.
    overlap: int
    shot: int


class Plan(_http.Described):
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
    #: The level in effect.
    speed: Literal["lossless", "balanced", "fast"]
    #: For all videos, once it runs, from measured speeds; null while they are unknown.
    expected_seconds: float | None
    choices: list[Choice]


class JobPage(_http.Described):
    """Some jobs, in order of arrival."""

    jobs: list[Job]
    has_more: bool

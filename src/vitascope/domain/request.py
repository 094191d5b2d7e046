"""What a client asked for, in our words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .webhook import Webhook

OutputFormat = Literal["mp4", "gif"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = ("mp4", "gif")

Position = Literal[
    "top-left", "top", "top-right", "left", "center", "right", "bottom-left", "bottom", "bottom-right"
]

Transition = Literal["continue", "cut"]
TRANSITIONS: tuple[Transition, ...] = ("continue", "cut")

MAX_SEED = 2**63 - 1

MAX_NUM_VIDEOS = 10
"""Of one request. More are more requests: each job has one place in the queue and is made again as a whole."""

MAX_PRIORITY = 10
"""Priorities go from its negative to it."""

MIN_EXPIRES_SECONDS = 60
"""A video that goes sooner could be gone before its client has seen that it is there."""

MAX_EXPIRES_SECONDS = 10 * 365 * 24 * 3600

TEMP_SECONDS = 24 * 3600
"""How long vendors keep a video that was asked for as temporary."""

MAX_VIDEO_SECONDS = 120
MAX_VIDEO_FRAMES = 60 * MAX_VIDEO_SECONDS
"""Of a video that is sent to be changed: twice the longest that is made, at the highest rate."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One of several scenes."""

    prompt: str
    #: In the file; None shares what the others leave.
    num_frames: int | None = None
    #: How it follows the shot before: from that one's last frame, where the model starts from pictures, or by a cut; None is a cut.
    transition: Transition | None = None


@dataclass(frozen=True, slots=True)
class Lora:
    """One of the operator's adapters, which changes the model for this video."""

    #: Of its file, without the ending.
    name: str
    #: How strong it is: 0 nothing, 1 as it was trained.
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    """What can be seen on each frame: text or a picture. One with neither asks for none, not even the operator's."""

    text: str | None = None
    #: As `GenerationRequest.image`.
    image: str | None = None
    position: Position = "bottom-right"
    #: Up to 1, which is opaque.
    opacity: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Upscale:
    """A second pass over the finished clip, at a larger size. `None` means that the model's card decides."""

    #: Of the file, as width is; the request's own height and width are those of the first pass.
    height: int | None = None
    width: int | None = None
    #: How much of the first result is made anew: 0 nothing, 1 all.
    strength: float | None = None
    guidance_scale: float | None = None
    num_inference_steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImprovedSampling:
    """Denoising in rounds, each from the low frequencies of what the one before made (FreeInit)."""

    #: Of the noise that each further round gets; drawn at submit like `GenerationRequest.seed`.
    seed: int | None = None
    #: Rounds in all: the operator's, filled in at submit so that a retry makes the same video.
    iterations: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One video or several alike, as asked for. `None` means that the model's card decides; `plan()` fills it in."""

    prompt: str
    model: str
    negative_prompt: str = ""
    #: Key of a stored input (server) or a checked local file (command line) that is the first frame.
    image: str | None = None
    #: The same, of the frame that the video ends with.
    last_image: str | None = None
    #: The same, of a video that is changed.
    video: str | None = None
    #: The same, of a video that is continued: its frames come first in the file.
    continues: str | None = None
    #: How many of the file's frames are the continued video's; known once that was looked at.
    continued_frames: int | None = None
    #: How long it goes on after a continued video, where `num_frames` does not say how long it is in all.
    added_seconds: float | None = None
    #: What the continued video is marked with already: that is not drawn on its frames a second time.
    continued_watermark: Watermark | None = None
    #: Id of the job whose video it is made from.
    source: str | None = None
    #: Whether that video has a border around what the model made: then the model gets what is within.
    source_has_border: bool = False
    #: The same, of pictures of who or what appears.
    references: tuple[str, ...] = ()
    #: Scenes in their order; what `prompt` says holds for all.
    shots: tuple[Shot, ...] = ()
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    #: Frames per second of the file. Together with `num_frames` it is the duration.
    fps: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    #: A diffusers scheduler class by name; `None` is the checkpoint's own.
    scheduler: str | None = None
    #: How far the noise levels of a flow-matching model are moved towards noise; `None` is the checkpoint's own.
    flow_shift: float | None = None
    #: How much of a given video is changed: 0 nothing, 1 all. With `image` that picture, standing still, is the video.
    strength: float | None = None
    #: Beside those of the model's card.
    loras: tuple[Lora, ...] = ()
    #: Layers of a CLIP text encoder that are left out at its end.
    clip_skip: int | None = None
    #: Whether a language model writes the prompt out first; None is what the operator wants.
    enhance_prompt: bool | None = None
    #: What it has written for an earlier job of this request, in the place of the texts that the model would read.
    enhanced_prompts: tuple[str, ...] = ()
    #: A second pass at a larger size; None makes none.
    upscale: Upscale | None = None
    #: None denoises once.
    improved_sampling: ImprovedSampling | None = None
    #: A small picture of the video as it is, every so many denoising steps; 0 makes none.
    preview_every: int = 0
    #: How far it may differ from what every step computed in full would make, for the sake of time: a level of `speed_levels`. The
    #: operator's is filled in at submit, so that a retry makes the same video; None is lossless.
    speed: str | None = None
    #: Drawn at submit when the client gave none, so that a retry makes the same video.
    seed: int | None = None
    #: Whether no client chose it: then the lowest bits may depend on what else is computed at the time.
    is_seed_drawn: bool = False
    #: The first one has the seed, each further one the next higher.
    num_videos: int = 1
    format: OutputFormat = "mp4"
    #: Whether the file carries a signed statement of its origin; None is what the operator wants.
    provenance: bool | None = None
    #: None is the operator's.
    watermark: Watermark | None = None
    #: Jobs of a higher priority go first.
    priority: int = 0
    #: Whether a peer server may make it while this one is busy; of a job that came from a peer it never is.
    may_hand_over: bool = False
    #: Whether others find it in the gallery once it is made; else only its owner sees it.
    is_public: bool = False
    #: How long the file and what was sent for it are kept, from the job's end; None for as long as the job.
    expires_in_seconds: int | None = None
    #: The client's own words about the job, given back unchanged.
    metadata: Mapping[str, Any] = field(default_factory=dict)
    #: The client's own name for its end user, given back unchanged.
    user: str | None = None
    #: How the client spoke, by dialect: remembered and given back by that dialect alone, and read by nobody else.
    notes: Mapping[str, Any] = field(default_factory=dict)
    #: Where its client reached the server, such as `https://videos.example`: addresses that it is told begin so.
    base_url: str = ""
    #: Where its end is told; the key's endpoints are told beside it.
    webhook: Webhook | None = None
    #: The client's own name for the job, told with its end.
    track_id: str | int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values of it, for the store."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GenerationRequest:
        shots = tuple(Shot(**shot) for shot in values.get("shots", ()))
        watermark, webhook = values.get("watermark"), values.get("webhook")
        continued, upscale = values.get("continued_watermark"), values.get("upscale")
        improved = values.get("improved_sampling")
        rows: dict[str, Any] = {
            name: tuple(values.get(name, ())) for name in ("references", "enhanced_prompts")
        }
        rows["shots"] = shots
        rows["loras"] = tuple(Lora(**lora) for lora in values.get("loras", ()))
        objects = {
            "watermark": watermark and Watermark(**watermark),
            "continued_watermark": continued and Watermark(**continued),
            "webhook": webhook and Webhook(**webhook),
            "upscale": None if upscale is None else Upscale(**upscale),
            "improved_sampling": improved and ImprovedSampling(**improved),
        }
        return cls(**{**values, **rows, **objects})

    def text_of_shot(self, index: int) -> str:
        """What the model reads of a shot: what is said of the whole stands before what is said of the shot."""
        return " ".join(part for part in (self.prompt.strip(), self.shots[index].prompt.strip()) if part)

    @property
    def texts(self) -> dict[str, str]:
        """What it says that a video shall show, by parameter; not what it shall not show, nor what is only given back."""
        shots = {f"shots[{index}].prompt": self.text_of_shot(index) for index in range(len(self.shots))}
        others = {
            "enhanced_prompt": " / ".join(self.enhanced_prompts),
            "watermark.text": None if self.watermark is None else self.watermark.text,
        }
        return {"prompt": self.prompt, **shots, **{name: text for name, text in others.items() if text}}

    @property
    def inputs(self) -> tuple[str, ...]:
        """All pictures and videos that it names."""
        watermark = None if self.watermark is None else self.watermark.image
        named = (self.image, self.last_image, self.video, self.continues, watermark, *self.references)
        return tuple(name for name in named if name is not None)


def num_frames_for(duration_seconds: float, fps: int) -> int:
    """Frames that a file of this duration has at this rate: the nearest whole number, at least one."""
    return max(1, round(duration_seconds * fps))

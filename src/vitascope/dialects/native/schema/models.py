"""Answers about models."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from vitascope.dialects import _http

from .jobs import Lora, Mode


class Size(_http.Described):
    """A picture's size in pixels."""

    height: int
    width: int


class FrameRule(_http.Described):
    """Frame counts of one pass: multiple * k + offset."""

    multiple: int
    offset: int
    minimum: int
    maximum: int
    default: int


class Bounds(_http.Described):
    """A number's default and range."""

    default: float
    minimum: float
    maximum: float


class UpscaleRule(_http.Described):
    """How a model makes a second pass over its own clips."""

    #: The model that makes it.
    model: str
    #: Largest picture that it denoises; a larger file is resized.
    max_pixels: int
    strength: Bounds


class StepClass(_http.Described):
    """A factor for up to so many denoising steps; null is any number."""

    max_steps: int | None
    factor: float


class Price(_http.Described):
    """What a model's videos cost."""

    per_megapixel_second: float
    step_classes: list[StepClass]


class AddedModel(_http.Described):
    """A model, an adapter or an autoencoder that was added while the server runs."""

    id: str
    kind: Literal["pipeline", "vae", "lora"]
    source: str
    revision: str | None
    #: The command that fetches it.
    command: str
    created_at: datetime
    #: When a worker first had all of it; null before that.
    ready_at: datetime | None


class AddedModelList(_http.Described):
    """What was added."""

    models: list[AddedModel]


class ModelDescription(_http.Described):
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
    #: What keys that are counted pay for its videos: credits for a megapixel-second, by the class of their steps.
    price: Price
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


class ModelPage(_http.Described):
    """All models, the default one first."""

    models: list[ModelDescription]

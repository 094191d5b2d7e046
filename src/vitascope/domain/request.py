"""What a client asked for, in our words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OutputFormat = Literal["mp4", "gif"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = ("mp4", "gif")

MAX_SEED = 2**63 - 1

MAX_PRIORITY = 10
"""Priorities go from its negative to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One video, as asked for. `None` means that the model's card decides; `plan()` fills it in."""

    prompt: str
    model: str
    negative_prompt: str = ""
    #: Key of a stored input (server) or a checked local file (command line) that is the first frame.
    image: str | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    #: Frames per second of the file. Together with `num_frames` it is the duration.
    fps: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    #: A diffusers scheduler class by name; `None` is the checkpoint's own.
    scheduler: str | None = None
    #: Drawn at submit when the client gave none, so that a retry makes the same video.
    seed: int | None = None
    format: OutputFormat = "mp4"
    #: Jobs of a higher priority go first.
    priority: int = 0
    #: The client's own words about the job, given back unchanged.
    metadata: Mapping[str, Any] = field(default_factory=dict)
    #: The client's own name for its end user, given back unchanged.
    user: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values of it, for the store."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GenerationRequest:
        return cls(**values)


def num_frames_for(duration_seconds: float, fps: int) -> int:
    """Frames that a file of this duration has at this rate: the nearest whole number, at least one."""
    return max(1, round(duration_seconds * fps))

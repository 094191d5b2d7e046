"""What the vendor's model names ask for: what the video starts from, and with how much care it is made."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vitascope.domain.choice import Choice
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.speed_levels import SpeedLevel

Start = Literal["text", "image", "either", "shots"]
"""Text alone, a picture that must be there, a picture if there is one, or a storyboard."""

QUALITY = 1.5
"""Times as many denoising steps as the card's default, up to the card's most: what `pro` asks for."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a model's name asks for."""

    start: Start
    #: The quality preset.
    is_pro: bool = False
    #: Nothing that trades quality for speed.
    is_stable: bool = False
    #: In seconds.
    lengths: tuple[int, ...] = (10, 15)

    @property
    def speed(self) -> SpeedLevel | None:
        """What the name asks for, whatever the operator's level is."""
        return "lossless" if self.is_stable else None

    @property
    def has_sizes(self) -> bool:
        """Whether `size` has an effect."""
        return self.is_pro and self.start in ("text", "image")


#: Of `POST /api/v1/video/sora-pro`.
MODELS: Mapping[str, Kind] = {
    "sora-2-text-to-video": Kind("text"),
    "sora-2-image-to-video": Kind("image"),
    "sora-2-text-to-video-stable": Kind("text", is_stable=True),
    "sora-2-image-to-video-stable": Kind("image", is_stable=True),
    "sora-2-pro-text-to-video": Kind("text", is_pro=True),
    "sora-2-pro-image-to-video": Kind("image", is_pro=True),
    "sora-2-pro-storyboard": Kind("shots", is_pro=True, lengths=(10, 15, 25)),
}

#: Of `POST /api/v1/video/sora-video`.
OLDER_MODELS: Mapping[str, Kind] = {
    "sora-2": Kind("either"),
    "sora-2-pro": Kind("either", is_pro=True),
    "sora-2-stable": Kind("either", is_stable=True),
}


def kind_of(name: str, known: Mapping[str, Kind]) -> Kind:
    """Find what a name asks for.

    Raises:
        InvalidParameter: it is none of those.
    """
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    rule = f"it must be one of {', '.join(known)}"
    raise InvalidParameter("model", name or "missing", rule, nearest=near[0] if near else None)


def preset(kind: Kind, spec: ModelSpec) -> tuple[int | None, tuple[Choice, ...]]:
    """Tell how many steps a name asks for, None for the card's own."""
    if not kind.is_pro:
        return None, ()
    bounds = spec.num_inference_steps
    steps = int(min(bounds.maximum, max(bounds.default, math.ceil(bounds.default * QUALITY))))
    reason = f"the model's name asks for quality: {QUALITY:g} times its {bounds.default:g} steps, at most {bounds.maximum:g}"
    return steps, (Choice("num_inference_steps", str(steps), reason),)

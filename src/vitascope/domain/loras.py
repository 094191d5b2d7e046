"""Adapters of low rank (LoRA) that a request names: how many, how strong. Which there are, only the catalog knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InvalidParameter
from .model_spec import Bounds

if TYPE_CHECKING:
    from .request import GenerationRequest, Lora

MAX_LORAS = 4
"""Of one request; those of the model's card come on top. Each costs time at every layer, and more hardly work together."""

LORA_SCALES = Bounds(1.0, -4.0, 4.0)
"""Most are made for 1. Below 0 the video gets the opposite; far beyond these ends every model gives noise."""


@dataclass(frozen=True, slots=True)
class LoraFile:
    """An adapter that is applied: where it is, and how."""

    #: As requests name it, or as a card does.
    name: str
    path: Path
    scale: float
    #: The only component that it changes, such as `transformer_2`; None for all that it fits.
    component: str | None = None
    #: Whether the model's card asks for it, and not the request.
    is_of_card: bool = False


def loras_of(request: GenerationRequest) -> tuple[Lora, ...]:
    """Check what can be said of a request's adapters without their files.

    Raises:
        InvalidParameter: there are too many, one is named twice, or its scale is out of range.
    """
    if len(request.loras) > MAX_LORAS:
        raise InvalidParameter("loras", f"{len(request.loras)} long", f"there may be at most {MAX_LORAS}")
    names = [lora.name for lora in request.loras]
    for index, lora in enumerate(request.loras):
        if lora.name in names[:index]:
            rule = "it is named twice"
            raise InvalidParameter(f"loras[{index}].name", lora.name, rule, hint="add the scales up")
        low, high = LORA_SCALES.minimum, LORA_SCALES.maximum
        if not low <= lora.scale <= high:  # also catches NaN
            nearest = high if lora.scale > high else low
            rule = f"it must be from {low:g} to {high:g}"
            raise InvalidParameter(f"loras[{index}].scale", lora.scale, rule, nearest=f"{nearest:g}")
    return request.loras

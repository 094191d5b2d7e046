"""What single model classes need before any diffusers pipeline that has them runs.

Belongs here: facts about diffusers 0.42's classes, each with its reason. Never here: what a card can say.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch

from vitascope.domain.errors import InvalidOutput


def prepare(pipe: Any) -> None:
    """Make a pipeline that was just loaded ready for every request."""
    for component in pipe.components.values():
        quirk = _BY_CLASS.get(type(component).__name__)
        if quirk is not None:
            quirk(component)
    if getattr(pipe, "safety_checker", None) is not None:
        pipe.vae.decoder.register_forward_hook(_refuse_nan)


def _refuse_nan(_decoder: Any, _inputs: Any, frames: torch.Tensor) -> None:
    """Look at decoded frames before Cosmos's own guardrail does: it makes whole numbers of them, black ones of NaN."""
    if not frames.isfinite().all():
        raise no_picture()


def no_picture() -> InvalidOutput:
    """Say that latents or frames are not finite."""
    message = "the model gave numbers that are not a picture"
    return InvalidOutput(message, hint="another seed, a lower guidance_scale or dtype float32 may help")


def _decode_in_tiles(vae: Any) -> None:
    """Allegro's autoencoder raises NotImplementedError without its tiles."""
    vae.enable_tiling()


def _resize_without_torchvision(transformer: Any) -> None:
    """Give Cosmos the one function that it takes from torchvision, which this project never installs.

    A torchvision that does not match torch breaks diffusers altogether.
    """
    from diffusers.models.transformers import transformer_cosmos

    if not hasattr(transformer_cosmos, "transforms"):
        functional = types.SimpleNamespace(resize=_resize_nearest)
        modes = types.SimpleNamespace(NEAREST="nearest")
        transformer_cosmos.transforms = types.SimpleNamespace(functional=functional, InterpolationMode=modes)


def _resize_nearest(mask: torch.Tensor, size: list[int], interpolation: str) -> torch.Tensor:
    return torch.nn.functional.interpolate(mask, size=size, mode=interpolation)


_BY_CLASS: dict[str, Callable[[Any], None]] = {
    "AutoencoderKLAllegro": _decode_in_tiles,
    "CosmosTransformer3DModel": _resize_without_torchvision,
}

"""Convolutions by the quickest kernel that this device has for them: whose, and with which order of numbers in memory.

Three dimensions: without AVX-512 torch does them by its general way, which writes every patch of its input out and multiplies: three
quarters of the time that an autoencoder takes. oneDNN, which torch brings along, has them in half the time (docs/experiments.md).
"""

from __future__ import annotations

import functools
import logging
import types
from typing import Any

import torch
from torch.nn import functional

from vitascope.domain.choice import Choice

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference from torch's own in a try on random numbers."""

MEASURED = "AutoencoderKLWan"
"""Class of autoencoders that were measured with their channels last."""


def quicken(module: torch.nn.Module, device: torch.device) -> int:
    """Let a module's convolutions go the quick way, where there is one; returns how many do. Copies of the module go it too."""
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX2" or not _has_onednn():
        return 0
    slow: list[Any] = [each for each in module.modules() if _is_slow(each)]
    for each in slow:
        each._conv_forward = types.MethodType(_by_onednn, each)
    return len(slow)


def _is_slow(layer: torch.nn.Module) -> bool:
    """Whether torch has a slow way for it, and oneDNN can take its place."""
    is_slow = isinstance(layer, torch.nn.Conv3d) and layer.weight.dtype in (torch.float32, torch.bfloat16)
    is_slow |= isinstance(layer, torch.nn.Conv2d) and layer.weight.dtype == torch.bfloat16
    return is_slow and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _by_onednn(
    layer: Any, clip: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    if clip.ndim < weight.ndim:  # one sample, without a dimension for samples
        return _by_onednn(layer, clip[None], weight, bias)[0]
    given = clip, weight, bias
    if clip.dtype == torch.bfloat16:  # where bfloat16 was asked for; oneDNN has it with AVX-512 only
        given = clip.float(), weight.float(), None if bias is None else bias.float()
    made: torch.Tensor = torch.mkldnn_convolution(
        *given, layer.padding, layer.stride, layer.dilation, layer.groups
    )
    return made.to(clip.dtype)


@functools.cache
def _has_onednn() -> bool:
    """Try oneDNN's convolution; where it does not work or says something else, torch's own it is."""
    if not torch.backends.mkldnn.is_available():
        return False
    numbers = torch.Generator().manual_seed(0)
    clip, weight, bias = (
        torch.randn(*shape, generator=numbers) / 4 for shape in ((1, 8, 3, 6, 6), (12, 8, 3, 3, 3), (12,))
    )
    try:
        made = torch.mkldnn_convolution(clip, weight, bias, (0, 1, 1), (1, 1, 1), (1, 1, 1), 1)
    except (RuntimeError, AttributeError, TypeError) as error:
        logger.info("no convolutions by oneDNN: %s", str(error).split("\n", 1)[0][:200])
        return False
    expected = functional.conv3d(clip, weight, bias, padding=(0, 1, 1))
    return float((made - expected).abs().max()) <= TOLERANCE


def choose_layout(asked: str, class_name: str, device: torch.device) -> Choice:
    """Choose the order in memory of an autoencoder's numbers: as checkpoints have them, or with the channels of a place side by side.

    Convolutions want the latter and else bring everything into it and back.

    Args:
        asked: the setting.
        class_name: of the autoencoder.
        device: where it works.
    """
    if asked != "auto":
        return _layout("on" if asked == "on" else "off", "set by engine.vae_channels_last")
    if device.type != "cpu" or class_name != MEASURED:
        where = "a CPU" if class_name == MEASURED else f"`{MEASURED}` on a CPU"
        return _layout("off", f"it was measured on {where} only")
    return _layout("on", "it decodes in less time so")


def _layout(value: str, reason: str) -> Choice:
    return Choice("vae channels last", value, reason)


def lay_out(module: torch.nn.Module) -> None:
    """Put the channels of a module's convolutions last; what they are given follows their weights."""
    for each in module.modules():
        if isinstance(each, torch.nn.Conv3d):
            each.to(memory_format=torch.channels_last_3d)
        elif isinstance(each, torch.nn.Conv2d):
            each.to(memory_format=torch.channels_last)

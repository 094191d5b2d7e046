"""Products of tokens with a layer's weights, by the quickest kernel that this device has for them.

On a CPU that is oneDNN's: torch hands it bfloat16 only, and float32 to MKL, which is half as quick on AMD's processors; and torch
knows no activation in the same kernel (docs/experiments.md). The operators are those that torch's own compiler uses.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch.nn import functional

logger = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Largest difference from torch's own product in a try on random numbers."""

Layer = tuple[torch.Tensor, torch.Tensor | None]
"""Weight and bias."""

_NONE: tuple[str, list[Any], str] = ("none", [], "")
_GELU: tuple[str, list[Any], str] = ("gelu", [], "tanh")


def _by_onednn(
    tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool
) -> torch.Tensor:
    made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, *(_GELU if gelu else _NONE))
    return made


_OPERATORS = torch.library.Library(
    "vitascope", "DEF"
)  # torch's compiler wants oneDNN's weights reordered beforehand
_OPERATORS.define("linear(Tensor tokens, Tensor weight, Tensor? bias, bool gelu) -> Tensor")
_OPERATORS.impl("linear", _by_onednn, "CPU")


def _shaped(
    tokens: torch.Tensor, weight: torch.Tensor, _bias: torch.Tensor | None, _gelu: bool
) -> torch.Tensor:
    return tokens.new_empty(*tokens.shape[:-1], len(weight))


torch.library.register_fake("vitascope::linear", _shaped, lib=_OPERATORS)


def product(
    tokens: torch.Tensor, layer: Layer, *, gelu: bool = False, by_onednn: bool = False
) -> torch.Tensor:
    """What weights make of tokens, where it is to be compiled: as `linear`, of a layer that nothing has changed.

    Args:
        by_onednn: where `has_onednn`.
    """
    if by_onednn:
        made: torch.Tensor = torch.ops.vitascope.linear(tokens, *layer, gelu)
        return made
    made = functional.linear(tokens, *layer)
    return functional.gelu(made, approximate="tanh") if gelu else made


def linear(tokens: torch.Tensor, layer: Any, *, gelu: bool = False) -> torch.Tensor:
    """What a linear layer, or a convolution whose kernels do not overlap, makes of tokens; then GELU, as its tanh form, if asked for."""
    if layer._forward_hooks:  # they expect all that a call does: adapters, weights that are kept in bytes
        made = layer(tokens)
    else:
        come(layer)
        weight = layer.weight if layer.weight.ndim == 2 else layer.weight.flatten(1)
        if has_onednn(tokens.device, tokens.dtype):
            return _by_onednn(tokens, weight, layer.bias, gelu)
        made = functional.linear(tokens, weight, layer.bias)
    return functional.gelu(made, approximate="tanh") if gelu else made


def come(module: Any) -> None:
    """Do what is to be done before a module works that is not called itself: its weights may wait elsewhere, a cancel may take effect."""
    for hook in module._forward_pre_hooks.values():
        hook(module, ())


def has_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether oneDNN multiplies."""
    return device.type == "cpu" and _has_onednn(dtype)


@functools.cache
def _has_onednn(dtype: torch.dtype) -> bool:
    """Try oneDNN's product; where it does not work or says something else, torch's own it is."""
    if dtype not in TOLERANCE or not torch.backends.mkldnn.is_available():
        return False
    numbers = torch.Generator().manual_seed(0)
    tokens, weight, bias = (
        torch.randn(*shape, generator=numbers).to(dtype) / 4 for shape in ((24, 32), (40, 32), (40,))
    )
    try:
        made = torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, "gelu", [], "tanh")
    except (RuntimeError, AttributeError, TypeError) as error:
        logger.info("no products by oneDNN: %s", str(error).split("\n", 1)[0][:200])
        return False
    expected = functional.gelu(
        functional.linear(tokens.float(), weight.float(), bias.float()), approximate="tanh"
    )
    return float((made.float() - expected).abs().max()) <= TOLERANCE[dtype]

"""Weights in one byte a value: int8 or float8 with a scale for each row, made whole layer by layer as they are used.

This is what diffusers calls layerwise casting, with a scale and without casting back. The bytes become the dtype that the layer
computes in, which is exact, and the scale goes over what comes out: measured, that costs next to no time, and int8 is nearer to the
whole weights than float8 (docs/experiments.md). No kernels beyond torch's own are needed, on any device.
"""

from __future__ import annotations

from typing import Any

import torch

from .placement import Quantization
from .sizes import KEPT_WHOLE

LARGEST = {"int8": 127.0, "fp8": 448.0}
"""Largest value that is stored, of float8 in its e4m3fn form."""

_LAYERS = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


def compact(module: torch.nn.Module, quantization: Quantization) -> None:
    """Keep a module's matrices and kernels in one byte a value. Not embeddings nor norms: the picture depends on them most."""
    if quantization == "none":
        return
    for name, layer in module.named_modules():
        if isinstance(layer, _LAYERS) and layer.weight.is_floating_point() and not KEPT_WHOLE.search(name):
            _Kept(layer, quantization)


def whole(layer: Any, name: str) -> torch.Tensor:
    """Give a layer's parameter as it computes, whether it is kept in bytes or not."""
    parameter: torch.Tensor = layer.get_parameter(name)
    kept = getattr(layer, "kept_in_bytes", None)
    return parameter.data if name != "weight" or kept is None else kept.whole(layer)


class _Kept:
    """The weights of one layer, while it does not work.

    They are there as bytes, also of float8: to models that ask for a layer's dtype, bytes say that they need not convert.
    """

    def __init__(self, layer: Any, quantization: Quantization) -> None:
        self._dtype = layer.weight.dtype
        self._is_int8 = quantization == "int8"
        #: float16 ends at 65504, which sums of values up to 448 reach: there the scale goes over the weights.
        self._scales_first = self._dtype == torch.float16
        weight = layer.weight.requires_grad_(requires_grad=False)
        values = weight.data.float()
        rows = values.flatten(1).abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)
        scale = (rows / LARGEST[quantization]).view(-1, *[1] * (values.ndim - 1))
        values /= scale
        narrow = values.round_().to(torch.int8) if self._is_int8 else values.to(torch.float8_e4m3fn)
        weight.data = narrow.view(torch.int8)
        layer.register_buffer("weight_scale", scale, persistent=False)
        layer.register_forward_pre_hook(self._widen)
        layer.register_forward_hook(self._narrow, always_call=True)
        layer.kept_in_bytes = self
        self._narrowed: torch.Tensor | None = None
        self._bias: torch.nn.Parameter | None = None

    def __deepcopy__(self, memo: Any) -> _Kept:
        """Every clone of the layer has the same weights. A layer does not pause, so one at a time has them whole."""
        return self

    def whole(self, layer: Any) -> torch.Tensor:
        """The layer's weight as it would be without this."""
        if layer.weight.is_floating_point():
            found: torch.Tensor = layer.weight.data
            return found
        return (self._values(layer.weight.data, torch.float32) * layer.weight_scale).to(self._dtype)

    def _values(self, narrowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return (narrowed if self._is_int8 else narrowed.view(torch.float8_e4m3fn)).to(dtype)

    def _widen(self, layer: Any, _inputs: Any) -> None:
        if layer.weight.is_floating_point():
            return  # a request has weights of its own here
        self._narrowed = layer.weight.data
        if self._scales_first:
            layer.weight.data = self.whole(layer)
        else:
            self._bias, layer.bias = layer.bias, None  # it comes after the scale
            layer.weight.data = self._values(self._narrowed, self._dtype)  # what may fail is last

    def _narrow(self, layer: Any, _inputs: Any, output: torch.Tensor | None) -> torch.Tensor | None:
        if self._narrowed is None:
            return output
        layer.weight.data, self._narrowed = self._narrowed, None
        if self._scales_first:
            return output
        layer.bias, self._bias = self._bias, None
        if output is None:  # the layer failed
            return None
        return _scaled(layer, output)


def _scaled(layer: Any, output: torch.Tensor) -> torch.Tensor:
    """Put the rows' scale and the bias over what a layer has just computed with its bytes."""
    further = 0 if isinstance(layer, torch.nn.Linear) else layer.weight.ndim - 2
    shape = [-1, *[1] * further]  # of a kernel's output the channels come first
    output.mul_(layer.weight_scale.to(output.dtype).view(shape))
    return output if layer.bias is None else output.add_(layer.bias.view(shape))

"""Weights in one byte a value: int8 or float8 with a scale for each row, made whole layer by layer as they are used.

This is what diffusers calls layerwise casting, with a scale and without casting back: measured, that is nearer to the whole
weights (docs/experiments.md). No kernels beyond torch's own are needed, on any device.
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


class _Kept:
    """The weights of one layer, while it does not work.

    They are there as bytes, also of float8: to models that ask for a layer's dtype, bytes say that they need not convert.
    """

    def __init__(self, layer: Any, quantization: Quantization) -> None:
        self._dtype = layer.weight.dtype
        self._is_int8 = quantization == "int8"
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
        self._narrowed: torch.Tensor | None = None

    def __deepcopy__(self, memo: Any) -> _Kept:
        """Every clone of the layer has the same weights. A layer does not pause, so one at a time has them whole."""
        return self

    def _widen(self, layer: Any, _inputs: Any) -> None:
        self._narrowed = layer.weight.data
        stored = self._narrowed if self._is_int8 else self._narrowed.view(torch.float8_e4m3fn).float()
        layer.weight.data = (stored * layer.weight_scale).to(self._dtype)

    def _narrow(self, layer: Any, _inputs: Any, _output: Any) -> None:
        if self._narrowed is not None:
            layer.weight.data, self._narrowed = self._narrowed, None

"""CLIP text encoders: leaving out their last layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def without_last_layers(text_encoder: Any, count: int | None) -> Iterator[None]:
    """Let a CLIP text encoder end `count` layers earlier, before its final norm.

    The pipelines' own argument `clip_skip` means the same and fails with transformers 5, whose encoder no longer has the part
    that diffusers 0.42 looks for. The encoder is a slot's own, so that no other request sees it shortened.
    """
    if not count:
        yield
        return
    encoder = getattr(text_encoder, "text_model", text_encoder).encoder
    layers = encoder.layers
    encoder.layers = torch.nn.ModuleList(list(layers)[:-count])
    try:
        yield
    finally:
        encoder.layers = layers

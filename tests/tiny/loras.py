"""Adapters with random weights for tiny models, written as the tools that train them do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from vitascope.catalog.loras import parameters_of
from vitascope.domain.model_spec import ModelSpec

WAN_ORIGINAL = (
    (r"attn1\.to_(\w)$", r"self_attn.\1"),
    (r"attn1\.to_out\.0$", "self_attn.o"),
    (r"attn2\.to_(\w)$", r"cross_attn.\1"),
    (r"attn2\.to_out\.0$", "cross_attn.o"),
    (r"ffn\.net\.0\.proj$", "ffn.0"),
    (r"ffn\.net\.2$", "ffn.2"),
    (r"^condition_embedder\.time_embedder\.linear_1$", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2$", "time_embedding.2"),
    (r"^condition_embedder\.text_embedder\.linear_1$", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2$", "text_embedding.2"),
    (r"^condition_embedder\.time_proj$", "time_projection.1"),
    (r"^proj_out$", "head.head"),
)

Name = Callable[[str, str], tuple[str, str, str]]
"""Of a component and a layer: what the file calls its two matrices, and its alpha; that empty for none."""


def diffusers_names(component: str, layer: str) -> tuple[str, str, str]:
    return f"{component}.{layer}.lora_A.weight", f"{component}.{layer}.lora_B.weight", ""


def comfyui_names(_component: str, layer: str) -> tuple[str, str, str]:
    layer = f"diffusion_model.{_original(layer)}"
    return f"{layer}.lora_down.weight", f"{layer}.lora_up.weight", f"{layer}.alpha"


def kohya_names(component: str, layer: str) -> tuple[str, str, str]:
    begin = "lora_te" if component == "text_encoder" else "lora_unet"
    word = f"{begin}_{layer.replace('.', '_')}"
    return f"{word}.lora_down.weight", f"{word}.lora_up.weight", f"{word}.alpha"


def musubi_names(component: str, layer: str) -> tuple[str, str, str]:
    return kohya_names(component, _original(layer))


def _original(layer: str) -> str:
    for pattern, replacement in WAN_ORIGINAL:
        layer = re.sub(pattern, replacement, layer)
    return layer


def layers_of(spec: ModelSpec, component: str, pattern: str) -> dict[str, tuple[int, ...]]:
    """Find the layers with a matrix or a kernel whose names match, and the shapes of those."""
    found = parameters_of(spec)
    assert found is not None
    return {
        name.removesuffix(".weight"): shape
        for name, shape in found[component].items()
        if name.endswith(".weight") and len(shape) > 1 and re.search(pattern, name.removesuffix(".weight"))
    }


def write(
    path: Path,
    spec: ModelSpec,
    component: str,
    pattern: str = r"to_[qkv]$|to_out\.0$",
    names: Name = diffusers_names,
    *,
    seed: int = 0,
    rank: int = 4,
    alpha: float = 2.0,
    size: float = 0.5,
) -> Path:
    """Write an adapter for the layers of a component whose names match; the same numbers whatever they are called."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for layer, shape in layers_of(spec, component, pattern).items():
        down, up, alpha_name = names(component, layer)
        ones = [1] * (len(shape) - 2)
        tensors[down] = torch.randn(rank, *shape[1:], generator=generator) * size
        tensors[up] = torch.randn(shape[0], rank, *ones, generator=generator) * size
        if alpha_name:
            tensors[alpha_name] = torch.tensor(alpha)
        else:
            tensors[up] *= alpha / rank  # a file without alpha has the factor in its numbers
    assert tensors, f"no layer matches {pattern}"
    save_file(tensors, path)
    return path


def add_differences(path: Path, *, size: float = 0.5) -> None:
    """Let an adapter of a tiny Wan change a norm, a bias and a modulation as well, as ComfyUI's can."""
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(9)
    for name, shape in {
        "diffusion_model.blocks.0.self_attn.norm_q.diff": (24,),
        "diffusion_model.blocks.0.self_attn.q.diff_b": (24,),
        "diffusion_model.blocks.1.modulation.diff": (1, 6, 24),
    }.items():
        tensors[name] = torch.randn(shape, generator=generator) * size
    save_file(tensors, path)

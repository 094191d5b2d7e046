"""Checkpoints and adapters that consist of headers and zeros: enough for whatever opens no weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

Shapes = dict[str, tuple[int, ...]]

WIDE, RANK = 24, 4


def wan(wide: int = WIDE) -> Shapes:
    """The parameters of a small Wan, as its checkpoint names them."""
    found: Shapes = {
        "patch_embedding.weight": (wide, 16, 1, 2, 2),
        "condition_embedder.time_proj.weight": (6 * wide, wide),
        "proj_out.weight": (64, wide),
        "proj_out.bias": (64,),
        "scale_shift_table": (1, 2, wide),
    }
    for block in range(2):
        for layer in ("attn1.to_q", "attn1.to_out.0", "attn2.to_k", "attn2.add_k_proj", "ffn.net.0.proj"):
            found[f"blocks.{block}.{layer}.weight"] = (wide, wide)
            found[f"blocks.{block}.{layer}.bias"] = (wide,)
        found[f"blocks.{block}.attn1.norm_q.weight"] = (wide,)
        found[f"blocks.{block}.norm2.weight"] = (wide,)
        found[f"blocks.{block}.scale_shift_table"] = (1, 6, wide)
    return found


def pair(name: str, down: str = "lora_A.weight", up: str = "lora_B.weight", wide: int = WIDE) -> Shapes:
    return {f"{name}.{down}": (RANK, wide), f"{name}.{up}": (wide, RANK)}


def write(path: Path, tensors: Shapes, *, dtype: str = "F32", metadata: dict[str, str] | None = None) -> Path:
    """Write a safetensors file of zeros."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, shape in tensors.items():
        num_bytes = math.prod(shape) * (8 if dtype == "I64" else 4)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + num_bytes]}
        end += num_bytes
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    return path


def write_wan(folder: Path) -> Path:
    """Write a model with one component, a small Wan's transformer."""
    write(folder / "transformer" / "diffusion_pytorch_model.safetensors", wan())
    (folder / "transformer" / "config.json").write_text("{}")
    index = {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder

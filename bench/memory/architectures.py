"""Models of real architectures with random weights, where no checkpoint is at hand: what they take and how long is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.tiny import text


def build(name: str, folder: Path, num_layers: int = 30) -> Path:
    """Write a model in bfloat16. Its text encoder is tiny.

    Args:
        num_layers: of its denoiser; the architecture has 30.
    """
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )

    assert name == "wan-1.3b"
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            settings: dict[str, Any] = {
                "num_attention_heads": 12,
                "num_layers": num_layers,
                "ffn_dim": 8960,
                "text_dim": 32,
            }
            transformer = WanTransformer3DModel(**settings)
            vae = AutoencoderKLWan()
    finally:
        torch.set_default_dtype(usual)
    tokenizer, text_encoder = text.t5()
    pipe = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        transformer=transformer.to("cpu"),
        vae=vae.to("cpu"),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder

"""Models of real architectures with random weights, where no checkpoint is at hand: they take as long and as much memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Architecture:
    """A Wan model; its text encoder is a stand-in of a few layers with the real width."""

    transformer: Mapping[str, Any]
    vae: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.bfloat16


ARCHITECTURES = {
    "wan2.1-1.3b": Architecture({"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}),
    "wan2.1-14b": Architecture({"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}),
    "wan-tiny": Architecture(
        {
            "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "ffn_dim": 32, "text_dim": 32,
            "rope_max_seq_len": 32,
        },
        {
            "base_dim": 3, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1,
            "temperal_downsample": [False, True, True],
        },
        torch.float32,
    ),
}  # fmt: skip
"""By name. `wan-tiny` has nothing to say about speed: it is for tests.

Source: `config.json` of Wan-AI/Wan2.1-T2V-1.3B-Diffusers and Wan-AI/Wan2.1-T2V-14B-Diffusers; what is not named here is the default of
diffusers' classes.
"""


def build(name: str, folder: Path) -> Path:
    """Write a model's folder, as diffusers does. A 1.3B model takes 3 GB of disk, a 14B one 29."""
    import diffusers
    import transformers
    from diffusers import (
        AutoencoderKLWan,
        UniPCMultistepScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    this = ARCHITECTURES[name]
    generator_state = torch.get_rng_state()
    usual = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(this.dtype)
    try:
        transformer = WanTransformer3DModel(**this.transformer)
        vae = AutoencoderKLWan(**this.vae)
        tokenizer, text_encoder = _stand_in(int(this.transformer.get("text_dim", 4096)))
    finally:
        torch.set_default_dtype(usual)
        torch.set_rng_state(generator_state)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipe = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        transformer=transformer,
        vae=vae,
        scheduler=scheduler,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def _stand_in(width: int) -> tuple[Any, Any]:
    """A tokenizer of letters and an encoder of one layer."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *_LETTERS]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(rank)) for rank, piece in enumerate(pieces)], extra_ids=0)
    config = T5Config(vocab_size=64, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    return tokenizer, T5EncoderModel(config)

"""Everything that differs between training on a few CPU cores and on one large GPU."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sources import default_work
from world import SHAPES, Shape


@dataclass(frozen=True)
class Preset:
    """One recipe."""

    world: str
    """`small`: 22 still subjects (data.py). `full`: the pack's subjects (world.py)."""
    shapes: tuple[Shape, ...]
    fps: int
    vae: dict[str, Any]
    transformer: dict[str, Any]
    crop: int
    """Side of the autoencoder's crops in pixels; the last minute of a run uses whole frames."""
    crops: int
    autoencoder_rate: float
    bank: int
    """Clips in the latent bank."""
    bank_batch: int
    captions: int
    """Wordings per clip of the bank."""
    tokens: int
    """Longest caption in pieces; the rest of the text length is zeros, as the pipeline pads."""
    batch: int
    rate: float
    ema: float
    given: float
    """Part of the steps whose first latent frame is given clean, for image to video."""
    warm_up: int
    judge_side: int
    judge_width: int
    judge_steps: int
    drawings: int = 32
    """Different drawings of every background, in the full world."""
    drop: float = 0.12
    """Part of the captions left empty, for guidance."""
    shift: float = 2.0


_VAE = {"dim_mult": [1, 2, 2], "num_res_blocks": 1, "base_dim": 32}
_TRANSFORMER = {"attention_head_dim": 64, "freq_dim": 128, "rope_max_seq_len": 256}

PRESETS = {
    "cpu": Preset(
        world="small",
        shapes=(Shape(192, 192, 17),),
        fps=8,
        vae={**_VAE, "decoder_base_dim": 40, "z_dim": 24},
        transformer={**_TRANSFORMER, "num_attention_heads": 4, "num_layers": 7, "ffn_dim": 768},
        crop=96,
        crops=3,
        autoencoder_rate=6e-3,
        bank=6000,
        bank_batch=1,
        captions=4,
        tokens=32,
        batch=48,
        rate=3e-3,
        ema=0.998,
        given=0.2,
        warm_up=60,
        judge_side=64,
        judge_width=16,
        judge_steps=1200,
    ),
    "gpu": Preset(
        world="full",
        shapes=SHAPES,
        fps=12,
        vae={**_VAE, "decoder_base_dim": 48, "z_dim": 32},
        transformer={**_TRANSFORMER, "num_attention_heads": 5, "num_layers": 8, "ffn_dim": 960},
        crop=128,
        crops=64,
        autoencoder_rate=3e-3,
        bank=80_000,
        bank_batch=32,
        captions=5,
        tokens=48,
        batch=512,
        rate=2e-3,
        ema=0.999,
        given=0.25,
        warm_up=200,
        judge_side=96,
        judge_width=32,
        judge_steps=12000,
    ),
}

TINY: dict[str, Any] = {
    "shapes": (Shape(64, 64, 9), Shape(64, 96, 9)),
    "vae": {**_VAE, "base_dim": 8, "decoder_base_dim": 8, "z_dim": 8},
    "transformer": {**_TRANSFORMER, "num_attention_heads": 1, "num_layers": 1, "ffn_dim": 64},
    "crop": 48, "crops": 2, "bank": 24, "bank_batch": 6, "batch": 4, "judge_side": 32, "judge_steps": 12, "drawings": 1,
    "warm_up": 2,
}  # fmt: skip
"""What `--tiny` puts in place of the gpu preset's sizes: the whole recipe in a minute on a CPU, to see that it runs."""


@dataclass
class Setup:
    """A preset on this machine."""

    preset: Preset
    work: Path
    device: torch.device
    args: argparse.Namespace = field(repr=False)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The arguments that every training script takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="cpu")
    parser.add_argument(
        "--work", type=Path, default=default_work(), help="folder of packages and checkpoints"
    )
    parser.add_argument("--device", help="default: the first GPU where there is one, for the gpu preset")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that the recipe runs")
    return parser


def setup_of(args: argparse.Namespace) -> Setup:
    """Settle preset, folder and device; print why."""
    preset = PRESETS[args.preset]
    if args.tiny:
        preset = Preset(**{**vars(preset), **TINY})
    found = "cuda" if args.preset == "gpu" and torch.cuda.is_available() else "cpu"
    device = torch.device(args.device or found)
    if device.type == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    else:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"preset {args.preset}{' (tiny)' if args.tiny else ''} on {name}, in {args.work}", flush=True)
    return Setup(preset, args.work, device, args)

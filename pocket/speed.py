"""A minute on a new machine: does everything run there, and how many clips a second are to be expected."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import torch
from autoencoder import Trainer as AutoencoderTrainer
from autoencoder import new_autoencoder
from clips import open_clips
from denoiser import flow_loss, new_denoiser
from presets import Setup, parser_of, setup_of


def per_second(setup: Setup, count: int, work: Callable[[], object], seconds: float) -> float:
    """Clips a second of `work`, which handles `count` of them, after one call to warm up."""
    work()
    done, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        work()
        if setup.device.type == "cuda":
            torch.cuda.synchronize()
        done += count
    return done / (time.monotonic() - started)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=float, default=6)
    args = parser.parse_args()
    setup = setup_of(args)
    preset, rng = setup.preset, random.Random(1)
    clips = open_clips(setup)
    x, mask = clips.crops(rng, preset.crops, preset.crop)
    vae = new_autoencoder(preset.vae).to(setup.device)
    trainer = AutoencoderTrainer(setup, vae, decoder=False)
    cells = preset.shapes[0].cells
    latents = torch.randn(preset.batch, preset.vae["z_dim"], *cells, device=setup.device)
    weight = torch.ones(preset.batch, 1, *cells, device=setup.device)
    text = torch.randn(preset.batch, 64, 384, device=setup.device)
    model = new_denoiser(preset).to(setup.device)

    def step() -> None:
        flow_loss(setup, model, (latents, weight, text), given=False).backward()

    for name, count, work in (
        ("crops composed", preset.crops, lambda: clips.crops(rng, preset.crops, preset.crop)),
        ("clips composed", preset.bank_batch, lambda: clips.clips(rng, preset.bank_batch, preset.shapes[0])),
        ("autoencoder", preset.crops, lambda: trainer.advance(x, mask, 1e-3, 0.5)),
        ("denoiser, not compiled", preset.batch, step),
    ):
        print(f"{name}: {per_second(setup, count, work, args.seconds):.1f} a second", flush=True)
    if setup.device.type == "cuda":
        print(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most")


if __name__ == "__main__":
    main()

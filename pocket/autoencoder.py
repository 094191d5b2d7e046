"""Train the video autoencoder: 16x16 pixels and four frames become one cell of 24 or 32 numbers.

The class is diffusers' `AutoencoderKLWan`. It runs frame group by frame group with a cache, which is
slow in training; `encode_clip` and `decode_clip` compute the same numbers over whole clips (checked by
`--check`). The one attention block is left at zero: a purely convolutional network trained on crops
runs unchanged on whole frames of any size.

`python pocket/autoencoder.py --minutes 25` trains (and goes on from its checkpoint), measures the latents' mean and spread
and writes WORK/vae. `--decoder` goes on with the decoder alone while the latents stay as they are, so it can
run beside the denoiser's training.
"""

from __future__ import annotations

import json
import math
import queue
import random
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from clips import Clips, open_clips
from data import sheet
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanCausalConv3d,
    WanResample,
    WanResidualBlock,
    patchify,
    unpatchify,
)
from diffusers.models.modeling_utils import ModelMixin
from muon import Muon
from presets import Setup, parser_of, setup_of
from sources import need_space
from torch import Tensor, nn


def new_autoencoder(sizes: dict[str, Any]) -> AutoencoderKLWan:
    """A fresh autoencoder; the encoder is the narrower half, because latents are cheap to find."""
    vae = AutoencoderKLWan(
        **sizes,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * sizes["z_dim"],
        latents_std=[1.0] * sizes["z_dim"],
        is_residual=True,
        in_channels=48,
        out_channels=48,
        patch_size=4,
        scale_factor_temporal=4,
        scale_factor_spatial=16,
    )
    for half in (vae.encoder, vae.decoder):
        for attention in half.mid_block.attentions:
            nn.init.zeros_(attention.proj.weight)
            nn.init.zeros_(attention.proj.bias)
            attention.requires_grad_(False)
        for module in half.modules():
            if isinstance(module, WanResidualBlock):
                module.conv2.weight.data.mul_(0.7)
    return vae


# --- the same network over whole clips -----------------------------------------------------------


def _conv(conv: nn.Module, x: Tensor) -> Tensor:
    """A causal convolution: pad the past in time, let the kernel pad space itself."""
    assert isinstance(conv, WanCausalConv3d)
    pad = conv._padding
    x = F.pad(x, (0, 0, 0, 0, pad[4], 0)) if pad[4] else x
    return F.conv3d(x, conv.weight, conv.bias, conv.stride, (0, pad[2], pad[0]))


def _norm_silu(norm: nn.Module, x: Tensor) -> Tensor:
    scale = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-12).to(x.dtype)
    return F.silu(x * scale * norm.gamma.to(x.dtype))


def _block(block: WanResidualBlock, x: Tensor) -> Tensor:
    shortcut = x if isinstance(block.conv_shortcut, nn.Identity) else _conv(block.conv_shortcut, x)
    x = _conv(block.conv1, _norm_silu(block.norm1, x))
    return _conv(block.conv2, _norm_silu(block.norm2, x)) + shortcut


def _frames(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a 2-D module to every frame."""
    b, _, t, _, _ = x.shape
    x = module(x.transpose(1, 2).flatten(0, 1))
    return x.unflatten(0, (b, t)).transpose(1, 2)


def _resample(resample: WanResample, x: Tensor) -> Tensor:
    if resample.mode == "upsample3d":
        first, rest = x[:, :, :1], x[:, :, 1:]
        if rest.shape[2]:
            rest = _conv(resample.time_conv, rest)
            b, c, t, h, w = rest.shape
            rest = (
                rest.reshape(b, 2, c // 2, t, h, w).permute(0, 2, 3, 1, 4, 5).reshape(b, c // 2, 2 * t, h, w)
            )
        x = torch.cat([first, rest], 2)
    x = _frames(resample.resample, x)
    if resample.mode == "downsample3d" and x.shape[2] > 1:
        conv = resample.time_conv
        x = torch.cat([x[:, :, :1], F.conv3d(x, conv.weight, conv.bias, conv.stride)], 2)
    return x


def _middle(mid: nn.Module, x: Tensor) -> Tensor:
    for block in mid.resnets:
        x = _block(block, x)
    return x


def encode_clip(vae: AutoencoderKLWan, x: Tensor) -> Tensor:
    """Latent means of whole clips in [-1, 1]; equals `vae.encode(x).latent_dist.mode()`."""
    encoder = vae.encoder
    x = _conv(encoder.conv_in, patchify(x, vae.config.patch_size))
    for down in encoder.down_blocks:
        shortcut = down.avg_shortcut(x)
        for block in down.resnets:
            x = _block(block, x)
        x = (x if down.downsampler is None else _resample(down.downsampler, x)) + shortcut
    x = _norm_silu(encoder.norm_out, _middle(encoder.mid_block, x))
    return _conv(vae.quant_conv, _conv(encoder.conv_out, x))[:, : vae.config.z_dim]


def decode_clip(vae: AutoencoderKLWan, z: Tensor) -> Tensor:
    """Whole clips from latents; equals `vae.decode(z).sample` before its clamp."""
    decoder = vae.decoder
    x = _middle(decoder.mid_block, _conv(decoder.conv_in, _conv(vae.post_quant_conv, z)))
    for up in decoder.up_blocks:
        shortcut = None if up.avg_shortcut is None else up.avg_shortcut(x, first_chunk=True)
        for block in up.resnets:
            x = _block(block, x)
        x = x if up.upsampler is None else _resample(up.upsampler, x)
        x = x if shortcut is None else x + shortcut
    x = _conv(decoder.conv_out, _norm_silu(decoder.norm_out, x))
    return unpatchify(x, vae.config.patch_size)


def check(vae: AutoencoderKLWan) -> None:
    """Fail unless the whole-clip path gives what diffusers gives."""
    with torch.no_grad():
        x = torch.rand(1, 3, 17, 64, 64) * 2 - 1
        z = encode_clip(vae, x)
        torch.testing.assert_close(z, vae.encode(x).latent_dist.mode(), atol=2e-4, rtol=1e-3)
        y = decode_clip(vae, z).clamp(-1, 1)
        torch.testing.assert_close(y, vae.decode(z).sample, atol=2e-4, rtol=1e-3)


# --- data ----------------------------------------------------------------------------------------


def start_loader(clips: Clips, seed: int, count: int, side: int) -> queue.Queue:
    """Compose batches in one thread beside the training."""
    batches: queue.Queue = queue.Queue(2)

    def run() -> None:
        rng = random.Random(seed)
        while True:
            batches.put(clips.crops(rng, count, side))

    threading.Thread(target=run, daemon=True).start()
    return batches


# --- training ------------------------------------------------------------------------------------


def loss_of(y: Tensor, x: Tensor, mask: Tensor, edges: float) -> Tensor:
    """Squared and absolute error, and the absolute error of a Laplacian pyramid; the subject counts four times.

    The pyramid sharpens edges, but in the beginning edges are all that the network sees of such a loss
    and it stalls at 14 dB: `edges` lets it in slowly.
    """
    weight = (1 + 3 * mask)[:, None]
    error = y.float() - x
    diff = error * weight
    loss = (diff * error).mean() + 0.5 * diff.abs().mean()
    bands = diff.transpose(1, 2).flatten(0, 1)
    for _ in range(3 if edges else 0):
        coarse = F.avg_pool2d(bands, 2)
        fine = F.interpolate(coarse, scale_factor=2.0, mode="bilinear")
        loss = loss + edges * (bands - fine).abs().mean()
        bands = coarse
    return loss


def noisy(z: Tensor, amount: float = 0.08) -> Tensor:
    """Latents with a little noise, in proportion to each channel's spread.

    The decoder will be given the denoiser's guesses, not the encoder's own latents: it must not
    hang on their last digits.
    """
    spread = z.detach().float().std((0, 2, 3, 4), keepdim=True)
    return z + (amount * spread * torch.randn_like(z, dtype=torch.float32)).to(z.dtype)


def psnr(y: Tensor, x: Tensor, mask: Tensor) -> tuple[float, float]:
    """PSNR over all pixels and over the subject's (values in [-1, 1])."""
    error = (y.clamp(-1, 1) - x).square().mean(1)
    inside = (error * mask).sum() / mask.sum().clamp(min=1)
    return tuple(10 * math.log10(4 / max(e.item(), 1e-9)) for e in (error.mean(), inside))  # type: ignore[return-value]


def save(path: Path, state: dict) -> None:
    """Write under another name first: a kill leaves the old checkpoint whole."""
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


class Trainer:
    """Network, average, optimizers and counters: all that a checkpoint holds."""

    def __init__(self, setup: Setup, vae: AutoencoderKLWan, *, decoder: bool) -> None:
        self.setup, self.vae, self.decoder = setup, vae, decoder
        self.checkpoint = setup.work / ("decoder.pt" if decoder else "autoencoder.pt")
        if decoder:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        named = {n: p for n, p in vae.named_parameters() if p.requires_grad}
        matrices = [p for n, p in named.items() if p.ndim > 4 or "resample.1.weight" in n]
        chosen = {id(p) for p in matrices}
        self.parameters = list(named.values())
        others = [p for p in self.parameters if id(p) not in chosen]
        self.optimizers = [
            Muon(matrices, weight_decay=0.05),
            torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.average = {k: v.detach().clone() for k, v in vae.state_dict().items()}
        self.step, self.spent = 0, 0.0
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True, map_location=setup.device)
            vae.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.average, self.step, self.spent = state["average"], state["step"], state["spent"]
        self.first = self.step

    def keep(self) -> None:
        state = {
            "model": self.vae.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "average": self.average,
            "step": self.step,
            "spent": self.spent,
        }
        save(self.checkpoint, state)

    def advance(self, x: Tensor, mask: Tensor, rate: float, done: float) -> tuple[float, Tensor]:
        """One step, `done` of the run being behind; returns the loss and the reconstruction."""
        rate *= min(1, (self.step - self.first + 1) / 30) * (0.5 + 0.5 * math.cos(math.pi * done)) + 2e-3
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        with self.setup.autocast():
            with torch.set_grad_enabled(not self.decoder):
                z = encode_clip(self.vae, x)
            y = decode_clip(self.vae, noisy(z))
        edges = 0.3 if self.first else 0.5 * done
        loss = loss_of(y, x, mask, edges) + 1e-3 * z.float().square().mean()
        self.vae.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self._follow(min(0.997, self.step / (self.step + 20)))
        return loss.item(), y.detach().float()

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        for key, value in self.vae.state_dict().items():
            self.average[key].lerp_(value, 1 - decay)


def train(trainer: Trainer, clips: Clips, minutes: float) -> None:
    """Crops, then whole frames in the last minute (or tenth); logs twice a minute."""
    preset, seed = trainer.setup.preset, trainer.setup.args.seed
    budget, before, started = minutes * 60, trainer.spent, time.monotonic()
    shapes = [preset.crop, min(s.height for s in preset.shapes)]
    loader = start_loader(clips, seed + trainer.step, preset.crops, shapes[0])
    shown, losses = before, []
    while (ran := time.monotonic() - started) < budget:
        if len(shapes) > 1 and budget - ran < min(60, budget / 10):
            whole = max(1, round(preset.crops * (shapes.pop(0) / shapes[0]) ** 2))
            loader = start_loader(clips, seed + trainer.step, whole, shapes[0])
        x, mask = loader.get()
        loss, y = trainer.advance(x, mask, trainer.setup.args.lr or preset.autoencoder_rate, ran / budget)
        losses.append(loss)
        trainer.spent = before + ran
        if trainer.spent - shown > 30:
            shown = trainer.spent
            whole_db, subject_db = psnr(y, x, mask)
            log(trainer.checkpoint.with_suffix(".jsonl"), step=trainer.step, s=round(shown), loss=round(float(np.mean(losses)), 4),
                psnr=round(whole_db, 2), subject=round(subject_db, 2))  # fmt: skip
            losses.clear()
            trainer.keep()
    trainer.keep()
    trainer.vae.load_state_dict(trainer.average)


def log(path: Path, **figures: float) -> None:
    """One line for a loss log and for whoever watches."""
    line = json.dumps(figures)
    print(line, flush=True)
    with path.open("a") as file:
        file.write(line + "\n")


@torch.no_grad()
def measure(setup: Setup, vae: AutoencoderKLWan, clips: Clips, count: int) -> tuple[Tensor, list, list]:
    """Latents of unseen compositions (channels, all), PSNR pairs, and some clips beside their originals."""
    rng, latents, figures, shown = random.Random(99), [], [], []
    for index in range(count):
        shape = setup.preset.shapes[index % len(setup.preset.shapes)]
        x, mask, *_ = clips.clips(rng, 1, shape, hidden=True)
        with setup.autocast():
            z = encode_clip(vae, x).float()
            y = decode_clip(vae, z).float()
        latents.append(z[0].flatten(1))
        figures.append(psnr(y, x, mask))
        if len(shown) < 6 and shape == setup.preset.shapes[0]:
            pair = torch.cat([x, y.clamp(-1, 1)], 3)[0].permute(1, 2, 3, 0)
            shown.append(((pair + 1) * 127.5).round().byte().cpu().numpy())
    return torch.cat(latents, 1), figures, shown


def finish(setup: Setup, vae: AutoencoderKLWan, clips: Clips, *, decoder: bool) -> None:
    """Measure the latents, store their mean and spread in the config, write WORK/vae and a sheet."""
    z, figures, shown = measure(setup, vae, clips, 36)
    if not decoder:  # a frozen encoder keeps its scale: the denoiser has learnt it
        vae.register_to_config(latents_mean=z.mean(1).tolist(), latents_std=z.std(1).tolist())
    whole, subject = np.mean(figures, 0)
    print(f"held-out compositions: {whole:.2f} dB, on the subject {subject:.2f} dB", flush=True)
    replace_folder(vae, setup.work / "vae")
    sheet(shown, setup.work / "autoencoder.png", 6)


def replace_folder(model: ModelMixin, folder: Path, shard: str = "10GB") -> None:
    """Save a model under another name first, then rename."""
    part = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part, max_shard_size=shard)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--minutes", type=float, default=25, help="of this run; it goes on from the checkpoint"
    )
    parser.add_argument("--lr", type=float, help="default: the preset's")
    parser.add_argument("--decoder", action="store_true", help="train only the decoder of WORK/vae further")
    parser.add_argument("--check", action="store_true", help="only compare with diffusers' own path")
    args = parser.parse_args()
    setup = setup_of(args)
    need_space(args.work, 1)
    vae = (
        AutoencoderKLWan.from_pretrained(args.work / "vae")
        if args.decoder
        else new_autoencoder(setup.preset.vae)
    )
    print(sum(p.numel() for p in vae.parameters()), "parameters", flush=True)
    check(vae)
    if args.check:
        return
    vae.to(setup.device)
    clips = open_clips(setup)
    train(Trainer(setup, vae, decoder=args.decoder), clips, args.minutes)
    finish(setup, vae, clips, decoder=args.decoder)


if __name__ == "__main__":
    main()

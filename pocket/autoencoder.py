"""Train the video autoencoder: 16x16 pixels and four frames become one cell of 24 numbers.

The class is diffusers' `AutoencoderKLWan`. It runs frame group by frame group with a cache, which is
slow in training; `encode_clip` and `decode_clip` compute the same numbers over whole clips (checked by
`--check`). The one attention block is left at zero: a purely convolutional network trained on crops
runs unchanged on whole frames of any size.

`python pocket/autoencoder.py --minutes 25` trains (and resumes), measures the latents' mean and spread
and writes WORK/vae. `--decoder` goes on with the decoder alone while the latents stay as they are, so it can
run beside the denoiser's training.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import random
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from data import BACKGROUNDS, MOTIONS, SUBJECTS, Scene, Sprites, compose, compose_any, default_work, sheet
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanCausalConv3d,
    WanResample,
    WanResidualBlock,
    patchify,
    unpatchify,
)
from muon import Muon
from torch import Tensor, nn

Z_DIM = 24


def new_autoencoder() -> AutoencoderKLWan:
    """A fresh autoencoder; the encoder is the narrower half, because latents are cheap to find."""
    vae = AutoencoderKLWan(
        base_dim=32,
        decoder_base_dim=40,
        z_dim=Z_DIM,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * Z_DIM,
        latents_std=[1.0] * Z_DIM,
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
    return _conv(vae.quant_conv, _conv(encoder.conv_out, x))[:, :Z_DIM]


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


def _clip(rng: random.Random, sprites: Sprites, codes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mostly the scenes the model will be asked for, some with anything anywhere."""
    roll = rng.random()
    if roll < 0.12:
        return compose_any(rng, sprites, codes)
    loose = roll < 0.27
    return compose(
        Scene(
            rng.choice(SUBJECTS).name,
            rng.choice(tuple(BACKGROUNDS)),
            rng.choice(MOTIONS),
            rng.randint(-40, 40) if loose else rng.choice((-16, 0, 16)),
            (rng.uniform(-1, 1), rng.uniform(-1, 1)),
            rng.randint(-20, 20) if loose else 0,
        ),
        sprites,
    )


def crops(
    rng: random.Random, sprites: Sprites, codes: list[str], count: int, size: int, length: int = 17
) -> tuple[Tensor, Tensor]:
    """`count` crops of `size` pixels and `length` frames aligned to cells, most of them on the subject."""
    clips, masks = [], []
    while len(clips) < count:
        frames, mask = _clip(rng, sprites, codes)
        ys, xs = np.nonzero(mask.max(0))
        for _ in range(1 if size >= 192 else 4):
            limit = (frames.shape[1] - size) // 16
            if len(ys) and rng.random() < 0.8:
                k = rng.randrange(len(ys))
                y = min(limit, max(0, (int(ys[k]) - size // 2 + 8) // 16)) * 16
                x = min(limit, max(0, (int(xs[k]) - size // 2 + 8) // 16)) * 16
            else:
                y, x = rng.randint(0, limit) * 16, rng.randint(0, limit) * 16
            t = rng.randint(0, (frames.shape[0] - length) // 4) * 4
            clips.append(frames[t : t + length, y : y + size, x : x + size])
            masks.append(mask[t : t + length, y : y + size, x : x + size])
    clip = torch.from_numpy(np.stack(clips[:count])).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    return clip, torch.from_numpy(np.stack(masks[:count])).float() / 255


def start_loader(sprites: Sprites, seed: int, count: int, size: int, length: int) -> queue.Queue:
    """Compose batches in one thread beside the training."""
    batches: queue.Queue = queue.Queue(2)
    codes = sprites.codes()

    def run() -> None:
        rng = random.Random(seed)
        while True:
            batches.put(crops(rng, sprites, codes, count, size, length))

    threading.Thread(target=run, daemon=True).start()
    return batches


# --- training ------------------------------------------------------------------------------------


def loss_of(y: Tensor, x: Tensor, mask: Tensor, edges: float) -> Tensor:
    """Squared and absolute error; the subject counts four times.

    Differences of neighbours sharpen edges, but in the beginning they are all that the network sees and
    it stalls at 14 dB: `edges` lets them in slowly.
    """
    weight = (1 + 3 * mask)[:, None]
    error = y.float() - x
    diff = error * weight
    loss = (diff * error).mean() + 0.5 * diff.abs().mean()
    sides = (diff[..., 1:] - diff[..., :-1]).abs().mean() + (
        diff[..., 1:, :] - diff[..., :-1, :]
    ).abs().mean()
    return loss + edges * sides


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

    def __init__(self, args: argparse.Namespace, vae: AutoencoderKLWan) -> None:
        self.args, self.vae = args, vae
        self.checkpoint = args.work / ("decoder.pt" if args.decoder else "autoencoder.pt")
        if args.decoder:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        named = {n: p for n, p in vae.named_parameters() if p.requires_grad}
        matrices = [p for n, p in named.items() if p.ndim > 4 or "resample.1.weight" in n]
        chosen = {id(p) for p in matrices}
        self.parameters = list(named.values())
        self.optimizers = [
            Muon(matrices, weight_decay=0.05),
            torch.optim.AdamW(
                [p for p in self.parameters if id(p) not in chosen], betas=(0.9, 0.98), weight_decay=0.0
            ),
        ]
        self.average = {k: v.detach().clone() for k, v in vae.state_dict().items()}
        self.step, self.spent = 0, 0.0
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            vae.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.average, self.step, self.spent = state["average"], state["step"], state["spent"]

    def keep(self) -> None:
        state = {
            "model": self.vae.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "average": self.average,
            "step": self.step,
            "spent": self.spent,
        }
        save(self.checkpoint, state)

    def advance(self, x: Tensor, mask: Tensor) -> tuple[float, Tensor]:
        """One step; returns the loss and the reconstruction."""
        done = min(1, self.spent / (self.args.minutes * 60))
        rate = self.args.lr * min(1, (self.step + 1) / 30) * (0.5 + 0.5 * math.cos(math.pi * done)) + 2e-5
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(not self.args.decoder):
                z = encode_clip(self.vae, x)
            y = decode_clip(self.vae, noisy(z))
        edges = 0.3 if self.args.decoder else 0.5 * done
        loss = loss_of(y, x, mask, edges) + 1e-3 * z.float().square().mean()
        self.vae.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        decay = min(0.997, self.step / (self.step + 20))
        with torch.no_grad():
            for key, value in self.vae.state_dict().items():
                self.average[key].lerp_(value, 1 - decay)
        return loss.item(), y.detach().float()


def train(args: argparse.Namespace, vae: AutoencoderKLWan, sprites: Sprites) -> None:
    trainer = Trainer(args, vae)
    budget, before, started = args.minutes * 60, trainer.spent, time.monotonic()
    loader = start_loader(sprites, args.seed + trainer.step, args.batch, args.crop, args.length)
    shown, losses = before, []
    while trainer.spent < budget:
        x, mask = loader.get()
        loss, y = trainer.advance(x, mask)
        losses.append(loss)
        trainer.spent = before + time.monotonic() - started
        if trainer.spent - shown > 30:
            shown = trainer.spent
            whole, subject = psnr(y, x, mask)
            line = {
                "step": trainer.step, "s": round(shown), "loss": round(float(np.mean(losses)), 4),
                "psnr": round(whole, 2), "subject": round(subject, 2),
            }  # fmt: skip
            losses.clear()
            print(json.dumps(line), flush=True)
            with trainer.checkpoint.with_suffix(".jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
        if trainer.step % 100 == 0:
            trainer.keep()
    trainer.keep()
    vae.load_state_dict(trainer.average)


def finish(args: argparse.Namespace, vae: AutoencoderKLWan, sprites: Sprites) -> None:
    """Measure the latents, store their mean and spread in the config, write WORK/vae and a sheet."""
    rng = random.Random(99)
    latents, shown = [], []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for index in range(40):
            x, mask = crops(rng, sprites, sprites.codes(), 1, 192)
            z = encode_clip(vae, x).float()
            latents.append(z)
            if index < 6:
                y = decode_clip(vae, z).float()
                print("whole frame psnr, subject:", psnr(y, x, mask), flush=True)
                pair = torch.cat([x, y.clamp(-1, 1)], 3)[0].permute(1, 2, 3, 0)
                shown.append(((pair + 1) * 127.5).round().byte().numpy())
    z = torch.cat(latents).transpose(0, 1).flatten(1)
    if not args.decoder:  # a frozen encoder keeps its scale: the denoiser has learnt it
        vae.register_to_config(latents_mean=z.mean(1).tolist(), latents_std=z.std(1).tolist())
    folder = args.work / "vae.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    vae.save_pretrained(folder)
    shutil.rmtree(args.work / "vae", ignore_errors=True)
    folder.rename(args.work / "vae")
    sheet(shown, args.work / "autoencoder.png", 6)
    print("latent std", [round(v, 2) for v in z.std(1).tolist()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=default_work())
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument(
        "--length", type=int, default=17, help="frames of a crop: shorter than a clip and the end drifts"
    )
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--decoder", action="store_true", help="train only the decoder of WORK/vae further")
    parser.add_argument("--check", action="store_true", help="only compare with diffusers' own path")
    args = parser.parse_args()
    torch.set_num_threads(min(args_threads(), os.cpu_count() or 1))
    torch.manual_seed(args.seed)
    vae = AutoencoderKLWan.from_pretrained(args.work / "vae") if args.decoder else new_autoencoder()
    print(sum(p.numel() for p in vae.parameters()), "parameters", flush=True)
    check(vae)
    if args.check:
        return
    sprites = Sprites(args.work)
    train(args, vae, sprites)
    finish(args, vae, sprites)


def args_threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", "2"))


if __name__ == "__main__":
    main()

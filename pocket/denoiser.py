"""Train the denoiser: text and noise become latents, by flow matching.

The class is diffusers' `WanTransformer3DModel` in the Wan 2.2 TI2V layout: every token has a timestep of
its own, so a first frame that is given (timestep zero, no noise) needs no other network than text alone.

`python pocket/denoiser.py bank --clips 8000` encodes composed clips with the frozen autoencoder (in
shards: it can be stopped and goes on where it was). `python pocket/denoiser.py train --minutes 60`
trains on the shards that exist, takes in new ones as they appear, resumes, and writes WORK/transformer.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from autoencoder import encode_clip, save
from data import Sprites, caption, compose, default_work, random_scene, sheet
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from muon import Muon
from text_encoder import MAX_SEQUENCE_LENGTH
from torch import Tensor, nn
from transformers import AutoTokenizer, BertModel

SHARD = 250
CAPTIONS = 4
TOKENS = 32
"""Longest caption in pieces; the rest of the text length is zeros, as the pipeline pads."""
PROMPTS = (
    "a dog walks along the beach",
    "a puppy runs to the right in the snow",
    "a cat jumps in a meadow",
    "a rocket flies up at night",
    "a fish swims to the left in the sea",
    "a red balloon rises at sunset",
    "a butterfly on a yellow background",
    "a car drives to the right at the beach",
)


def new_denoiser() -> WanTransformer3DModel:
    """A fresh denoiser: 7 layers, 256 wide; 180 tokens for a native clip."""
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=24,
        out_channels=24,
        text_dim=384,
        freq_dim=128,
        ffn_dim=768,
        num_layers=7,
        cross_attn_norm=True,
        rope_max_seq_len=256,
    )
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    return model


class PlainAttention:
    """The same attention written as matrix products.

    At these lengths its backward pass takes a third of the time of the fused CPU kernel's.
    """

    def __call__(self, attn, hidden, encoder=None, mask=None, rotary=None):
        context = hidden if encoder is None else encoder
        q = self.norm(attn.norm_q, attn.to_q(hidden))
        k = self.norm(attn.norm_k, attn.to_k(context))
        v = attn.to_v(context)
        q, k, v = (t.unflatten(2, (attn.heads, -1)) for t in (q, k, v))
        if rotary is not None:
            q, k = (self.rotate(t, *rotary) for t in (q, k))
        q, k, v = (t.transpose(1, 2).to(v.dtype) for t in (q, k, v))
        weights = torch.softmax(q @ k.transpose(2, 3) * q.shape[-1] ** -0.5, -1)
        out = (weights @ v).transpose(1, 2).flatten(2, 3)
        return attn.to_out[0](out)

    @staticmethod
    def norm(norm: nn.RMSNorm, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.eps)

    @staticmethod
    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = cos[..., 0::2].to(x.dtype), sin[..., 1::2].to(x.dtype)
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


# --- bank ----------------------------------------------------------------------------------------


def make_bank(args: argparse.Namespace) -> None:
    """Compose and encode clips; each shard has its own seed and is written whole or not at all."""
    folder = args.work / "bank"
    folder.mkdir(exist_ok=True)
    sprites = Sprites(args.work)
    vae = AutoencoderKLWan.from_pretrained(args.work / "vae").eval()
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std)
    )
    for shard in range(math.ceil(args.clips / SHARD)):
        path = folder / f"{shard:04d}.pt"
        if path.exists():
            continue
        rng = random.Random(f"bank {args.seed} {shard}")
        latents, weights, captions = [], [], []
        for _ in range(SHARD):
            scene = random_scene(rng)
            frames, mask = compose(scene, sprites)
            x = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                z = encode_clip(vae, x).float()
            latents.append(((z - mean) / std)[0].half())
            cells = torch.from_numpy(mask).float().view(17, 12, 16, 12, 16).amax((2, 4)) > 128
            weights.append(torch.cat([cells[:1], cells[1:].view(4, 4, 12, 12).any(1)]))
            captions.append([caption(scene, rng) for _ in range(CAPTIONS)])
        save(path, {"latents": torch.stack(latents), "subject": torch.stack(weights), "captions": captions})
        if shard % 4 == 0:
            print("bank", (shard + 1) * SHARD, flush=True)


class Texts:
    """Text states as the pipeline makes them, computed once per distinct caption."""

    def __init__(self, work: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
        self.encoder = BertModel.from_pretrained(work / "text_encoder", dtype=torch.float32).eval()
        self.index: dict[str, int] = {}
        self.states = torch.zeros(0, TOKENS, 384, dtype=torch.half)

    @torch.no_grad()
    def add(self, captions: list[str]) -> None:
        new = sorted(set(captions) - self.index.keys(), key=len)
        parts = [self.states]
        for start in range(0, len(new), 256):
            chunk = new[start : start + 256]
            ids = self.tokenizer(chunk, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
            states = self.encoder(ids.input_ids, ids.attention_mask).last_hidden_state
            states = states * ids.attention_mask[..., None]
            parts.append(nn.functional.pad(states, (0, 0, 0, TOKENS - states.shape[1])).half())
        for text in new:
            self.index[text] = len(self.index)
        self.states = torch.cat(parts)

    def get(self, captions: list[str]) -> Tensor:
        rows = self.states[[self.index[c] for c in captions]].float()
        return nn.functional.pad(rows, (0, 0, 0, MAX_SEQUENCE_LENGTH - TOKENS))


class Bank:
    """All shards in memory; `refresh` takes in what has been written since."""

    def __init__(self, folder: Path, texts: Texts) -> None:
        self.folder, self.texts, self.seen = folder, texts, set[str]()
        self.latents: list[Tensor] = []
        self.subject: list[Tensor] = []
        self.captions: list[list[str]] = []
        texts.add([""])

    def refresh(self) -> int:
        for path in sorted(self.folder.glob("*.pt")):
            if path.name in self.seen:
                continue
            data = torch.load(path, weights_only=True)
            self.seen.add(path.name)
            self.latents += list(data["latents"])
            self.subject += list(data["subject"])
            self.captions += data["captions"]
            self.texts.add([c for cs in data["captions"] for c in cs])
        return len(self.latents)

    def batch(self, rng: random.Random, count: int, drop: float) -> tuple[Tensor, Tensor, Tensor]:
        picks = [rng.randrange(len(self.latents)) for _ in range(count)]
        texts = ["" if rng.random() < drop else rng.choice(self.captions[i]) for i in picks]
        latents = torch.stack([self.latents[i] for i in picks]).float()
        weight = 1 + 2 * torch.stack([self.subject[i] for i in picks]).float()[:, None]
        return latents, weight, self.texts.get(texts)


# --- training ------------------------------------------------------------------------------------


def flow_loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], shift: float, *, given: bool) -> Tensor:
    """Squared error of the velocity (noise - clean) that the flow schedulers of diffusers expect.

    `given`: the first latent frame is clean, its tokens have timestep zero and no loss.
    """
    clean, weight, text = batch
    sigma = torch.sigmoid(torch.randn(clean.shape[0]))
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    noise = torch.randn_like(clean)
    s = sigma.view(-1, 1, 1, 1, 1)
    mixed = (1 - s) * clean + s * noise
    timestep = sigma * 1000
    if given:
        mixed[:, :, 0] = clean[:, :, 0]
        frames, height, width = clean.shape[2], clean.shape[3] // 2, clean.shape[4] // 2
        timestep = timestep.view(-1, 1, 1, 1).expand(-1, frames, height, width).clone()
        timestep[:, 0] = 0
        timestep = timestep.flatten(1)
        weight = weight.clone()
        weight[:, :, 0] = 0
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model(mixed, timestep, text, return_dict=False)[0]
    error = (velocity.float() - (noise - clean)).square() * weight
    return error.sum() / (weight.sum() * clean.shape[1])


def optimizers_of(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, output, norms and biases."""
    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("blocks.")]
    chosen = {id(p) for p in inside}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [Muon(inside, weight_decay=0.02), torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)]


class Team:
    """Processes of one thread each that average their gradients.

    One process with a thread per core is the obvious way, and it is 5 to 20 times slower as soon as
    anything else runs: every parallel loop waits for the thread that was preempted.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.rank, self.size = args.rank, args.team
        meeting = args.work / "team"
        if self.rank == 0:
            meeting.unlink(missing_ok=True)
            for rank in range(1, self.size):
                subprocess.Popen([sys.executable, *sys.argv, "--rank", str(rank)])
        if self.size > 1:
            dist.init_process_group(
                "gloo", init_method=f"file://{meeting}", rank=self.rank, world_size=self.size
            )

    def average(self, model: nn.Module, going: bool) -> bool:
        """Average the gradients in place; the first process decides whether to go on."""
        if self.size == 1:
            return going
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        last = torch.tensor([float(going and self.rank == 0)])
        flat = torch.cat([g.flatten() for g in grads] + [last])
        dist.all_reduce(flat)
        start = 0
        for grad in grads:
            grad.copy_(flat[start : start + grad.numel()].view_as(grad)).div_(self.size)
            start += grad.numel()
        return bool(flat[-1] > 0)


class Trainer:
    """Model, average, optimizers and counters: all that a checkpoint holds."""

    def __init__(self, args: argparse.Namespace, team: Team) -> None:
        self.args, self.team = args, team
        self.checkpoint = args.work / "denoiser.pt"
        torch.manual_seed(args.seed)
        self.model = new_denoiser()
        self.model.set_attn_processor(PlainAttention())
        self.run = torch.compile(self.model) if args.compile else self.model
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizers = optimizers_of(self.model)
        self.step, self.samples, self.spent = 0, 0, 0.0
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.spent, self.samples = state["step"], state["spent"], state["samples"]
        torch.manual_seed(args.seed + self.step + 7919 * team.rank)

    def keep(self) -> None:
        """Save the checkpoint and export the averaged weights."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "spent": self.spent,
            "samples": self.samples,
        }
        save(self.checkpoint, state)
        export(self.average, self.args.work)

    def advance(self, batch: tuple[Tensor, Tensor, Tensor], *, given: bool, more: bool) -> tuple[float, bool]:
        """One step; returns the loss and whether the team goes on."""
        budget = self.args.minutes * 60
        fade = (
            min(1, (self.step + 1) / 60) * (0.5 + 0.5 * math.cos(math.pi * min(1, self.spent / budget)))
            + 0.005
        )
        for optimizer, rate in zip(self.optimizers, (self.args.lr, self.args.lr / 2), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * fade
        loss = flow_loss(self.run, batch, self.args.shift, given=given)
        self.model.zero_grad()
        loss.backward()
        more = self.team.average(self.model, more)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.samples += self.args.batch * self.team.size
        decay = min(self.args.ema, self.step / (self.step + 30))
        for a, p in zip(self.average.parameters(), self.model.parameters(), strict=True):
            a.lerp_(p.detach(), 1 - decay)
        return loss.item(), more


def train(args: argparse.Namespace) -> None:
    team = Team(args)
    trainer = Trainer(args, team)
    bank = Bank(args.work / "bank", Texts(args.work))
    while not bank.refresh():
        time.sleep(5)
    first = team.rank == 0
    print(
        sum(p.numel() for p in trainer.model.parameters()),
        "parameters,",
        len(bank.latents),
        "clips",
        flush=True,
    )
    rng = random.Random(args.seed + trainer.step + 7919 * team.rank)
    budget, before, started = args.minutes * 60, trainer.spent, time.monotonic()
    shown = sampled = before
    losses: list[float] = []
    going = before < budget
    while going:
        batch = bank.batch(rng, args.batch, 0.12)
        given = rng.random() < 0.2
        more = before + time.monotonic() - started < budget
        loss, going = trainer.advance(batch, given=given, more=more)
        losses.append(loss)
        trainer.spent = before + time.monotonic() - started
        if trainer.spent - shown > 60:
            shown = trainer.spent
            clips = bank.refresh()
            if first:
                report(args.work, trainer, losses, clips)
            losses.clear()
        if first and trainer.spent - sampled > args.sheet * 60:
            sampled = trainer.spent
            trainer.keep()
            samples_sheet(args.work, args.work / f"samples-{trainer.step:06d}.png")
    if first:
        trainer.keep()
        samples_sheet(args.work, args.work / "samples.png")


def report(work: Path, trainer: Trainer, losses: list[float], clips: int) -> None:
    """One line for the loss log."""
    line = json.dumps(
        {"step": trainer.step, "samples": trainer.samples, "s": round(trainer.spent),
         "loss": round(float(np.mean(losses)), 4), "clips": clips}
    )  # fmt: skip
    print(line, flush=True)
    with (work / "denoiser.jsonl").open("a") as log:
        log.write(line + "\n")


def export(model: WanTransformer3DModel, work: Path) -> None:
    """Write WORK/transformer in one rename."""
    folder = work / "transformer.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    shutil.rmtree(work / "transformer", ignore_errors=True)
    folder.rename(work / "transformer")


def pipeline(work: Path, shift: float = 3.0, dtype: torch.dtype = torch.bfloat16) -> WanPipeline:
    """The parts in WORK as the pipeline that serves them."""
    return WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(work / "tokenizer"),
        text_encoder=BertModel.from_pretrained(work / "text_encoder", dtype=dtype).eval(),
        vae=AutoencoderKLWan.from_pretrained(work / "vae", dtype=dtype).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        transformer=WanTransformer3DModel.from_pretrained(work / "transformer", dtype=dtype).eval(),
        expand_timesteps=True,
    )


def samples_sheet(work: Path, path: Path, guidance: float = 3.0, steps: int = 12) -> None:
    """Draw the standing prompts, to look at while training goes on."""
    pipe = pipeline(work)
    pipe.set_progress_bar_config(disable=True)
    clips = []
    for prompt in PROMPTS:
        video = pipe(prompt, height=192, width=192, num_frames=17, num_inference_steps=steps, guidance_scale=guidance,
                     max_sequence_length=MAX_SEQUENCE_LENGTH, generator=torch.Generator().manual_seed(3)).frames[0]  # fmt: skip
        clips.append((video * 255).round().astype(np.uint8))
    sheet(clips, path, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("bank", "train", "sheet"))
    parser.add_argument("--work", type=Path, default=default_work())
    parser.add_argument("--clips", type=int, default=8000)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--sheet", type=float, default=8, help="minutes between checkpoints with samples")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--shift", type=float, default=2.0)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--team", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "bank":
        make_bank(args)
    elif args.what == "train":
        train(args)
    else:
        samples_sheet(args.work, args.work / "samples.png")


if __name__ == "__main__":
    main()

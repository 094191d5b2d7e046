"""Train the denoiser: text and noise become latents, by flow matching.

The class is diffusers' `WanTransformer3DModel` in the Wan 2.2 TI2V layout: every token has a timestep of
its own, so a first frame that is given (timestep zero, no noise) needs no other network than text alone.

`python pocket/denoiser.py bank` encodes composed clips with the frozen autoencoder into WORK/bank (in shards: it
can be stopped and goes on where it was). `python pocket/denoiser.py train --minutes 60` trains on those shards, or,
where there are fewer than the preset wants, on clips that it composes itself and keeps in memory; it goes on
from its checkpoint, else from the averaged weights in WORK/transformer, and writes them anew.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from autoencoder import encode_clip, log, replace_folder, save
from clips import open_clips
from data import sheet
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from muon import Muon
from presets import Preset, Setup, parser_of, setup_of
from sources import need_space
from text_encoder import MAX_SEQUENCE_LENGTH
from torch import Tensor, nn
from transformers import AutoTokenizer, BertModel
from world import Shape

SHARD = 256
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


def new_denoiser(preset: Preset) -> WanTransformer3DModel:
    """A fresh denoiser that predicts nothing yet."""
    channels = preset.vae["z_dim"]
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        in_channels=channels,
        out_channels=channels,
        text_dim=384,
        cross_attn_norm=True,
        **preset.transformer,
    )
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    return model


def compiled(model: WanTransformer3DModel, setup: Setup) -> nn.Module:
    """Block by block on a GPU, where several shapes would each compile for a minute; whole on a CPU."""
    if setup.device.type == "cpu":
        return torch.compile(model)
    model.compile_repeated_blocks(dynamic=False)
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


@torch.no_grad()
def shards(setup: Setup, first: int, last: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Compose and encode clips; each shard has one shape and a seed of its own."""
    preset = setup.preset
    if not (setup.work / "vae").is_dir():
        raise SystemExit(
            f"pocket: {setup.work / 'vae'} is not there; `python pocket/autoencoder.py` makes it"
        )
    clips = open_clips(setup)
    vae = AutoencoderKLWan.from_pretrained(setup.work / "vae").to(setup.device).eval()
    mean, std = (
        torch.tensor(v, device=setup.device).view(1, -1, 1, 1, 1)
        for v in (vae.config.latents_mean, vae.config.latents_std)
    )
    for number in range(first, last):
        rng = random.Random(f"bank {setup.args.seed} {number}")
        shape = preset.shapes[(number * 2) % (len(preset.shapes) + 1) % len(preset.shapes)]
        latents, weights, captions = [], [], []
        for _ in range(0, shard_size(preset), preset.bank_batch):
            x, mask, words, _ = clips.clips(rng, preset.bank_batch, shape, wordings=preset.captions)
            with setup.autocast():
                z = encode_clip(vae, x).float()
            latents.append(((z - mean) / std).half())
            weights.append(cells_of(mask))
            captions += words
        yield number, {"latents": torch.cat(latents), "subject": torch.cat(weights), "captions": captions}


def shard_size(preset: Preset) -> int:
    return min(SHARD, max(preset.bank_batch, preset.bank // 4))


def shard_count(preset: Preset) -> int:
    return math.ceil(preset.bank / shard_size(preset))


def cells_of(mask: Tensor) -> Tensor:
    """Which latent cells hold some of the subject, (n, t, h, w)."""
    spatial = nn.functional.max_pool2d(mask, 16) > 0.5
    rest = spatial[:, 1:].unflatten(1, (-1, 4)).any(2)
    return torch.cat([spatial[:, :1], rest], 1)


def make_bank(setup: Setup) -> None:
    """Write what is missing; each shard whole or not at all."""
    folder = setup.work / "bank"
    folder.mkdir(exist_ok=True)
    for number in range(shard_count(setup.preset)):
        path = folder / f"{number:04d}.pt"
        if not path.exists():
            save(path, next(shards(setup, number, number + 1))[1])
            print("bank", (number + 1) * shard_size(setup.preset), flush=True)


class Texts:
    """Text states as the pipeline makes them."""

    def __init__(self, setup: Setup) -> None:
        self.tokens, self.device = setup.preset.tokens, setup.device
        self.tokenizer = AutoTokenizer.from_pretrained(setup.work / "tokenizer")
        self.encoder = BertModel.from_pretrained(setup.work / "text_encoder", dtype=torch.float32)
        self.encoder.to(setup.device).eval()

    def ids(self, captions: list[str]) -> Tensor:
        """Piece numbers (n, tokens), zeros after the end."""
        out = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=self.tokens, return_tensors="pt"
        )
        return (out.input_ids * out.attention_mask).short()

    @torch.no_grad()
    def states(self, ids: Tensor) -> Tensor:
        ids = ids.to(self.device).long()
        mask = (ids > 0).long()
        longest = int(mask.sum(1).max()) if self.device.type == "cpu" else ids.shape[1]
        states = self.encoder(ids[:, :longest], mask[:, :longest]).last_hidden_state
        states = states * mask[:, :longest, None]
        return nn.functional.pad(states, (0, 0, 0, MAX_SEQUENCE_LENGTH - longest))


class Bank:
    """All clips in memory, by shape."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.texts = setup, Texts(setup)
        self.nothing = self.texts.ids([""])
        self.parts: dict[tuple[int, ...], list[tuple[Tensor, Tensor, Tensor]]] = {}
        self.clips = 0

    def take(self, shard: dict[str, Any]) -> None:
        wordings = max(map(len, shard["captions"]))
        said = [words[i % len(words)] for words in shard["captions"] for i in range(wordings)]
        ids = self.texts.ids(said).unflatten(0, (-1, wordings))
        part = tuple(t.to(self.setup.device) for t in (shard["latents"], shard["subject"], ids))
        self.parts.setdefault(tuple(shard["latents"].shape[2:]), []).append(part)  # type: ignore[arg-type]
        self.clips += len(ids)

    def fill(self) -> None:
        """Read the shards that exist and compose the rest."""
        found = sorted((self.setup.work / "bank").glob("*.pt"))
        for path in found:
            self.take(torch.load(path, weights_only=True))
        for _, shard in shards(self.setup, len(found), shard_count(self.setup.preset)):
            self.take(shard)
        self.parts = {k: [tuple(torch.cat(c) for c in zip(*v, strict=True))] for k, v in self.parts.items()}  # type: ignore[misc]
        self.shapes = list(self.parts)
        self.sizes = [len(self.parts[k][0][0]) for k in self.shapes]

    def batch(self, rng: random.Random, count: int, drop: float) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised latents, weight of every cell, text states: clips of one shape."""
        shape = rng.choices(self.shapes, self.sizes)[0]
        latents, subject, ids = self.parts[shape][0]
        picks = torch.randint(len(latents), (count,), device=latents.device)
        wording = torch.randint(ids.shape[1], (count,), device=latents.device)
        said = ids[picks, wording]
        said[torch.rand(count, device=said.device) < drop] = self.nothing.to(said.device)
        weight = 1 + 2 * subject[picks].float()[:, None]
        return latents[picks].float(), weight, self.texts.states(said)


# --- training ------------------------------------------------------------------------------------


def flow_loss(setup: Setup, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], *, given: bool) -> Tensor:
    """Squared error of the velocity (noise - clean) that the flow schedulers of diffusers expect.

    `given`: the first latent frame is clean, its tokens have timestep zero and no loss.
    """
    clean, weight, text = batch
    shift = setup.preset.shift
    sigma = torch.sigmoid(torch.randn(clean.shape[0], device=clean.device))
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    noise = torch.randn_like(clean)
    s = sigma.view(-1, 1, 1, 1, 1)
    mixed = (1 - s) * clean + s * noise
    timestep = sigma * 1000
    if given or setup.device.type != "cpu":  # a GPU compiles one form only
        frames, height, width = clean.shape[2], clean.shape[3] // 2, clean.shape[4] // 2
        timestep = timestep.view(-1, 1).repeat(1, frames * height * width)
    if given:
        mixed[:, :, 0] = clean[:, :, 0]
        timestep[:, : height * width] = 0
        weight = weight.clone()
        weight[:, :, 0] = 0
    with setup.autocast():
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
        if self.size > 1 and args.device not in (None, "cpu"):
            raise SystemExit("pocket: --team is for CPU cores")
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

    def __init__(self, setup: Setup, team: Team) -> None:
        self.setup, self.team = setup, team
        args, preset = setup.args, setup.preset
        self.checkpoint = setup.work / "denoiser.pt"
        self.model = new_denoiser(preset)
        start = setup.work / "transformer"
        if start.exists() and not self.checkpoint.exists():
            self.model.load_state_dict(WanTransformer3DModel.from_pretrained(start).state_dict())
            print("going on from the averaged weights in", start, flush=True)
        self.model.to(setup.device)
        if setup.device.type == "cpu":
            self.model.set_attn_processor(PlainAttention())
        self.run = compiled(self.model, setup) if args.compile else self.model
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizers = optimizers_of(self.model)
        self.step, self.samples, self.spent = 0, 0, 0.0
        if self.checkpoint.exists():
            self._resume()
        self.first = self.step
        torch.manual_seed(args.seed + self.step + 7919 * team.rank)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True, map_location=self.setup.device)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.spent, self.samples = state["step"], state["spent"], state["samples"]

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
        replace_folder(self.average, self.setup.work / "transformer")

    def pace(self, done: float) -> None:
        """Warm up, then a cosine over the run's wall clock."""
        preset = self.setup.preset
        warm = min(1, (self.step - self.first + 1) / preset.warm_up)
        fade = warm * (0.5 + 0.5 * math.cos(math.pi * min(1, done))) + 0.005
        rate = self.setup.args.lr or preset.rate
        for optimizer, part in zip(self.optimizers, (rate, rate / 2), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = part * fade

    def advance(
        self, batch: tuple[Tensor, Tensor, Tensor], *, given: bool, more: bool
    ) -> tuple[Tensor, bool]:
        """One step; returns the loss and whether the team goes on."""
        loss = flow_loss(self.setup, self.run, batch, given=given)
        self.model.zero_grad()
        loss.backward()
        more = self.team.average(self.model, more)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.samples += len(batch[0]) * self.team.size
        decay = min(self.setup.preset.ema, self.step / (self.step + 30))
        theirs = [p.detach() for p in self.model.parameters()]
        torch._foreach_lerp_(list(self.average.parameters()), theirs, 1 - decay)
        return loss.detach(), more


def train(setup: Setup) -> None:
    args, preset = setup.args, setup.preset
    team = Team(args)
    trainer = Trainer(setup, team)
    started = time.monotonic()
    bank = Bank(setup)
    bank.fill()
    first = team.rank == 0
    size = sum(p.numel() for p in trainer.model.parameters())
    print(f"{size} parameters, {bank.clips} clips after {time.monotonic() - started:.0f} s", flush=True)
    rng = random.Random(args.seed + trainer.step + 7919 * team.rank)
    budget, before = args.minutes * 60, trainer.spent
    shown = sampled = before
    losses: list[Tensor] = []
    going = True
    while going:
        ran = time.monotonic() - started
        trainer.pace(ran / budget)
        batch = bank.batch(rng, (args.batch or preset.batch) // team.size, preset.drop)
        loss, going = trainer.advance(batch, given=rng.random() < preset.given, more=ran < budget)
        losses.append(loss)
        trainer.spent = before + time.monotonic() - started
        if first and trainer.spent - shown > args.every:
            shown = trainer.spent
            log(setup.work / "denoiser.jsonl", step=trainer.step, samples=trainer.samples, s=round(shown),
                loss=round(torch.stack(losses).mean().item(), 4), clips=bank.clips)  # fmt: skip
            losses.clear()
        if first and trainer.spent - sampled > args.sheet * 60:
            sampled = trainer.spent
            trainer.keep()
            samples_sheet(setup, setup.work / f"samples-{trainer.step:06d}.png")
    if first:
        trainer.keep()
        samples_sheet(setup, setup.work / "samples.png")


def pipeline(setup: Setup, shift: float = 3.0, dtype: torch.dtype = torch.bfloat16) -> WanPipeline:
    """The parts in WORK as the pipeline that serves them."""
    work = setup.work
    pipe = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(work / "tokenizer"),
        text_encoder=BertModel.from_pretrained(work / "text_encoder", dtype=dtype).eval(),
        vae=AutoencoderKLWan.from_pretrained(work / "vae", dtype=dtype).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        transformer=WanTransformer3DModel.from_pretrained(work / "transformer", dtype=dtype).eval(),
        expand_timesteps=True,
    ).to(setup.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(
    pipe: WanPipeline,
    prompts: list[str],
    shape: Shape,
    seed: int,
    *,
    steps: int = 12,
    guidance: float = 3.0,
    batch: int = 4,
) -> list[np.ndarray]:
    """Clips as uint8 frames; every clip has a seed of its own."""
    clips: list[np.ndarray] = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        seeds = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        video = pipe(
            part, height=shape.height, width=shape.width, num_frames=shape.frames, num_inference_steps=steps,
            guidance_scale=guidance, max_sequence_length=MAX_SEQUENCE_LENGTH, generator=seeds,
        ).frames  # fmt: skip
        clips += list((video * 255).round().astype(np.uint8))
    return clips


def samples_sheet(setup: Setup, path: Path) -> None:
    """Draw the standing prompts, to look at while training goes on."""
    sheet(draw(pipeline(setup), list(PROMPTS), setup.preset.shapes[0], 3), path, 6)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=("bank", "train", "sheet"))
    parser.add_argument(
        "--minutes", type=float, default=60, help="of this run, the bank's composing included"
    )
    parser.add_argument("--sheet", type=float, default=8, help="minutes between checkpoints with samples")
    parser.add_argument("--every", type=float, default=60, help="seconds between lines of the loss log")
    parser.add_argument("--batch", type=int, help="default: the preset's")
    parser.add_argument("--lr", type=float, help="default: the preset's")
    parser.add_argument("--team", type=int, default=1, help="CPU processes of one thread each")
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    setup = setup_of(args)
    need_space(args.work, 1)
    if args.what == "bank":
        make_bank(setup)
    elif args.what == "train":
        train(setup)
    else:
        samples_sheet(setup, args.work / "samples.png")


if __name__ == "__main__":
    main()

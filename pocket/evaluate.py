"""Measure an exported model honestly: what was asked against what an independent judge sees.

The judge is a small network trained here on composed clips only; it never sees the denoiser. Its own
accuracy, and that of the motion measure, on composed clips is printed beside the model's figures: they
are the most that the model could reach.

`python pocket/evaluate.py FOLDER` writes WORK/evaluation.md and WORK/evaluation.png.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from autoencoder import psnr, save
from data import (
    BACKGROUNDS,
    FRAMES,
    MOTIONS,
    SIZE,
    SUBJECTS,
    Scene,
    Sprites,
    all_scenes,
    backdrop,
    compose,
    default_work,
    held_out,
    random_scene,
    sheet,
)
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image
from torch import Tensor, nn

NAMES = [s.name for s in SUBJECTS]
PLACES = list(BACKGROUNDS)
VERB = {
    "left": "{} moves to the left {}", "right": "{} moves to the right {}", "up": "{} flies up {}",
    "down": "{} falls down {}", "jump": "{} jumps {}", "stay": "{} stands still {}",
}  # fmt: skip
ASIDE = {
    "dog": ("puppy", "hound"), "cat": ("kitten", "kitty"), "duck": ("mallard", "drake"), "fish": ("goldfish", "blue fish"),
    "car": ("automobile", "vehicle"), "rocket": ("spaceship", "spacecraft"), "balloon": ("red balloon", "party balloon"),
    "butterfly": ("orange butterfly", "moth"), "turtle": ("tortoise", "sea turtle"), "penguin": ("little penguin", "penguins"),
}  # fmt: skip


class Judge(nn.Module):
    """Names subject and background of one frame at 64 x 64."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in ((3, 24), (24, 48), (48, 96), (96, 128)):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(128 * 16, 128), nn.ReLU())
        self.subject, self.place = nn.Linear(128, len(NAMES)), nn.Linear(128, len(PLACES))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x)
        return self.subject(x), self.place(x)


def small(frames: np.ndarray) -> Tensor:
    """uint8 frames (N, H, W, 3) as the judge sees them."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(x, (64, 64), mode="area") * 2 - 1


def judge_of(work: Path, sprites: Sprites, minutes: float) -> Judge:
    """Train the judge on composed frames with blur and noise (so that softness is no excuse)."""
    path, judge = work / "judge.pt", Judge()
    if path.exists():
        judge.load_state_dict(torch.load(path, weights_only=True))
        return judge.eval()
    rng = random.Random(11)
    torch.manual_seed(11)
    frames, subjects, places = [], [], []
    for _ in range(1500):
        scene = random_scene(rng)
        scene = Scene(
            scene.subject,
            scene.background,
            scene.motion,
            rng.randint(-24, 24),
            scene.tint,
            rng.randint(-12, 12),
        )
        frames.append(small(compose(scene, sprites)[0][[2, 7, 13]]))
        subjects += [NAMES.index(scene.subject)] * 3
        places += [PLACES.index(scene.background)] * 3
    x, s, p = torch.cat(frames), torch.tensor(subjects), torch.tensor(places)
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3, weight_decay=0.02)
    started = time.monotonic()
    while (done := (time.monotonic() - started) / 60 / minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - done) + 1e-5
        i = torch.randint(len(x), (64,))
        batch = x[i]
        if rng.random() < 0.6:
            batch = F.interpolate(F.avg_pool2d(batch, 2), scale_factor=2, mode="bilinear")
        batch = batch + rng.choice((0, 0.05, 0.15)) * torch.randn_like(batch)
        a, b = judge(batch)
        loss = F.cross_entropy(a, s[i]) + F.cross_entropy(b, p[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save(path, judge.state_dict())
    return judge.eval()


@torch.no_grad()
def names(judge: Judge, clip: np.ndarray) -> tuple[str, str]:
    """Subject and background by the sum of three frames' votes."""
    a, b = judge(small(clip[[2, 8, 14]]))
    return NAMES[int(a.softmax(1).sum(0).argmax())], PLACES[int(b.softmax(1).sum(0).argmax())]


TINTS = [(a, b) for a in (-1.0, -0.5, 0.0, 0.5, 1.0) for b in (-1.0, -0.5, 0.0, 0.5, 1.0)]


def motion(clip: np.ndarray, place: str) -> str:
    """The motion by the path of what differs from the nearest plain background."""
    plates = [np.asarray(backdrop(place, t)).astype(np.float32) for t in TINTS]
    middle = np.median(clip, 0).astype(np.float32)
    plate = min(plates, key=lambda p: float(np.minimum(np.abs(p - middle), 60).mean()))
    ys, xs = np.mgrid[0:SIZE, 0:SIZE]
    path = []
    for frame in clip:
        away = np.clip(np.abs(frame.astype(np.float32) - plate).mean(2) - 22, 0, 40)
        total = away.sum() + 1e-6
        path.append(((away * xs).sum() / total, (away * ys).sum() / total))
    x, y = np.array(path).T
    dx, dy = x[-3:].mean() - x[:3].mean(), y[-3:].mean() - y[:3].mean()
    if max(abs(dx), abs(dy)) > 14:
        if abs(dx) > abs(dy):
            return "right" if dx > 0 else "left"
        return "down" if dy > 0 else "up"
    return "jump" if y.max() - y.min() > 12 else "stay"


def draw(pipe: WanPipeline, prompts: list[str], seed: int, args: argparse.Namespace) -> list[np.ndarray]:
    """Generate in batches of four."""
    clips: list[np.ndarray] = []
    for start in range(0, len(prompts), 4):
        part = prompts[start : start + 4]
        video = pipe(
            part, height=SIZE, width=SIZE, num_frames=FRAMES, num_inference_steps=args.steps, guidance_scale=args.guidance,
            max_sequence_length=64, generator=[torch.Generator().manual_seed(seed + start + i) for i in range(len(part))],
        ).frames  # fmt: skip
        clips += list((video * 255).round().astype(np.uint8))
    return clips


def prompt_of(scene: Scene, rng: random.Random, noun: str | None = None) -> str:
    place = rng.choice(BACKGROUNDS[scene.background])
    return VERB[scene.motion].format("a " + (noun or scene.subject), place)


def score(judge: Judge, scenes: list[Scene], clips: list[np.ndarray]) -> tuple[int, int, int]:
    """How many have the right subject, background, motion."""
    seen = [(*names(judge, c), motion(c, s.background)) for s, c in zip(scenes, clips, strict=True)]
    hits = [
        (a == s.subject, b == s.background, m == s.motion) for s, (a, b, m) in zip(scenes, seen, strict=True)
    ]
    return tuple(sum(column) for column in zip(*hits, strict=True))  # type: ignore[return-value]


def percent(hits: tuple[int, int, int], count: int) -> str:
    return " | ".join(f"{100 * h / count:.0f} %" for h in hits)


def autoencoder_figures(pipe: WanPipeline, sprites: Sprites, count: int) -> tuple[float, float]:
    """PSNR over whole frames and over the subject's pixels, on compositions never trained on."""
    rng, whole, inside = random.Random(5), [], []
    for _ in range(count):
        frames, mask = compose(random_scene(rng, want_held_out=True), sprites)
        x = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        with torch.no_grad():
            z = pipe.vae.encode(x.to(pipe.vae.dtype)).latent_dist.mode()
            y = pipe.vae.decode(z).sample.float()
        a, b = psnr(y, x, torch.from_numpy(mask)[None].float() / 255)
        whole.append(a)
        inside.append(b)
    return float(np.mean(whole)), float(np.mean(inside))


def first_frame(pipe: WanPipeline, sprites: Sprites, args: argparse.Namespace) -> str:
    """Image to video: is the given frame kept, does the motion follow the words?"""
    other = WanImageToVideoPipeline(
        tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder, vae=pipe.vae, scheduler=pipe.scheduler,
        transformer=pipe.transformer, expand_timesteps=True,
    )  # fmt: skip
    other.set_progress_bar_config(disable=True)
    rng, kept, right = random.Random(6), [], 0
    for index in range(16):
        scene = random_scene(rng)
        given = compose(scene, sprites)[0][0]
        clip = other(
            image=Image.fromarray(given), prompt=prompt_of(scene, rng), height=SIZE, width=SIZE, num_frames=FRAMES,
            num_inference_steps=args.steps, guidance_scale=args.guidance, max_sequence_length=64,
            generator=torch.Generator().manual_seed(index),
        ).frames[0]  # fmt: skip
        kept.append(10 * np.log10(1 / max(1e-9, ((clip[0] - given / 255) ** 2).mean())))
        right += motion((clip * 255).astype(np.uint8), scene.background) == scene.motion
    return f"Image to video: first frame kept at {np.mean(kept):.1f} dB, motion right in {right} of 16."


SHOW = (
    "a dog walks along the beach", "a puppy runs to the right in the snow", "a cat jumps in a meadow",
    "a rocket flies up at night", "a fish swims to the left in the sea", "a red balloon rises at sunset",
    "a butterfly on a yellow background", "a car drives to the right at the beach", "a duck in a meadow",
    "a turtle falls down on a pink background", "a penguin jumps in the snow", "a horse runs in a field",
)  # fmt: skip


def limits(judge: Judge, sprites: Sprites, rng: random.Random) -> list[str]:
    """What the measures themselves reach on composed clips."""
    lines = [
        "| on composed clips (the judge's own limit) | subject | background | motion |",
        "| --- | --- | --- | --- |",
    ]
    for label, hidden in (("trained combinations", False), ("held-out combinations", True)):
        scenes = [random_scene(rng, want_held_out=hidden) for _ in range(150)]
        hits = score(judge, scenes, [compose(s, sprites)[0] for s in scenes])
        lines.append(f"| {label} | {percent(hits, len(scenes))} |")
    return lines


def generated(pipe: WanPipeline, judge: Judge, rng: random.Random, args: argparse.Namespace) -> list[str]:
    """The table of what was drawn against what was asked, and a control."""
    lines = [
        f"| generated, {args.steps} steps, guidance {args.guidance}, {args.prompts} clips a row | subject | background | motion |",
        "| --- | --- | --- | --- |",
    ]
    held = [s for s in all_scenes() if held_out(s)]
    seen = [s for s in all_scenes() if not held_out(s)]
    rows = (
        ("trained combinations", seen),
        ("held-out combinations", held),
        ("other nouns (puppy, vehicle, moth ...)", seen),
    )
    by_subject: dict[str, list[bool]] = {n: [] for n in NAMES}
    by_motion: dict[str, list[bool]] = {m: [] for m in MOTIONS}
    control, seconds = "", 0.0
    for row, (label, pool) in enumerate(rows):
        aside = row == 2
        scenes = rng.sample(pool, min(args.prompts, len(pool)))
        prompts = [prompt_of(s, rng, rng.choice(ASIDE[s.subject]) if aside else None) for s in scenes]
        started = time.monotonic()
        clips = draw(pipe, prompts, 1000 * row, args)
        seconds = (time.monotonic() - started) / len(clips)
        lines.append(f"| {label} | {percent(score(judge, scenes, clips), len(scenes))} |")
        print(lines[-1], flush=True)
        if row == 0:  # the measures must be able to say no
            others = scenes[5:] + scenes[:5]
            control = f"Control, the same clips against other clips' prompts: {percent(score(judge, others, clips), len(scenes))}."
        for s, c in zip(scenes, clips, strict=True):
            if not aside:
                by_subject[s.subject].append(names(judge, c)[0] == s.subject)
                by_motion[s.motion].append(motion(c, s.background) == s.motion)
    for label, table in (("subject right", by_subject), ("motion right", by_motion)):
        each = ", ".join(f"{k} {sum(v)}/{len(v)}" for k, v in table.items())
        lines += ["", f"{label}, all rows but other nouns: {each}"]
    lines += ["", control, "The judge must choose among ten subjects; it says nothing about sharpness.", ""]
    return [*lines, f"{seconds:.1f} s a clip in batches of four on {args.threads} core(s) of a busy machine."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, default=default_work())
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--prompts", type=int, default=36, help="per row of the table")
    parser.add_argument("--judge-minutes", type=float, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sprites = Sprites(args.work)
    judge = judge_of(args.work, sprites, args.judge_minutes)
    rng = random.Random(2)
    pipe = WanPipeline.from_pretrained(args.folder, dtype=torch.bfloat16, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    lines = [*limits(judge, sprites, rng), "", *generated(pipe, judge, rng, args), ""]
    whole, inside = autoencoder_figures(pipe, sprites, 40)
    lines += [
        f"Autoencoder on held-out compositions: {whole:.1f} dB over all pixels, {inside:.1f} dB over the subject's.",
        "",
    ]
    lines += [first_frame(pipe, sprites, args), ""]
    same = draw(pipe, ["a dog walks along the beach"] * 4, 77, args)
    spread = np.mean([np.abs(a.astype(int) - b).mean() for i, a in enumerate(same) for b in same[:i]])
    lines.append(f"Four seeds of one prompt differ by {spread:.1f} of 255 on average.")
    (args.work / "evaluation.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    sheet(draw(pipe, list(SHOW), 3, args), args.work / "evaluation.png", 6)


if __name__ == "__main__":
    main()

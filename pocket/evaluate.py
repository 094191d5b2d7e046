"""Measure an exported model honestly: what was asked against what an independent judge (judge.py) sees.

`python pocket/evaluate.py FOLDER` writes WORK/evaluation.md, a table with the goals beside the figures, and
WORK/evaluation.png. A figure whose judge is not good enough, or that does not apply to the preset's world, says so.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from autoencoder import psnr
from carry import SHIPPED
from clips import Clips, Question, open_clips
from data import sheet
from denoiser import PROMPTS, draw
from diffusers import WanImageToVideoPipeline, WanPipeline
from judge import ENOUGH, Judge, judge_of
from PIL import Image
from presets import Setup, parser_of, setup_of
from sources import save_whole

FLOOR = 3.0
"""Seeds differ: mean difference between clips of one prompt, of 255, that a viewer notices."""
SHOW = (
    *PROMPTS, "a duck in a meadow", "a turtle falls down on a pink background", "a penguin jumps in the snow",
    "a horse runs in a field",
)  # fmt: skip


class Table:
    """Figures beside their goals."""

    def __init__(self) -> None:
        self.lines = ["| figure | goal | measured |", "| --- | --- | --- |"]

    def row(self, figure: str, goal: str, measured: str) -> None:
        self.lines.append(f"| {figure} | {goal} | {measured} |")
        print(self.lines[-1], flush=True)


def questions(clips: Clips, count: int, seed: int, **asked: bool) -> list[Question]:
    """The same for the same seed; empty where the world has none."""
    rng = random.Random(seed)
    found = [clips.question(rng, **asked) for _ in range(count)]
    return [q for q in found if q is not None]


def part(hits: Sequence[bool]) -> str:
    """A share with its number of clips."""
    return f"{100 * np.mean(hits):.0f} % of {len(hits)}" if len(hits) else "does not apply"


class Answers:
    """The clips drawn for some questions, and what the judge says of them."""

    def __init__(self, judge: Judge, asked: list[Question], clips: list[np.ndarray]) -> None:
        self.judge, self.asked, self.clips = judge, asked, clips
        self.subject = [
            judge.name(c) == judge.group(q.subjects[0]) for q, c in zip(asked, clips, strict=True)
        ]
        self.place = [judge.where(c) == q.place for q, c in zip(asked, clips, strict=True)]
        self.motion = [
            judge.motion(c) == q.motion
            for q, c in zip(asked, clips, strict=True)
            if q.motion in judge.clips.measured
        ]

    def claim(self, kind: str, hits: Sequence[bool]) -> str:
        if self.judge.accuracy[kind] < ENOUGH:
            return f"no claim: the judge itself reaches {100 * self.judge.accuracy[kind]:.1f} %"
        return part(hits)

    def by_subject(self) -> str:
        """The weakest first."""
        table: dict[str, list[bool]] = {}
        for question, hit in zip(self.asked, self.subject, strict=True):
            table.setdefault(question.subjects[0], []).append(hit)
        worst = sorted(table.items(), key=lambda item: np.mean(item[1]))
        return ", ".join(f"{name} {sum(hits)}/{len(hits)}" for name, hits in worst[:20])


WEIGHED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
"""Runs a command and prints its peak memory in KB. In a small process: a child is charged with what its parent had when it was started."""


class Evaluation:
    """One model in front of one judge."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.setup, self.folder, self.args = setup, folder, setup.args
        self.clips = open_clips(setup)
        self.judge = judge_of(setup, self.clips)
        self.pipe = WanPipeline.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
        self.pipe.to(setup.device)
        self.pipe.set_progress_bar_config(disable=True)
        self.shape = setup.preset.shapes[0]
        self.table = Table()

    def draw(self, prompts: list[str], seed: int) -> list[np.ndarray]:
        args = self.args
        return draw(
            self.pipe, prompts, self.shape, seed, steps=args.steps, guidance=args.guidance, batch=args.batch
        )

    def answers(self, asked: list[Question], seeds: int) -> Answers:
        drawn = [c for s in range(seeds) for c in self.draw([q.prompt for q in asked], 100_000 * s)]
        return Answers(self.judge, asked * seeds, drawn)

    def run(self) -> str:
        """All figures, in the order of the goals."""
        started = time.monotonic()
        notes = self.limits()
        self.served()
        self.autoencoder()
        seen = self.answers(questions(self.clips, self.args.prompts, 21), self.args.seeds)
        self.table.row("subject right", "80 %", seen.claim("subject", seen.subject))
        self.table.row("motion direction right", "85 %", part(seen.motion))
        self.table.row("background right", "90 %", seen.claim("background", seen.place))
        hidden = self.answers(questions(self.clips, self.args.prompts, 22, hidden=True), 1)
        gap = 100 * (np.mean(seen.subject) - np.mean(hidden.subject))
        text = f"subject {part(hidden.subject)} ({gap:.0f} points behind), motion {part(hidden.motion)}, background {part(hidden.place)}"
        self.table.row("held-out compositions", "within 10 points", text)
        self.two()
        aside = self.answers(questions(self.clips, self.args.prompts, 23, aside=True), 1)
        self.table.row(
            "synonyms and other wordings: subject right", "70 %", aside.claim("subject", aside.subject)
        )
        self.given()
        self.seeds()
        half = max(1, self.args.prompts // 2)
        others = Answers(self.judge, seen.asked[half:] + seen.asked[:half], seen.clips)
        notes += [
            f"Control, the same clips against other clips' prompts: subject {part(others.subject)}, background "
            f"{part(others.place)}.",
            f"Weakest subjects: {seen.by_subject()}.",
            f"{self.args.prompts} prompts, {self.args.seeds} seeds for the first three rows, {self.args.steps} steps, guidance "
            f"{self.args.guidance:g}; {(time.monotonic() - started) / 60:.0f} minutes.",
        ]
        return "\n".join([*self.table.lines, "", *notes]) + "\n"

    def limits(self) -> list[str]:
        """What the measures themselves reach on composed clips."""
        rng, found = random.Random(5), []
        for _ in range(2 if self.args.tiny else 12):
            x, _, _, asked = self.clips.clips(rng, 8, self.shape)
            frames = ((x.clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 4, 1).cpu().numpy()
            alone = [i for i, q in enumerate(asked) if len(q.subjects) == 1]
            found.append(Answers(self.judge, [asked[i] for i in alone], [frames[i] for i in alone]))
        subject, motion, place = (
            part([h for a in found for h in getattr(a, k)]) for k in ("subject", "motion", "place")
        )
        groups: dict[str, list[str]] = {}
        for name, group in self.judge.same.items():
            groups.setdefault(group, []).append(name)
        alike = "; ".join(", ".join(g) for g in groups.values() if len(g) > 1) or "none"
        return [
            f"The judge chooses among {len(self.clips.names)} subjects and 'none'. On frames and backgrounds that it has not "
            f"seen it is right in {100 * self.judge.accuracy['subject']:.1f} % (subject) and "
            f"{100 * self.judge.accuracy['background']:.1f} % (background). Look-alikes merged: {alike}.",
            f"On composed clips, the most that a model could reach: subject {subject}, motion {motion}, background {place}.",
        ]

    def served(self) -> None:
        """Time and memory of the command that people use."""
        command, goals = shutil.which(self.args.vitascope), ("12 s", "1.5 GB")
        if command is None:
            self.table.row(
                "time and peak memory of `vitascope generate`", "12 s, 1.5 GB", "not measured here"
            )
            return
        shape = self.shape
        asked = {
            "width": shape.width,
            "height": shape.height,
            "num-frames": shape.frames,
            "steps": self.args.steps,
        }
        options = [text for key, value in asked.items() for text in (f"--{key}", str(value))]
        if self.folder.resolve() != SHIPPED.resolve():  # the shipped one has a card, and is the default
            options += ["--model", str(self.folder.absolute())]
        with tempfile.TemporaryDirectory() as tmp:
            options += ["--out", f"{tmp}/clip.mp4"]
            started = time.monotonic()
            result = subprocess.run(
                [sys.executable, "-c", WEIGHED, command, "generate", PROMPTS[0], *options],
                capture_output=True,
                text=True,
                check=False,
            )
            took = time.monotonic() - started
        if result.returncode:
            self.table.row(
                "time and peak memory", ", ".join(goals), f"failed: {result.stderr.strip()[-200:]}"
            )
            return
        peak = int(result.stdout.split()[-1]) / 1e6
        size = f"{shape.width}x{shape.height}, {shape.frames} frames"
        self.table.row(f"`vitascope generate`, {size}, from start to file", goals[0], f"{took:.1f} s")
        self.table.row("peak memory", goals[1], f"{peak:.2f} GB")

    def autoencoder(self) -> None:
        """PSNR on compositions never trained on."""
        rng, figures = random.Random(5), []
        for index in range(3 if self.args.tiny else 40):
            shape = self.setup.preset.shapes[index % len(self.setup.preset.shapes)]
            x, mask, *_ = self.clips.clips(rng, 1, shape, hidden=True)
            with torch.no_grad():
                z = self.pipe.vae.encode(x.to(self.pipe.vae.dtype)).latent_dist.mode()
                figures.append(psnr(self.pipe.vae.decode(z).sample.float(), x, mask))
        whole, subject = np.mean(figures, 0)
        self.table.row(
            "autoencoder, held-out compositions, PSNR overall / on the subject",
            "34 / 28 dB",
            f"{whole:.1f} / {subject:.1f} dB",
        )

    def two(self) -> None:
        asked = questions(self.clips, self.args.prompts, 24, two=True)
        judge = self.judge
        hits = [
            {judge.group(n) for n in q.subjects} <= judge.both(c)
            for q, c in zip(asked, self.draw([q.prompt for q in asked], 0), strict=True)
        ]
        none = "does not apply: one subject at a time"
        self.table.row("two subjects both present", "60 %", part(hits) if hits else none)

    def given(self) -> None:
        """Image to video: is the given frame kept, does the motion follow the words?"""
        parts = {
            k: v
            for k, v in self.pipe.components.items()
            if k in ("tokenizer", "text_encoder", "vae", "scheduler", "transformer")
        }
        pipe = WanImageToVideoPipeline(**parts, expand_timesteps=True)
        pipe.set_progress_bar_config(disable=True)
        rng, kept, right = random.Random(6), [], []
        for index in range(2 if self.args.tiny else 16):
            x, _, _, asked = self.clips.clips(rng, 1, self.shape)
            first = ((x[0, :, 0].clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).cpu().numpy()
            clip = pipe(
                image=Image.fromarray(first), prompt=asked[0].prompt, height=self.shape.height, width=self.shape.width,
                num_frames=self.shape.frames, num_inference_steps=self.args.steps, guidance_scale=self.args.guidance,
                max_sequence_length=64, generator=torch.Generator().manual_seed(index),
            ).frames[0]  # fmt: skip
            kept.append(10 * np.log10(1 / max(1e-9, ((clip[0] - first / 255) ** 2).mean())))
            if asked[0].motion in self.clips.measured:
                right.append(self.judge.motion((clip * 255).astype(np.uint8)) == asked[0].motion)
        text = f"{np.mean(kept):.1f} dB; motion right in {part(right)}"
        self.table.row("image to video: first frame kept", "28 dB", text)

    def seeds(self) -> None:
        same = self.draw(["a dog walks along the beach"] * 4, 77)
        spread = np.mean([np.abs(a.astype(int) - b).mean() for i, a in enumerate(same) for b in same[:i]])
        goal = f"above {FLOOR:g} of 255"
        self.table.row("four seeds of one prompt differ by", goal, f"{spread:.1f}")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--prompts", type=int, default=300, help="per row of the table")
    parser.add_argument("--seeds", type=int, default=3, help="clips per prompt in the first rows")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument(
        "--vitascope", default="vitascope", help="the command whose time and memory are measured"
    )
    parser.add_argument("--out", help="name of the table and the sheet, in WORK", default="evaluation")
    args = parser.parse_args()
    setup = setup_of(args)
    evaluation = Evaluation(setup, args.folder)
    save_whole(args.work / f"{args.out}.md", evaluation.run().encode())
    sheet(evaluation.draw(list(SHOW), 3), args.work / f"{args.out}.png", 6)


if __name__ == "__main__":
    main()

"""Makes docs/images/schedulers.png and prints what docs/experiments.md says of it: `python docs/scheduler_sheet.py`.

The embedded model with each scheduler of flow models at few steps, against itself at a hundred: frames of one clip side by side, and
the mean PSNR over all prompts. In float32, so that only the steps differ.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vitascope.catalog import Catalog, locate
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.schedulers import table
from vitascope.engine import Clip, Engine, open_engine

PROMPTS = (
    "a butterfly flies to the left over a meadow",
    "a car drives to the right in the snow",
    "a red balloon floats up at sunset",
)
SEED = 1
STEPS = (6, 12)
REFERENCE = ("UniPCMultistepScheduler", 100)
NOT_COMPARABLE = {"FlowMatchLCMScheduler", "LTXEulerAncestralRFScheduler"}
"""They draw noise on the way: another video, not a nearer or farther one."""

FRAME, SCALE, LABEL = 12, 96, 14


def main() -> None:
    """Generate, measure, draw."""
    catalog = Catalog.open()
    spec = dataclasses.replace(catalog.resolve("pocket"), dtype="float32")
    engine = open_engine("diffusers", locate, device="cpu", threads=1)
    names = [row.name for row in table("flow", "WanPipeline") if row.standing == "native"]
    references = [_frames(engine, spec, prompt, *REFERENCE) for prompt in PROMPTS]
    rows = {}
    for name in names:
        by_steps = {}
        for steps in STEPS:
            clips = [_frames(engine, spec, prompt, name, steps) for prompt in PROMPTS]
            by_steps[steps] = clips
            pairs = zip(clips, references, strict=True)
            value = float(np.mean([_psnr(clip, reference) for clip, reference in pairs]))
            told = "draws noise" if name in NOT_COMPARABLE else f"{value:.1f} dB"
            sys.stdout.write(f"{name:34} {steps:3} steps  {told}\n")
            sys.stdout.flush()
        rows[name] = by_steps
    _draw(rows, references).save(Path(__file__).parent / "images" / "schedulers.png", optimize=True)


def _frames(engine: Engine, spec: Any, prompt: str, name: str, steps: int) -> np.ndarray[Any, Any]:
    request = GenerationRequest(
        prompt=prompt, model=spec.id, seed=SEED, scheduler=name, num_inference_steps=steps
    )
    *_, clip = engine.generate(plan(request, spec), spec)
    assert isinstance(clip, Clip)
    return clip.frames


def _psnr(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def _draw(rows: dict[str, Any], references: list[np.ndarray[Any, Any]]) -> Image.Image:
    """One row per scheduler: two prompts at each number of steps; the reference below."""
    shown = (0, 1)
    columns = len(STEPS) * len(shown)
    height = (len(rows) + 1) * (SCALE + LABEL)
    sheet = Image.new("RGB", (columns * SCALE, height), "white")
    drawing = ImageDraw.Draw(sheet)
    for row, (name, by_steps) in enumerate([*rows.items(), ("the reference: UniPC, 100 steps", None)]):
        top = row * (SCALE + LABEL)
        text = name.removesuffix("Scheduler")
        drawing.text(
            (2, top + 1), f"{text}: {' and '.join(map(str, STEPS))} steps" if by_steps else text, "black"
        )
        for column in range(columns):
            steps, prompt = STEPS[column // len(shown)], shown[column % len(shown)]
            clip = by_steps[steps][prompt] if by_steps else references[prompt]
            picture = Image.fromarray(clip[FRAME]).resize((SCALE, SCALE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (column * SCALE, top + LABEL))
    return sheet.quantize(200)


if __name__ == "__main__":
    main()

"""What the speed levels cost and gain: `python -m bench.speed_levels [MODEL] [--steps 12,30] [--sheet FILE]`.

Each clip is made at each level in one process, with one seed; it prints processor time as a share of the lossless one's, forwards that
were reused, and how far the frames are from the lossless ones (PSNR). The sheet shows the middle frames, a row a prompt and a column a level.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitascope.catalog import Catalog, locate
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.speed_levels import SPEED_LEVELS
from vitascope.engine import Clip, Engine, open_engine

PROMPTS = (
    "a red car drives along the beach",
    "a dog jumps in a field of snow",
    "a fish swims to the left at night",
)


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("model", nargs="?", default="pocket")
    reader.add_argument("--steps", default="12,30")
    reader.add_argument("--sheet", type=Path)
    asked = reader.parse_args()
    engine = open_engine("diffusers", locate)
    _made(engine, asked.model, PROMPTS[0], "lossless", 1, 0)  # loads the model
    rows = []
    for steps in (int(one) for one in asked.steps.split(",")):
        for number, prompt in enumerate(PROMPTS):
            rows.append(_compared(engine, asked.model, prompt, steps=steps, seed=number + 1))
    engine.close()
    if asked.sheet:
        Image.fromarray(np.concatenate(rows)).save(asked.sheet)


def _compared(engine: Engine, model: str, prompt: str, *, steps: int, seed: int) -> Any:
    """Print a line a level; returns the middle frames side by side."""
    whole, took, pictures = None, 0.0, []
    for level in SPEED_LEVELS:
        frames, seconds, reused = _made(engine, model, prompt, level, steps, seed)
        if whole is None:
            whole, took = frames, seconds
        error = float(np.mean((frames.astype(float) - whole) ** 2))
        psnr = f"{10 * np.log10(255**2 / error):.1f} dB" if error else "-"
        print(
            f"{steps} steps, {prompt}: {level}, {seconds:.1f} s = {seconds / took:.2f}, {reused}, {psnr}",
            flush=True,
        )
        pictures.append(frames[len(frames) // 2])
    return np.concatenate(pictures, axis=1)


def _made(
    engine: Engine, model: str, prompt: str, level: str, steps: int, seed: int
) -> tuple[Any, float, str]:
    spec = Catalog.open().resolve_local(model)
    wanted = GenerationRequest(
        prompt=prompt, model=spec.id, seed=seed, num_inference_steps=steps, speed=level
    )
    begun = time.process_time()
    *_, clip = engine.generate(plan(wanted, spec), spec)
    assert isinstance(clip, Clip)
    told = {choice.name: choice.value for choice in clip.choices}
    return clip.frames, time.process_time() - begun, told.get("step_cache", "every forward computed")


if __name__ == "__main__":
    main()

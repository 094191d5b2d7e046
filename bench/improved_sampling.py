"""What improved sampling changes in the embedded model's clips: `python -m bench.improved_sampling FOLDER`.

Writes a contact sheet beside the table: a row of frames per clip, plain above improved.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitascope.catalog import Catalog, locate
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest, ImprovedSampling
from vitascope.engine import Clip, Engine, open_engine
from vitascope.engine.families import improved_sampling

PROMPTS = ("a cat runs in a field", "a turtle falls down on a pink background", "a penguin jumps in the snow")
SEEDS = (1, 2, 3)
SHOWN_FRAMES = (0, 4, 8, 12, 16)

Frames = NDArray[np.uint8]


def flicker(frames: Frames) -> float:
    """What of a clip's changes is not motion that goes on: mean absolute second difference in time, of 255.

    A pixel that brightens evenly adds nothing, one that brightens and darkens again does.
    """
    return float(np.abs(np.diff(frames.astype(np.int16), n=2, axis=0)).mean())


def change(frames: Frames) -> float:
    """Mean absolute difference between frames that follow each other, of 255."""
    return float(np.abs(np.diff(frames.astype(np.int16), axis=0)).mean())


def contrast(frames: Frames) -> float:
    """Standard deviation within a frame, of 255: a clip that turned grey has less."""
    return float(frames.astype(np.float32).std(axis=(1, 2)).mean())


def clip_of(engine: Engine, prompt: str, seed: int, rounds: int) -> Frames:
    """Make a clip of the embedded model; one round is plain sampling."""
    improved = ImprovedSampling(seed=seed, iterations=rounds) if rounds > 1 else None
    request = GenerationRequest(model="pocket", prompt=prompt, seed=seed, improved_sampling=improved)
    spec = Catalog.open().resolve("pocket")
    *_, clip = engine.generate(plan(request, spec), spec)
    assert isinstance(clip, Clip)
    return clip.frames


def row_of(clips: dict[Any, Frames]) -> str:
    """Means over clips."""
    means = [np.mean([measure(clip) for clip in clips.values()]) for measure in (flicker, change, contrast)]
    return " | ".join(f"{mean:.2f}" for mean in means)


def sheet(rows: list[Frames]) -> Image.Image:
    """Show some frames of each clip, a clip a row."""
    return Image.fromarray(
        np.concatenate([np.concatenate([*clip[list(SHOWN_FRAMES)]], axis=1) for clip in rows])
    )


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, nargs="*", default=[2, 3, 5])
    parser.add_argument("--shares", type=float, nargs="*", default=[improved_sampling.LEAST_CLIP_SHARE])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="one is quicker beside other work")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    engine = open_engine("diffusers", locate, device=args.device, threads=args.threads)
    asked = [(prompt, seed) for prompt in PROMPTS for seed in SEEDS]
    plain = {each: clip_of(engine, *each, 1) for each in asked}
    print("| rounds | clip's share | flicker | lower in | change | contrast | seconds a clip |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    f, c, s = row_of(plain).split(" | ")
    print(f"| 1 | - | {f} | - | {c} | {s} | |", flush=True)
    for share in args.shares:
        improved_sampling.LEAST_CLIP_SHARE = share
        for rounds in args.rounds:
            started = time.monotonic()
            clips = {each: clip_of(engine, *each, rounds) for each in asked}
            seconds = (time.monotonic() - started) / len(clips)
            lower = sum(flicker(clips[each]) < flicker(plain[each]) for each in asked)
            f, c, s = row_of(clips).split(" | ")
            print(
                f"| {rounds} | {share} | {f} | {lower} of {len(asked)} | {c} | {s} | {seconds:.1f} |",
                flush=True,
            )
            pairs = [clip for each in asked for clip in (plain[each], clips[each])]
            sheet(pairs).save(args.folder / f"rounds-{rounds}-share-{share}.png")
    engine.close()


if __name__ == "__main__":
    main()

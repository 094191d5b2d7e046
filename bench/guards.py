"""`python -m bench.guards`: what content checks cost: a list of words, the detector, and its share of a clip of the embedded model."""

from __future__ import annotations

import random
import statistics
import string
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from vitascope.catalog import Catalog, locate
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.engine import open_engine
from vitascope.moderation import FrameCheck, WordList, nsfw_scores
from vitascope.settings import share_cores
from vitascope.worker.opening import NO_GUARDS, Guards
from vitascope.worker.outputs import produce_all
from vitascope.worker.produce import Product

ROUNDS = 9

PROMPTS = (
    "a dog walks on a beach at sunset",
    "two people dance close together in a dark room",
    "a woman in a red dress turns around",
    "waves roll over black rocks",
)


def median_ms(act: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def words() -> None:
    """Print how long a list takes for a short prompt and the longest."""
    draw = random.Random(0)

    def word(shortest: int = 4, longest: int = 8) -> str:
        return "".join(draw.choices(string.ascii_lowercase, k=draw.randint(shortest, longest)))

    for count in (1_000, 10_000):
        found = WordList(word() + ("*" if index % 10 == 0 else "") for index in range(count))
        for length, letter in ((200, ""), (32_000, ""), (32_000, "\u00e9")):
            text = " ".join(word(9, 12) for _ in range(length // 10))[:length]  # none of them
            text += letter  # anything beyond ASCII is folded character by character
            milliseconds = median_ms(partial(found.found, text))
            print(
                f"words: {count} entries, {length} characters{' beyond ASCII' * bool(letter)}: {milliseconds:.2f} ms"
            )


def frames() -> None:
    """Print how long the detector takes for a frame of some sizes."""
    draw = np.random.default_rng(0)
    nsfw_scores([np.zeros((64, 64, 3), np.uint8)])
    for height, width in ((192, 192), (480, 832), (720, 1280)):
        frame = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        print(f"frames: {width}x{height}: {median_ms(partial(nsfw_scores, [frame])):.1f} ms each")


def clips() -> None:
    """Print what of a clip's time the check takes, and the scores of harmless clips, with no person and with some."""
    share_cores()
    spec = Catalog.open().resolve("pocket")
    engine = open_engine("diffusers", locate)
    for guards, name in ((NO_GUARDS, "unchecked"), (Guards(frames=FrameCheck()), "checked")):
        seconds: list[dict[str, float]] = []
        for seed in range(4):
            request = GenerationRequest(prompt=PROMPTS[0], model=spec.id, seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "a.mp4"
                made = list(produce_all(engine, plan(request, spec), spec, [out], guards=guards))
            seconds += [event.seconds for event in made if isinstance(event, Product)]
        whole = statistics.median(sum(one.values()) - one.get("load", 0.0) for one in seconds[1:])
        check = statistics.median(one.get("check_frames", 0.0) for one in seconds[1:])
        print(f"clips: {name}: {whole:.2f} s without loading, of which the check {check:.2f} s")
    for prompt in PROMPTS:
        request = GenerationRequest(prompt=prompt, model=spec.id, seed=1)
        clip = list(engine.generate(plan(request, spec), spec))[-1]
        scores = nsfw_scores(clip.frames)  # type: ignore[union-attr]
        print(f"scores: {prompt!r}: {min(scores):.2f} to {max(scores):.2f} in {len(scores)} frames")


if __name__ == "__main__":
    words()
    frames()
    clips()

"""What loading a model beside a running one costs the latter: `python -m bench.loading_ahead [--megabytes 500]`.

A tiny Wan denoises on the CPU while models with large text encoders (made here, in a temporary folder) are loaded beside it. The
longest time between two of its steps is what a cancel may wait longer.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import tiny
from vitascope.catalog import Catalog, locate
from vitascope.domain.model_spec import ModelSpec
from vitascope.engine.engine import DiffusersEngine

NUM_STEPS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--megabytes", type=int, default=500, help="weights of the model that comes, in bfloat16"
    )
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as folder:
        running = _model(Path(folder) / "running", 1000)
        coming = _model(Path(folder) / "coming", megabytes * 10**6 // 64)
        engine = DiffusersEngine(locate, device="cpu", threads=1)
        _gaps(engine, running)
        for name, begin in (("alone", None), ("beside the loading", coming)):
            gaps, seconds = _gaps(engine, running, begin)
            median, most = statistics.median(gaps), max(gaps)
            print(f"{name}: {seconds:.2f} s, a step {median * 1e3:.1f} ms, the longest {most * 1e3:.1f} ms")
        print(f"loaded: {engine.loaded_models}, in {engine.residency.load_seconds:.2f} s")
        started_at = time.monotonic()
        engine.unload(coming.id)
        engine.load(coming)
        print(f"loading with nothing beside: {time.monotonic() - started_at:.2f} s")
        engine.close()


def _model(folder: Path, num_tokens: int) -> ModelSpec:
    def make() -> Any:
        pipe = tiny.wan()
        pipe.text_encoder.resize_token_embeddings(num_tokens, mean_resizing=False)
        return pipe

    return Catalog.open().resolve_local(str(tiny.build("WanPipeline", folder, make)))


def _gaps(
    engine: DiffusersEngine, spec: ModelSpec, coming: ModelSpec | None = None
) -> tuple[list[float], float]:
    """Seconds from each pause of a generation to the next one, from the first step on; and of all."""
    gaps: list[float] = []
    begun_at = before = time.monotonic()
    plan = tiny.make_plan(spec, num_inference_steps=NUM_STEPS)
    is_begun = False
    for event in engine.generate(plan, spec):
        now = time.monotonic()
        if is_begun:
            gaps.append(now - before)
        if not is_begun and getattr(event, "stage", "") == "denoise":
            is_begun = True
            if coming is not None:
                engine.prepare(coming)
        before = time.monotonic()
    return gaps, time.monotonic() - begun_at


if __name__ == "__main__":
    main()

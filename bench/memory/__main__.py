"""`python -m bench.memory`: what work takes beside the weights, and what each way of loading a model costs.

    python -m bench.memory                            real architectures on fake tensors, against what the engine reckons
    python -m bench.memory --ways                     the embedded model, loaded in each way that this device has
    python -m bench.memory --ways --model wan-1.3b    Wan 2.1 1.3B with random weights (3 GB of disk), for a GPU

Each line of `--ways` has the median time of a step and of decoding, the most memory, the distance to the first line, and what
the engine had reckoned.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.deployment import scratch_folder
from vitascope.catalog import Catalog, locate
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest
from vitascope.engine import Clip, Wishes
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.shortage import reclaim

from .activations import measure_all
from .architectures import build

#: diffusers and transformers warn of their own deprecations while they load.
warnings.simplefilter("ignore")

GIB = 2**30
PROMPT = "a red car drives along the beach"


def main() -> int:
    options = _options()
    if not options.ways:
        rows = measure_all()
    else:
        with scratch_folder("memory") as folder:
            rows = _all_ways(_spec(options.model, folder), options.steps, options.repeats)
    if options.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    else:
        _print(rows)
    return 0


def _spec(name: str, folder: Path) -> ModelSpec:
    if name == "pocket":
        return Catalog.open().resolve(name)
    return Catalog.open().resolve_local(str(build(name, folder / name)))


def _all_ways(spec: ModelSpec, steps: int, repeats: int) -> list[dict[str, Any]]:
    has_own_memory = torch.cuda.is_available() or torch.xpu.is_available()
    offloads = ("none", "model", "group", "sequential") if has_own_memory else ("none",)
    ways = [
        Wishes(offload=offload, quantization=quantization, vae_tiling="off")
        for offload, quantization in itertools.product(offloads, ("none", "int8", "fp8"))
    ]
    ways.insert(1, Wishes(offload="none", quantization="none", vae_tiling="on"))
    asked = GenerationRequest(model=spec.id, prompt=PROMPT, seed=1, num_inference_steps=steps)
    planned = plan(asked, spec)
    rows: list[dict[str, Any]] = []
    first = None
    for wishes in ways:
        row, frames = _one_way(spec, planned, wishes, repeats)
        first = frames if first is None else first
        row["PSNR dB"] = round(_psnr(frames, first), 1)
        rows.append(row)
        sys.stderr.write(f"{row}\n")
    return rows


def _one_way(spec: ModelSpec, planned: Plan, wishes: Wishes, repeats: int) -> tuple[dict[str, Any], Any]:
    engine = DiffusersEngine(locate, wishes=wishes)
    engine.load(spec)
    measured = [_run(engine, spec, planned) for _ in range(repeats + 1)][
        -max(1, repeats) :
    ]  # the first warms up
    model = engine._loaded
    assert model is not None
    memory = engine.residency.models[spec.id]
    row = {
        "way": f"{wishes.offload}, {wishes.quantization}, tiles {wishes.vae_tiling}",
        "attention": next(c.value for c in model.choices if c.name == "attention"),
        "s a step": round(statistics.median(each["step"] for each in measured), 4),
        "s decoding": round(statistics.median(each["decode"] for each in measured), 3),
        "weights GiB": round(memory.weights_bytes / GIB, 3),
        "work GiB": round((memory.work_bytes or 0) / GIB, 3),
        "reckoned weights": round(model.placement.device_bytes / GIB, 3),
        "reckoned work": round((model.placement.peak_bytes - model.placement.device_bytes) / GIB, 3),
    }
    frames = measured[-1]["frames"]
    del model
    engine.close()
    reclaim(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return row, frames


def _run(engine: DiffusersEngine, spec: ModelSpec, planned: Plan) -> dict[str, Any]:
    at: dict[tuple[str, int], float] = {}
    clip = None
    for event in engine.generate(planned, spec):
        if isinstance(event, Clip):
            clip = event
        else:
            at.setdefault((event.stage, event.index), time.perf_counter())
    ended = time.perf_counter()
    steps = [moment for (stage, _), moment in at.items() if stage == "denoise"]
    assert clip is not None
    return {
        "step": float(statistics.median(np.diff(steps))),
        "decode": ended - steps[-1],
        "frames": clip.frames,
    }


def _psnr(frames: Any, first: Any) -> float:
    error = float(np.mean((frames.astype(np.float64) - first.astype(np.float64)) ** 2))
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console() if sys.stdout.isatty() else Console(width=170)
    console.print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ways", action="store_true", help="run a model in each way of loading it")
    parser.add_argument("--model", default="pocket", choices=("pocket", "wan-1.3b"))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

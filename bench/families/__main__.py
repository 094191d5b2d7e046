"""`python -m bench.families`: every pipeline class and mode through the engine, as one table; exits 1 if a line fails.

    python -m bench.families
    python -m bench.families --classes WanPipeline LTX2Pipeline --steps 8 --json

Checkpoints are built in a scratch folder at a few channels with random weights, and run on the CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import warnings
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.deployment import scratch_folder
from tests import tiny
from vitascope.catalog import Catalog, locate
from vitascope.engine import open_engine

from .checks import Row, check, modes_of

#: diffusers and transformers warn of their own deprecations while they load.
warnings.simplefilter("ignore")


def main() -> int:
    options = _options()
    names = options.classes or [*tiny.BUILDERS, *tiny.LAYOUTS]
    begun = time.monotonic()
    with scratch_folder("families") as folder:
        rows = _rows(names, folder, options.steps)
    if options.json:
        sys.stdout.write(json.dumps([dataclasses.asdict(row) for row in rows]) + "\n")
    else:
        _print(rows, time.monotonic() - begun)
    return 1 if any(row.problems for row in rows) else 0


def _rows(names: list[str], folder: Path, steps: int) -> list[Row]:
    engine = open_engine("diffusers", locate, device="cpu", threads=1)
    catalog = Catalog.open()
    rows: list[Row] = []
    console = Console(stderr=True)
    for name in track(names, "Pipeline classes", console=console, disable=not console.is_terminal):
        spec = catalog.resolve_local(str(tiny.build(name, folder / name)))
        for mode in modes_of(name, spec):
            rows.append(check(engine, name, spec, mode, steps=steps))
            if not console.is_terminal:
                console.print(f"{name} {mode}: {'; '.join(rows[-1].problems) or 'ok'}")
    engine.close()
    return rows


def _print(rows: list[Row], seconds: float) -> None:
    table = Table(
        "class", "mode", "steps", "cancel at: forwards, decodes", "RSS MB", "tensors", "seeds", "s", ""
    )
    for row in rows:
        seeds = f"{'same' if row.same_seed else 'DIFFER'}/{'other' if row.other_seed else 'EQUAL'}"
        table.add_row(
            row.name,
            row.mode,
            f"{row.steps_seen}/{row.steps_expected}",
            f"{row.cancelled_at}: {row.forwards_when_cancelled} of {row.forwards}, "
            f"{row.decodes_when_cancelled} of {row.decodes}",
            f"{row.rss_before:.0f} -> {row.rss_after:.0f}",
            f"{row.tensors_before} -> {row.tensors_after}",
            seeds,
            f"{row.seconds:.1f}",
            "; ".join(row.problems) or "ok",
        )
    console = Console() if sys.stdout.isatty() else Console(width=150)
    console.print(table)
    failed = sum(bool(row.problems) for row in rows)
    console.print(
        f"{len(rows)} lines of {len({row.pipeline for row in rows})} pipeline classes, {failed} failed, {seconds:.0f} s"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.families", description="Every pipeline class through the engine."
    )
    known = [*tiny.BUILDERS, *tiny.LAYOUTS]
    parser.add_argument("--classes", nargs="+", choices=known, metavar="CLASS", help=", ".join(known))
    parser.add_argument("--steps", type=int, default=5, help="denoising steps of each run, at least 2")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.steps < 2:
        parser.error("--steps must be at least 2, so that one can be cancelled")
    return options


if __name__ == "__main__":
    sys.exit(main())

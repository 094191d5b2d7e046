"""One clip by a whole command, with a warm disk cache: `python -m bench.first_clip` (two minutes on two quiet cores).

Pairs of whole processes in one run, each time in the other order: `vitascope generate` with the embedded model, and
`plain.py`, a script of diffusers with its defaults. Both write a file; PSNR is of the decoded frames. "user+sys" is processor time,
which other work on the machine disturbs less than time on the clock. By default torch's waiting threads spin, and beside other
work the script takes many times as long; `--passive` spares it that, as Vitascope spares itself.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from vitascope.catalog import Catalog, locate
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest

PROMPT = "a red car drives along the beach"
PLAIN = Path(__file__).with_name("plain.py")


@dataclass
class Runs:
    """Of one kind of process: seconds of each run, and what it told about its stages."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)

    def __str__(self) -> str:
        """Medians, each for itself."""
        found = {name: [run.get(name, 0.0) for run in self.stages] for name in self.stages[0]}
        parts = ", ".join(f"{name} {statistics.median(values):.2f}" for name, values in found.items())
        wall, processor = statistics.median(self.wall), statistics.median(self.processor)
        return f"{wall:6.2f} s, user+sys {processor:6.2f} s ({parts})"


def main() -> None:
    asked = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, plain = Runs(), Runs()
        _once(asked, folder, Runs(), Runs(), 0)  # the disk cache is warm after it
        for number in range(asked.pairs):
            _once(asked, folder, ours, plain, number)
        likeness = _psnr(_frames(folder / "ours.mp4"), _frames(folder / "plain.mp4"))
    wall, processor = _ratio(plain.wall, ours.wall), _ratio(plain.processor, ours.processor)
    print(f"vitascope generate: {ours}")
    print(f"plain diffusers:    {plain}")
    print(
        f"medians of {asked.pairs} pairs: {wall:.2f} times faster on the clock, {processor:.2f} in processor time; "
        f"PSNR between the files {likeness:.1f} dB; load {os.getloadavg()[0]:.1f}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--size", type=int, default=256, help="width and height of the file")
    parser.add_argument("--num-frames", type=int, default=25)
    parser.add_argument("--passive", action="store_true", help="OMP_WAIT_POLICY=passive for the script too")
    return parser.parse_args()


def _once(asked: argparse.Namespace, folder: Path, ours: Runs, plain: Runs, number: int) -> None:
    runs = [(ours, _command(asked, folder)), (plain, _plain_command(asked, folder))]
    for kind, command in runs if number % 2 == 0 else reversed(runs):
        wall, processor, said = _measured(command, {"OMP_WAIT_POLICY": "passive"} if asked.passive else {})
        kind.wall.append(wall)
        kind.processor.append(processor)
        kind.stages.append(_stages(said))


def _command(asked: argparse.Namespace, folder: Path) -> list[str]:
    size = ["--width", str(asked.size), "--height", str(asked.size), "--num-frames", str(asked.num_frames)]
    how = ["--seed", str(asked.seed), "--steps", str(asked.steps), "--model", "pocket"]
    out = ["--out", str(folder / "ours.mp4"), "--quiet", "--json"]
    return [sys.executable, "-m", "vitascope", "generate", PROMPT, *size, *how, *out]


def _plain_command(asked: argparse.Namespace, folder: Path) -> list[str]:
    spec = Catalog.open().resolve("pocket")
    request = GenerationRequest(
        model="pocket",
        prompt=PROMPT,
        height=asked.size,
        width=asked.size,
        num_frames=asked.num_frames,
        num_inference_steps=asked.steps,
        seed=asked.seed,
    )
    made = plan(request, spec)
    given = {
        "folder": str(locate(spec)),
        "windows": [window.num_frames for window in made.windows],
        "out": str(folder / "plain.mp4"),
        **{name: getattr(made, name) for name in ("prompt", "seed", "height", "width", "fps", "guidance_scale")},
        **{name: getattr(made, name) for name in ("num_inference_steps", "native_height", "native_width")},
        **spec.call,
    }  # fmt: skip
    described = folder / "request.json"
    described.write_text(json.dumps(given), "utf-8")
    return [sys.executable, str(PLAIN), str(described)]


def _measured(command: list[str], further: dict[str, str]) -> tuple[float, float, dict[str, Any]]:
    """Run a process to its end; seconds on the clock, of the processor, and what it says."""
    environment = {**os.environ, **further}
    before, begun = os.times(), time.perf_counter()
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    wall, after = time.perf_counter() - begun, os.times()
    processor = sum(after[2:4]) - sum(before[2:4])
    said: dict[str, Any] = json.loads(done.stdout)
    return wall, processor, said


def _stages(said: dict[str, Any]) -> dict[str, float]:
    """Take the stages of a run; ours reports what the engine did, and the rest of the command is its start."""
    if "seconds" not in said:
        return said
    stages: dict[str, float] = said["seconds"]
    return {"import": said["total_seconds"] - sum(stages.values()), **stages}


def _frames(path: Path) -> np.ndarray[Any, Any]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _psnr(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    error = float(np.mean((one.astype(np.float32) - other) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def _ratio(slow: list[float], quick: list[float]) -> float:
    return statistics.median(slow) / statistics.median(quick)


if __name__ == "__main__":
    main()

"""Two ranks on the CPU make what one makes: with a branch of guidance each, and with half of the tokens each."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tiny import make_plan, run
from vitascope.domain.model_spec import ModelSpec
from vitascope.engine import Engine

Models = dict[str, ModelSpec]

RANK = Path(__file__).with_name("rank.py")

STEPS = 4


def test_two_ranks_make_what_one_makes(engine: Engine, models: Models, tmp_path: Path) -> None:
    spec = dataclasses.replace(models["WanPipeline"], dtype="float32")
    folder = spec.source.partition(":")[2]
    ranks = [
        subprocess.Popen(
            [sys.executable, RANK, str(rank), str(tmp_path), folder, str(STEPS)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for rank in range(2)
    ]
    alone = run(engine, spec, make_plan(spec, num_inference_steps=STEPS, guidance_scale=4.0))[1].frames
    problems = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], problems
    # in the first step nobody knows yet what is asked for next: both branches are computed by both
    for kind, calls in {"guidance": [1] * (STEPS + 1), "context": [1, 1] + [2] * (STEPS - 1)}.items():
        first, second = (np.load(tmp_path / f"{kind}{rank}.npz") for rank in range(2))
        assert np.array_equal(first["frames"], second["frames"]), "both have the same latents at each step"
        assert np.abs(first["frames"].astype(int) - alone).max() <= 1
        assert "parallel: 2 devices" in first["told"]
        assert list(first["calls"]) == list(second["calls"]) == calls

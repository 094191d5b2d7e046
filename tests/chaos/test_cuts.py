"""The short form of `bench.chaos.cuts`: power cuts while SQLite writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOT_WATCHABLE = 77


def cut(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the script; returns its exit status and its counts."""
    command = [sys.executable, "-m", "bench.chaos.cuts", "--json", "--seed", "1", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == NOT_WATCHABLE:
        pytest.skip("this Python has SQLite built in")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["counts"]


def test_a_power_cut_takes_nothing_that_was_acknowledged() -> None:
    status, counts = cut("--cuts", "20")
    assert (status, counts["cuts"]) == (0, 20)
    assert counts["cuts in a checkpoint"] > 0
    assert counts["writes not synced at the cuts"] > 0
    assert counts["acknowledged facts checked"] > 0


def test_a_disk_that_keeps_nothing_is_found_out() -> None:
    status, counts = cut("--cuts", "10", "--lying-disk")
    assert status == 1
    assert counts["acknowledged facts missing"] > 0

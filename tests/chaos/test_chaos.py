"""The short form of `bench.chaos` on both databases, as a user would start it. The counts that matter are its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


def run(*arguments: str) -> dict[str, Any]:
    """Run the script; it must find every promise kept."""
    command = [sys.executable, "-m", "bench.chaos", "--json", "--seed", "1", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert not any(found["broken"].values())
    return found


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_whatever_is_killed_no_acknowledged_job_is_lost_or_done_twice(database: str) -> None:
    found = run("--database", database, "--kills", "30", "--jobs", "300", "--seconds", "60")
    assert found["kills"] > 0
    assert found["jobs acknowledged"] > 0


def test_a_database_that_comes_and_goes_loses_nothing() -> None:
    found = run("--database", "postgresql", "--kills", "0", "--jobs", "60", "--database-restarts", "2")
    assert found["database restarts"] == 2
    assert found["jobs acknowledged"] == 60

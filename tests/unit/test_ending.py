"""How a command's process ends: at once, after everything that wants to be told."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import atexit, logging, sys, threading, time
from vitascope.cli._ending import Ending

class Large:
    def __del__(self): print("taken apart", file=sys.stderr)

ending = Ending()
large = sys.large = Large()
atexit.register(lambda: print("told"))
threading.Thread(target=lambda: (time.sleep(0.2), print("waited for"))).start()
{how}
"""


@pytest.mark.parametrize("code", [0, 2, 130])
def test_it_ends_at_once_with_its_code_when_all_are_told(code: int) -> None:
    done = _run(f"ending.exit({code})")
    assert done.returncode == code
    assert done.stdout.split("\n") == ["waited for", "told", ""]  # from Python's buffer, into a pipe
    assert done.stderr == ""


def test_an_error_that_nobody_knew_of_ends_as_ever() -> None:
    done = _run("raise RuntimeError('oh')")
    assert done.returncode == 1
    assert "RuntimeError: oh" in done.stderr
    assert done.stdout.split("\n") == ["waited for", "told", ""]


def test_what_nobody_reads_any_more_is_no_success() -> None:
    done = _run("sys.stdout.write('x'); import os; os.close(1); ending.exit(0)")
    assert done.returncode == 120  # Python's own


def _run(how: str) -> subprocess.CompletedProcess[str]:
    program = textwrap.dedent(PROGRAM).format(how=how)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment
    )

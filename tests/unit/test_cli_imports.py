"""What a command does not need is not imported: it would be waited for at each call."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vitascope.cli._commands import HIDDEN, WHERE, Commands

HEAVY = ("sqlalchemy", "fastapi", "uvicorn", "httpx", "torch", "av")


def modules_after(*arguments: str) -> set[str]:
    code = f"import sys; sys.argv[1:] = {list(arguments)!r}; from vitascope.cli import app\ntry: app()\nfinally: print(*sys.modules, file=sys.stderr)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(found.stderr.split())


@pytest.mark.parametrize("arguments", [["--version"], ["generate", "--help"]])
def test_heavy_libraries_are_left_for_who_needs_them(arguments: list[str]) -> None:
    assert modules_after(*arguments).isdisjoint(HEAVY)


def test_the_web_is_left_for_who_serves_it() -> None:
    """A command on the store, the supervisor of `serve` and a worker need neither the web framework nor the dialects."""
    assert modules_after("keys", "list").isdisjoint({"fastapi", "uvicorn", "vitascope.dialects"})


def test_every_command_is_there_under_its_name() -> None:
    commands = Commands()
    for name in WHERE:
        assert commands[name].name == name
        assert commands[name].hidden == (name in HIDDEN)
        assert commands[name].help
    assert commands.get("nonsense") is None

"""`vitascope keys`, as an operator uses it."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "server"


def keys(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vitascope", "keys", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "VITASCOPE_HOME": str(home), "COLUMNS": "200"},
    )


def test_a_key_from_its_making_to_its_end(home: Path) -> None:
    made = keys(
        home,
        "create",
        "my app",
        "--scope",
        "generate",
        "--max-running",
        "2",
        "--days",
        "30",
        "--model",
        "pocket",
    )
    assert made.returncode == 0
    secret = made.stdout.strip()
    assert re.fullmatch(r"vsk_[A-Za-z0-9]{40}", secret), "the key and nothing else is on stdout"
    assert "every call to the server needs a key" in made.stderr
    (row,) = json.loads(keys(home, "list", "--json").stdout)
    assert (row["name"], row["scopes"], row["max_running"], row["models"]) == (
        "my app",
        ["generate"],
        2,
        ["pocket"],
    )
    assert secret not in keys(home, "list").stdout
    rotated = keys(home, "rotate", row["id"])
    assert rotated.stdout.strip() not in ("", secret)
    assert keys(home, "revoke", row["id"]).returncode == 0
    assert "revoked" in keys(home, "list").stdout
    assert keys(home, "rotate", row["id"]).returncode == 2


def test_what_webhooks_are_signed_with_is_shown_again_and_replaced(home: Path) -> None:
    keys(home, "create", "app")
    (row,) = json.loads(keys(home, "list", "--json").stdout)
    shown = keys(home, "secret", row["id"])
    first = shown.stdout.strip()
    assert first.startswith("whsec_")
    assert keys(home, "secret", row["id"]).stdout.strip() == first
    rotated = keys(home, "secret", row["id"], "--rotate")
    second = rotated.stdout.strip()
    assert "signs too until" in rotated.stderr
    assert first not in rotated.stderr
    both = json.loads(keys(home, "secret", row["id"], "--json").stdout)
    assert [one["secret"] for one in both] == [second, first]
    for path in home.glob("vitascope.db*"):
        assert b"whsec" not in path.read_bytes()
    keys(home, "revoke", row["id"])
    assert keys(home, "secret", row["id"]).returncode == 2


def test_a_wrong_key_for_secrets_is_told_at_the_start(home: Path) -> None:
    keys(home, "create", "app")
    (row,) = json.loads(keys(home, "list", "--json").stdout)
    keys(home, "secret", row["id"])
    wrong = base64.b64encode(b"k" * 32).decode()
    environment = {**os.environ, "VITASCOPE_HOME": str(home), "VITASCOPE_SECRETS__KEY": wrong}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vitascope", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)

    for command in ("serve", "web"):
        refused = run(command, "--port", "0")
        assert refused.returncode == 2
        error, hint = refused.stderr.splitlines()
        assert "was encrypted with another key" in error
        assert "VITASCOPE_SECRETS__KEY" in hint
        assert wrong not in refused.stderr
    checked = run("db", "check")
    assert checked.returncode == 1
    assert "was encrypted with another key" in checked.stdout
    given_up = run("db", "rekey", "--drop-unreadable")
    assert (given_up.returncode, given_up.stderr.strip()) == (0, "encrypted 0 secrets again, deleted 1")
    assert run("db", "check").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", ""], "`name` is ''"),
        (["create", "a", "--max-running", "0"], "`max_running` is 0"),
        (["create", "a", "--days", "-1"], "it must be in the future"),
        (["create", "a", "--model", "none"], "none"),
        (["create", "a", "--scope", "root"], "root"),
        (["revoke", "none"], "no such API key"),
        (["secret", "none"], "no such API key"),
    ],
)
def test_a_bad_wish_is_one_clear_line(home: Path, arguments: list[str], words: str) -> None:
    done = keys(home, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""

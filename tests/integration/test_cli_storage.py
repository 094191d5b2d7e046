"""`vitascope storage`: names a bucket for new videos without a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import seaweed


def vitascope(
    *arguments: str, home: Path, given: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vitascope", "storage", *arguments],
        cwd=home,
        env={
            **os.environ,
            "VITASCOPE_HOME": str(home),
            "VITASCOPE_OUTBOUND__ALLOW": '["127.0.0.1"]',
            **environment,
        },
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_bucket_is_named_shown_tried_and_left(tmp_path: Path, s3_server: seaweed.Server) -> None:
    assert vitascope("show", home=tmp_path).stdout == f"{tmp_path / 'files'}\n"
    prefix = s3_server.prefix()
    naming = (
        "set",
        f"s3://{seaweed.BUCKET}/{prefix}/",
        "--endpoint",
        s3_server.endpoint,
        "--access-key-id",
        seaweed.KEY,
    )
    wrong = vitascope(*naming, home=tmp_path, given="wrong-secret\n")
    assert wrong.returncode == 2
    assert "refuses the credentials" in wrong.stderr
    assert "wrong-secret" not in wrong.stdout + wrong.stderr
    refused = vitascope(*naming, home=tmp_path, given="a\n", VITASCOPE_OUTBOUND__ALLOW="[]")
    assert (refused.returncode, "begin with https" in refused.stderr) == (2, True)
    done = vitascope(*naming, home=tmp_path, given=f"{seaweed.SECRET}\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"s3://{seaweed.BUCKET}/{prefix}/vitascope-")
    shown = vitascope("show", "--json", home=tmp_path)
    found = json.loads(shown.stdout)
    assert (found["bucket"], found["prefix"], found["place"]) == (
        seaweed.BUCKET,
        prefix,
        done.stdout.strip(),
    )
    assert seaweed.SECRET not in shown.stdout
    assert vitascope("check", home=tmp_path).stdout == done.stdout
    assert vitascope("reset", home=tmp_path).returncode == 0
    assert json.loads(vitascope("show", "--json", home=tmp_path).stdout) == {"place": str(tmp_path / "files")}
    assert "s3://" in vitascope("set", "videos", "--access-key-id", "a", home=tmp_path, given="b").stderr

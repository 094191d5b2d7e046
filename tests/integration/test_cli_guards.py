"""`vitascope generate` and `doctor` with a language model and content checks: the same as on a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import endpoints
from endpoints import Answer, chat

LONG = "A brown dog walks along a beach at sunset."
SMALL = ["generate", "a dog", "--width", "64", "--height", "64", "--num-frames", "5", "-o", "dog.mp4"]


def vitascope(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "VITASCOPE_HOME": str(cwd / "home"),
        "VITASCOPE_ENGINE__KIND": "fake",
        "VITASCOPE_ENGINE__FAKE_STEP_SECONDS": "0",
    }
    return subprocess.run(
        [sys.executable, "-m", "vitascope", *arguments],
        cwd=cwd,
        env={**os.environ, **settings, **{f"VITASCOPE_{name}": value for name, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_prompt_is_written_out(tmp_path: Path) -> None:
    with endpoints.serving(chat(LONG)) as service:
        asked = {"PROMPTING__URL": service.url, "PROMPTING__MODEL": "talker"}
        plain = vitascope(*SMALL, "--enhance-prompt", cwd=tmp_path, **asked)
        told = vitascope(*SMALL, "--enhance-prompt", "--json", "--quiet", cwd=tmp_path, **asked)
        without = vitascope(*SMALL, cwd=tmp_path, **asked)
    assert plain.returncode == 0, plain.stderr
    assert f"prompt: {LONG}" in plain.stderr
    assert "enhance_prompt: on (written out by `talker`)" in plain.stderr
    assert json.loads(told.stdout)["enhanced_prompt"] == LONG
    assert LONG not in without.stderr
    assert len(service.asked) == 2


def test_a_prompt_stays_where_that_fails(tmp_path: Path) -> None:
    with endpoints.serving(Answer(status=500)) as service:
        asked = {"PROMPTING__URL": service.url, "PROMPTING__MODEL": "talker"}
        done = vitascope(*SMALL, "--enhance-prompt", cwd=tmp_path, **asked)
    assert done.returncode == 0, done.stderr
    assert "enhance_prompt: off (the language model answered 500" in done.stderr
    assert (tmp_path / "dog.mp4").exists()


def test_a_word_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("dog\n")
    done = vitascope(*SMALL, cwd=tmp_path, MODERATION__WORDS="words.txt")
    assert done.returncode == 2
    assert "`prompt` is refused: it holds 'dog'" in done.stderr
    assert not (tmp_path / "dog.mp4").exists()


def test_frames_are_looked_at_and_leave_no_file(tmp_path: Path) -> None:
    asked = {"MODERATION__FRAMES": "true", "MODERATION__THRESHOLD": "0.000001"}
    done = vitascope(*SMALL, cwd=tmp_path, **asked)
    assert done.returncode == 2
    assert "not given out" in done.stderr
    assert "looking at the frames" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


@pytest.mark.parametrize(
    "asked", [{"MODERATION__WORDS": "no.txt"}, {"PROMPTING__MODEL": "a", "PROMPTING__INSTRUCTIONS": "no.txt"}]
)
def test_a_server_that_lacks_a_file_does_not_start(tmp_path: Path, asked: dict[str, str]) -> None:
    """Nor does it start its processes again and again."""
    done = vitascope("serve", "--port", "0", cwd=tmp_path, **asked)
    assert done.returncode == 2
    assert "`no.txt` cannot be read: No such file or directory" in done.stderr
    assert "process started" not in done.stderr


def test_doctor_tells_what_is_set_up(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("dog\n")
    asked = {"PROMPTING__MODEL": "talker", "PROMPTING__URL": "http://127.0.0.1:9/v1"}
    done = vitascope("doctor", "--json", cwd=tmp_path, **asked, MODERATION__WORDS="words.txt")
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert found["prompt enhancement"]["value"] == "talker at http://127.0.0.1:9/v1"
    assert (found["content checks"]["value"], found["content checks"]["ok"]) == ("words", True)
    broken = vitascope("doctor", "--json", cwd=tmp_path, MODERATION__WORDS="nowhere.txt")
    found = {finding["name"]: finding for finding in json.loads(broken.stdout)}
    assert "cannot be read" in found["content checks"]["meaning"]
    assert broken.returncode == 1

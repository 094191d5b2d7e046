"""The command line as a user runs it: real processes, files, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tiny
from vitascope import __version__, media


def vitascope(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command with an empty home; the fake engine unless `environment` says otherwise."""
    settings = {
        "VITASCOPE_HOME": str(cwd / "home"),
        "VITASCOPE_ENGINE__KIND": "fake",
        "VITASCOPE_ENGINE__FAKE_STEP_SECONDS": "0",
    }
    return subprocess.run(
        [sys.executable, "-m", "vitascope", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_generate_writes_what_was_asked_for(tmp_path: Path) -> None:
    done = vitascope(
        "generate",
        "a dog",
        "--out",
        "dog.mp4",
        "--width",
        "320",
        "--height",
        "180",
        "--seconds",
        "3",
        "--fps",
        "24",
        "--seed",
        "5",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("dog.mp4  320x180, 3.00 s at 24 fps, seed 5,")
    info = media.probe(tmp_path / "dog.mp4")
    assert (info.width, info.height, info.num_frames, info.fps) == (320, 180, 72, 24)
    assert "denoising step 1/24" in done.stderr, "one line per event where there is no terminal"
    assert "windows: " in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dog.mp4", "home"], "with the certificate"


def test_several_videos_are_numbered(tmp_path: Path) -> None:
    short = ["generate", "a dog", "--width", "64", "--height", "64", "--num-frames", "5", "--quiet", "--json"]
    several = vitascope(*short, "-n", "2", "--seed", "7", "-o", "dog.mp4", cwd=tmp_path)
    assert several.returncode == 0, several.stderr
    told = json.loads(several.stdout)
    assert [(one["path"], one["seed"]) for one in told["videos"]] == [("dog-1.mp4", 7), ("dog-2.mp4", 8)]
    assert told["path"] == "dog-1.mp4"
    assert vitascope(*short, "--seed", "8", "-o", "alone.mp4", cwd=tmp_path).returncode == 0
    first, second, alone = (
        media.read_frames(tmp_path / f"{name}.mp4") for name in ("dog-1", "dog-2", "alone")
    )
    assert (second == alone).all()
    assert (first != second).any()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["alone.mp4", "dog-1.mp4", "dog-2.mp4", "home"], "no pictures beside them"
    refused = vitascope("generate", "a dog", "-n", "11", cwd=tmp_path)
    assert refused.returncode == 2
    assert "`num_videos` is 11, but it must be from 1 to 10" in refused.stderr


def test_a_disk_that_is_nearly_full_is_told_before(tmp_path: Path) -> None:
    short = ["generate", "a dog", "--out", "dog.mp4", "--steps", "1", "--num-frames", "5", "--quiet"]
    done = vitascope(*short, cwd=tmp_path, VITASCOPE_STORAGE__MIN_FREE_BYTES=str(2**62))
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: only ")
    assert "MB are free where `dog.mp4` goes" in done.stderr
    assert "warning" not in vitascope(*short, cwd=tmp_path, VITASCOPE_STORAGE__MIN_FREE_BYTES="0").stderr


def test_json_tells_everything_and_quiet_nothing_else(tmp_path: Path) -> None:
    done = vitascope("generate", "a dog", "--json", "--quiet", "--format", "gif", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert done.stderr == ""
    assert result["path"] == f"a-dog-{result['seed']}.gif"
    assert (result["num_frames"], result["fps"]) == (17, 8)
    assert {"engine"} <= {choice["name"] for choice in result["choices"]}
    assert (tmp_path / result["path"]).stat().st_size == result["num_bytes"]


def test_shots_are_cut_and_a_video_is_changed(tmp_path: Path) -> None:
    told = vitascope(
        "generate", "--shot", "a dog", "--shot", "a cat", "--seconds", "3", "--plan", cwd=tmp_path
    )
    assert "pocket makes 192x192, 13 + 13 frames at 8 fps" in told.stdout
    assert list(tmp_path.iterdir()) == []
    made = vitascope(
        "generate", "--shot", "a dog", "--shot", "a cat", "--seconds", "3", "-o", "a.mp4", cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    frames = media.read_frames(tmp_path / "a.mp4")
    assert len(frames) == 24
    changed = vitascope(
        "generate", "a fish", "--video", "a.mp4", "--strength", "0.1", "-o", "b.mp4", cwd=tmp_path
    )
    assert changed.returncode == 0, changed.stderr
    again = media.read_frames(tmp_path / "b.mp4")
    assert again.shape == frames.shape
    assert np.abs(again.astype(int) - frames).mean() < 20
    longer = vitascope(
        "generate", "a fish", "--continues", "a.mp4", "--seconds", "4", "-o", "c.mp4", cwd=tmp_path
    )
    assert longer.returncode == 0, longer.stderr
    whole = media.read_frames(tmp_path / "c.mp4")
    assert len(whole) == 32
    assert np.abs(whole[:24].astype(int) - frames).mean() < 3


def test_a_local_diffusers_folder_runs_and_a_seed_reproduces(tmp_path: Path) -> None:
    folder = tiny.build("WanPipeline", tmp_path / "model")
    frames = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"{number}.mp4"
        done = vitascope(
            "generate", "a dog", "--model", folder, "--width", "32", "--height", "32", "--num-frames", "9", "--steps", "2",
            "--seed", str(seed), "--out", out, cwd=tmp_path, VITASCOPE_ENGINE__KIND="diffusers",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        frames.append(media.read_frames(out))
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([""], 2, "`prompt`"),
        (["x" * 40_000], 2, "`prompt`"),
        (["a", "--width", "191"], 2, "The nearest legal value is 192."),
        (["a", "--height", "9999"], 2, "The nearest legal value is 4096."),
        (["a", "--num-frames", "0"], 2, "`num_frames`"),
        (["a", "--seconds", "61"], 2, "The nearest legal value is 480."),
        (["a", "--seconds", "-1"], 2, "`--seconds`"),
        (["a", "--seconds", "nan"], 2, "`--seconds`"),
        (["a", "--seconds", "1", "--num-frames", "8"], 2, "--num-frames is given too"),
        (["a", "--steps", "0"], 2, "The nearest legal value is 1."),
        (["a", "--fps", "0"], 2, "`fps`"),
        (["a", "--guidance-scale", "1e9"], 2, "`guidance_scale`"),
        (["a", "--scheduler", "Euler"], 2, "EulerDiscreteScheduler"),
        (["a", "--model", "nothing"], 2, "there is no model `nothing`"),
        (["a", "--model", "./nowhere"], 2, "model_index.json"),
        (["a", "--image", "text.txt"], 2, "`--image`"),
        (["a", "--image", "missing.png"], 2, "`--image`"),
        (["a", "--last-image", "missing.png"], 2, "`--last-image`"),
        (["a", "--video", "missing.mp4"], 2, "`--video`"),
        (["a", "--video", "text.txt"], 2, "`--video`"),
        (["a", "--continues", "missing.mp4"], 2, "`--continues`"),
        (["a", "--continues", "text.txt"], 2, "`--continues`"),
        (["a", "--continues", "text.txt", "--seconds", "1", "--num-frames", "9"], 2, "--num-frames is given"),
        (["a", "--strength", "0.5"], 2, "`strength`"),
        (["a", "--shot", ""], 2, "`shots[0].prompt`"),
        (["a", "--out", "a.avi"], 2, "`--out`"),
        (["a", "--out", "a.mp4", "--format", "gif"], 2, "`--format`"),
        (["a", "--model", "\\[/]"], 2, "there is no model"),
        (["a", "--model", "a" * 300], 2, "there is no model"),
        (["a", "--seconds", "1e9"], 2, "The nearest legal value is 480."),
        (["a", "--out", "nowhere/a.mp4"], 1, "cannot be written: the folder for the file does not exist"),
        (["a", "--out", "home.mp4"], 1, "taken by a folder"),
        (["a", "--seed", "-1"], 2, "`seed`"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    (tmp_path / "text.txt").write_text("not a picture")
    (tmp_path / "home.mp4").mkdir()
    done = vitascope("generate", *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 2, "one line and a hint"


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: the same failed write at the same place."""
    program = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); from vitascope.cli import main; main()"
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",  # Python 3.11 keeps a .pyc that the limit has cut short
        "VITASCOPE_ENGINE__KIND": "fake",
        "VITASCOPE_ENGINE__FAKE_STEP_SECONDS": "0",
        "VITASCOPE_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, "generate", "a dog", "--out", "a.mp4", "--quiet"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"], "with the certificate"


def test_ctrl_c_leaves_no_file_and_exits_130(tmp_path: Path) -> None:
    settings = {
        "VITASCOPE_ENGINE__KIND": "fake",
        "VITASCOPE_ENGINE__FAKE_STEP_SECONDS": "0.2",
        "VITASCOPE_HOME": str(tmp_path / "home"),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "vitascope", "generate", "a dog", "--out", "a.mp4"],
        cwd=tmp_path, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "denoising step 2" in line:
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 130
    assert "Traceback" not in rest
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_generated_file_is_verified_and_a_changed_one_is_not(tmp_path: Path) -> None:
    made = vitascope(
        "generate", "a dog", "--out", "a.mp4", "--watermark", "Made by AI", "--quiet", cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    done = vitascope("verify", "a.mp4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("valid: Made by this server (Vitascope ")
    assert "kind: trainedAlgorithmicMedia" in done.stdout
    (tmp_path / "other").mkdir()
    elsewhere = vitascope("verify", "../a.mp4", "--json", cwd=tmp_path / "other")
    assert elsewhere.returncode == 0, "signed and unchanged, though by somebody"
    assert json.loads(elsewhere.stdout)["is_known"] is False
    assert not (tmp_path / "other" / "home").exists(), "looking at a file makes no certificate"
    certificate = tmp_path / "home" / "provenance.pem"
    named = vitascope("verify", "../a.mp4", "--json", "--certificate", certificate, cwd=tmp_path / "other")
    assert json.loads(named.stdout)["is_known"] is True
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.mp4").write_bytes(content)
    changed = vitascope("verify", "a.mp4", "--json", cwd=tmp_path)
    assert (changed.returncode, json.loads(changed.stdout)["state"]) == (1, "tampered")
    made = vitascope(
        "generate", "a", "--out", "b.mp4", "--no-provenance", cwd=tmp_path, VITASCOPE_PROVENANCE__OPTIONAL="1"
    )
    assert made.returncode == 0, made.stderr
    none = vitascope("verify", "b.mp4", cwd=tmp_path)
    assert (none.returncode, none.stdout) == (
        1,
        "none: The file carries no signed statement of its origin.\n",
    )
    missing = vitascope("verify", "c.mp4", cwd=tmp_path)
    assert (missing.returncode, missing.stderr.splitlines()[0]) == (
        2,
        "error: `FILE` is 'c.mp4', but it cannot be read: No such file or directory.",
    )


def test_a_certificate_that_cannot_sign_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "provenance.pem").write_text("nonsense")
    (tmp_path / "home" / "provenance.pem").chmod(0o600)
    for command in (("serve", "--port", "0"), ("generate", "a")):
        done = vitascope(*command, cwd=tmp_path)
        assert done.returncode == 2
        assert "holds no certificates" in done.stderr
        assert "Traceback" not in done.stderr


def test_models_doctor_and_version(tmp_path: Path) -> None:
    assert vitascope("--version", cwd=tmp_path).stdout == f"vitascope {__version__}\n"
    rows = json.loads(vitascope("models", "list", "--json", cwd=tmp_path).stdout)
    assert rows[0]["id"] == "pocket"
    assert rows[0]["is_default"]
    assert "wan2.1-t2v-1.3b" in vitascope("models", "list", cwd=tmp_path).stdout
    engine = {"VITASCOPE_ENGINE__KIND": "diffusers", "VITASCOPE_ENGINE__DTYPE": "bfloat16"}
    done = vitascope("doctor", "--model", "pocket", "--json", cwd=tmp_path, **engine)
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert "weights 0.03 GiB, with the work" in findings["offload"]["meaning"]
    assert {"python", "torch", "device", "dtype", "memory", "data folder", "model"} <= set(findings)
    assert all(finding["meaning"] for finding in findings.values())
    assert done.returncode == 0, findings


def test_doctor_says_what_a_device_cannot_do(tmp_path: Path) -> None:
    """A setting that this machine cannot follow, and a model that it cannot hold."""
    done = vitascope(
        "doctor", "--json", cwd=tmp_path, VITASCOPE_ENGINE__OFFLOAD="group", VITASCOPE_ENGINE__DEVICE="cpu"
    )
    assert done.returncode == 1
    finding = next(f for f in json.loads(done.stdout) if f["name"] == "device")
    assert "setting `engine.offload` is `group`" in finding["meaning"]
    assert "The nearest legal value is `none`" in finding["meaning"]
    done = vitascope("doctor", "--model", "wan2.1-t2v-14b", "--json", cwd=tmp_path)
    assert done.returncode == 1
    finding = next(f for f in json.loads(done.stdout) if f["name"] == "model")
    assert (finding["value"], finding["ok"]) == ("wan2.1-t2v-14b", False)
    assert "is not downloaded" in finding["meaning"]


def test_an_unwritable_data_folder_is_said_by_doctor(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = vitascope("doctor", "--json", cwd=tmp_path, VITASCOPE_HOME=str(tmp_path / "file" / "home"))
    assert done.returncode == 1
    finding = next(f for f in json.loads(done.stdout) if f["name"] == "data folder")
    assert not finding["ok"]

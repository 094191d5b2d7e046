"""`vitascope models` from end to end: a hub on loopback, a real server, a tiny real checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import hub as hubs
import tiny
from waiting import eventually

NAME, COMMIT = hubs.NAME, hubs.COMMIT
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"

CARD = f"""
id = "tiny"
source = "hub:{NAME}"
revision = "{COMMIT}"
pipeline = "WanPipeline"
size = {{ native = ["32x32"], multiple = 16, max_pixels = 0 }}
frames = {{ multiple = 4, offset = 1, minimum = 5, maximum = 9, default = 9 }}
fps = 8
steps = {{ default = 2, minimum = 1, maximum = 100 }}
dtype = "float32"
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> hubs.Repository:
    return hubs.Repository.of(tiny.build("WanPipeline", tmp_path_factory.mktemp("tiny")))


class Place:
    """A machine: a data folder with a card, a hub's cache, a hub."""

    def __init__(self, folder: Path, hub: hubs.Hub) -> None:
        self.hub = hub
        self.home = folder / "home"
        (self.home / "cards").mkdir(parents=True)
        (self.home / "cards" / "tiny.toml").write_text(CARD)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "serve.log"
        self.environment = {
            **os.environ,
            "VITASCOPE_HOME": str(self.home),
            "VITASCOPE_SERVER__PORT": str(self.port),
            "VITASCOPE_WORKER__LEASE_SECONDS": "3",
            "HF_HOME": str(folder / "hf"),
            "HF_ENDPOINT": hub.url,
            "NO_PROXY": "127.0.0.1",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vitascope", "models", *arguments]
        done = subprocess.run(
            command, env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def row(self) -> dict[str, Any]:
        rows = json.loads(self.run("list", "--json").stdout)
        assert isinstance(rows, list)
        found: dict[str, Any] = next(row for row in rows if row["id"] == "tiny")
        return found

    def serve(self, *arguments: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vitascope", "serve", *arguments],
                env=self.environment,
                cwd=self.home,
                stderr=log,
            )
        eventually(self.is_ready, 60)

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200
        return False

    def call(self, method: str, path: str, **options: Any) -> Any:
        answer = httpx.request(method, f"{self.url}/api/v1{path}", trust_env=False, **options)
        assert answer.is_success, answer.text
        return answer.json()

    def ended(self, path: str) -> Any:
        """Wait for a job or a command, and return it."""
        over = ("succeeded", "failed", "cancelled", "done")
        return eventually(lambda: found if (found := self.call("GET", path))["status"] in over else None, 120)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)


@pytest.fixture
def place(tmp_path: Path, repository: hubs.Repository) -> Iterator[Place]:
    with hubs.running() as hub:
        hub.repositories[NAME] = hubs.Repository(dict(repository.files))
        made = Place(tmp_path, hub)
        yield made
        made.stop()
        assert not made.log.exists() or "Traceback" not in made.log.read_text()


def test_a_model_from_its_download_to_its_end(place: Place) -> None:
    """Nothing here, pulled, loaded before the first job, verified, kept from being removed, removed."""
    pulled = place.run("pull", "tiny")
    assert "revision " + COMMIT in pulled.stdout
    lines = pulled.stderr.splitlines()
    assert "asking the hub" in lines
    assert any(line.startswith(f"downloading {WEIGHTS} (") for line in lines)
    row = place.row()
    assert (row["downloaded"], row["loaded_on"]) == (True, None)
    place.serve()
    loaded = place.run("load", "tiny")
    assert loaded.stdout == "tiny  loaded\n"
    (worker,) = place.row()["loaded_on"]
    job = place.call("POST", "/jobs", json={"prompt": "a dog", "model": "tiny"})
    made = place.ended(f"/jobs/{job['id']}")
    assert made["status"] == "succeeded", made["error"]
    assert place.row()["loaded_on"] == [worker]

    refused = place.run("rm", "tiny", code=1)
    assert f"the model `tiny` is loaded by {worker}" in refused.stderr
    assert place.run("verify", "tiny").stdout == "tiny  every file is as it was\n"
    assert "are free again" in place.run("rm", "tiny", "--force").stdout
    row = place.row()
    assert (row["downloaded"], row["loaded_on"]) == (False, [])
    assert place.is_ready()


def test_a_download_that_was_stopped_goes_on(place: Place) -> None:
    place.hub.stalled.add(WEIGHTS)
    command = [sys.executable, "-m", "vitascope", "models", "pull", "tiny", "--json"]
    process = subprocess.Popen(
        command, env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert place.hub.reached.wait(60)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on where it stopped" in err
    assert "Traceback" not in err
    assert all("event" in json.loads(line) for line in out.splitlines())
    assert not place.row()["downloaded"]
    place.hub.stalled.clear()
    done = json.loads(place.run("pull", "tiny", "--json").stdout.splitlines()[-1])
    assert (done["event"], done["revision"]) == ("done", COMMIT)
    assert place.row()["downloaded"]


def test_generate_fetches_what_it_needs(place: Place) -> None:
    command = [sys.executable, "-m", "vitascope", "generate", "a dog", "--model", "tiny", "--out", "dog.mp4"]
    done = subprocess.run(
        command, env=place.environment, cwd=place.home, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert f"downloading {WEIGHTS}" in done.stderr
    assert (place.home / "dog.mp4").stat().st_size > 0


def test_a_server_refuses_what_is_not_right_and_stays_up(place: Place) -> None:
    place.serve()

    def pulled(**options: Any) -> str:
        command = place.call("POST", "/models/tiny/pull", json=options)
        (part,) = place.ended(f"/commands/{command['id']}")["workers"]
        return f"{part['status']}: {part['message']}"

    def failed_job() -> str:
        job = place.call("POST", "/jobs", json={"prompt": "a dog", "model": "tiny"})
        ended = place.ended(f"/jobs/{job['id']}")
        assert (ended["status"], ended["error"]["code"]) == ("failed", "model_unavailable")
        return str(ended["error"]["message"])

    assert failed_job() == "model `tiny` is not downloaded; `vitascope models pull tiny` downloads it"
    files = place.hub.repositories[NAME].files
    good = dict(files)

    place.hub.damaged.add(WEIGHTS)
    assert "has another checksum than the hub lists" in pulled()
    place.hub.damaged.clear()

    files[WEIGHTS.replace(".safetensors", ".bin")] = files.pop(WEIGHTS)
    assert "are a pickle" in pulled()
    files.clear()
    files.update(good)

    files["model_index.json"] = files["model_index.json"].replace(b'"WanPipeline"', b'["own", "Own"]')
    assert "needs code of its own" in pulled()
    files.clear()
    files.update(good)

    assert pulled().startswith("done: ")
    blob = next(
        place.home.parent.glob(f"hf/hub/models--someone--tiny/snapshots/{COMMIT}/{WEIGHTS}")
    ).resolve()
    content = blob.read_bytes()
    blob.write_bytes(content[:-10])
    assert "is damaged" in failed_job()
    assert (
        "`vitascope models pull tiny --repair` mends it" in place.row()["problem"]
        or not place.row()["downloaded"]
    )
    command = place.call("POST", "/models/tiny/load")
    assert place.ended(f"/commands/{command['id']}")["status"] == "failed"
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    command = place.call("POST", "/models/tiny/verify")
    (part,) = place.ended(f"/commands/{command['id']}")["workers"]
    assert part["message"].startswith(f"model `tiny` is damaged: `{WEIGHTS}` has changed")
    assert pulled(repair=True).startswith("done: ")
    job = place.call("POST", "/jobs", json={"prompt": "a dog", "model": "tiny"})
    assert place.ended(f"/jobs/{job['id']}")["status"] == "succeeded"
    assert place.is_ready()


def test_a_restart_says_what_became_of_a_download(place: Place) -> None:
    place.hub.stalled.add(WEIGHTS)
    place.serve("--engine", "fake")
    command = place.call("POST", "/models/tiny/pull")
    assert place.hub.reached.wait(60)
    eventually(lambda: place.call("GET", f"/commands/{command['id']}")["workers"][0]["num_bytes"] > 0)
    place.stop()
    place.hub.go_on.set()
    place.hub.stalled.clear()
    place.serve("--engine", "fake")
    (part,) = place.ended(f"/commands/{command['id']}")["workers"]
    assert part["status"] == "failed"
    assert "a download goes on where it stopped" in part["message"]
    again = place.call("POST", "/models/tiny/pull")
    assert place.ended(f"/commands/{again['id']}")["status"] == "done"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pull", "tinny"], 2, "did you mean `tiny`?"),
        (["show", "tinny"], 2, "did you mean `tiny`?"),
        (["rm", "pocket"], 2, "it comes with Vitascope"),
        (["rm", "tiny"], 1, "nothing of model `tiny` is on this machine"),
        (["load", "tiny"], 1, "is `vitascope serve` running there?"),
        (["verify", "tiny"], 1, "`vitascope models pull tiny` downloads it"),
        (["list", "--server", "http://127.0.0.1:9"], 1, "does not answer"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    place: Place, arguments: list[str], code: int, words: str
) -> None:
    done = place.run(*arguments, code=code)
    assert words in done.stderr
    assert len(done.stderr.splitlines()) <= 2

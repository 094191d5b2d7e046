"""Adapters from end to end: files, the command line, a real server and its engine process, a hub on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save_file

import hub as hubs
import tiny
from tiny import loras
from vitascope.catalog import Catalog
from waiting import eventually

CARD = """
id = "{id}"
source = "folder:{source}"
pipeline = "WanPipeline"
size = {{ native = ["32x32"], multiple = 16, max_pixels = 0 }}
frames = {{ multiple = 4, offset = 1, minimum = 5, maximum = 9, default = 5 }}
fps = 8
steps = {{ default = 2, minimum = 1, maximum = 100 }}
"""

OF_HUB = 'loras = [{ source = "hub:someone/styles/sub/style.safetensors", scale = 0.5 }]\n'


class Place:
    """A machine with a tiny model, two adapters that fit it and one that does not, and a hub that has a fourth."""

    def __init__(self, folder: Path, hub: hubs.Hub) -> None:
        self.hub = hub
        self.home = folder / "home"
        self.loras = self.home / "loras"
        self.loras.mkdir(parents=True)
        model = tiny.build("WanPipeline", folder / "model")
        spec = Catalog.open().resolve_local(str(model))
        for index, name in enumerate(("one", "two", "style")):
            loras.write(self.loras / f"{name}.safetensors", spec, "transformer", seed=index)
        content = (self.loras / "style.safetensors").read_bytes()
        (self.loras / "style.safetensors").unlink()
        hub.repositories["someone/styles"] = hubs.Repository({"sub/style.safetensors": content})
        foreign = {
            f"unet.{name}": tensor for name, tensor in load_file(self.loras / "one.safetensors").items()
        }
        save_file(foreign, self.loras / "foreign.safetensors")
        (self.home / "cards").mkdir()
        (self.home / "cards" / "tiny.toml").write_text(CARD.format(id="tiny", source=model))
        (self.home / "cards" / "styled.toml").write_text(CARD.format(id="styled", source=model) + OF_HUB)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "serve.log"
        self.environment = {
            **os.environ,
            "VITASCOPE_HOME": str(self.home),
            "VITASCOPE_SERVER__PORT": str(self.port),
            "VITASCOPE_PROVENANCE__ENABLED": "false",  # equal frames are equal files then
            "HF_HOME": str(folder / "hf"),
            "HF_ENDPOINT": hub.url,
            "NO_PROXY": "127.0.0.1",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vitascope", *arguments]
        done = subprocess.run(
            command, env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def generate(self, *arguments: str) -> str:
        """Make a video, and return its file's checksum."""
        common = ("generate", "a dog", "--model", "tiny", "--seed", "3", "--json", "--out", "dog.mp4")
        found: str = json.loads(self.run(*common, *arguments).stdout)["sha256"]
        return found

    def serve(self) -> None:
        """Start the server, if it does not run."""
        if self.process is not None:
            return
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "vitascope", "serve"]
            self.process = subprocess.Popen(command, env=self.environment, cwd=self.home, stderr=log)
        eventually(self.is_ready, 60)

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200
        return False

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, f"{self.url}/api/v1{path}", trust_env=False, **options)

    def start(self, **body: Any) -> str:
        answer = self.call("POST", "/jobs", json={"prompt": "a dog", "model": "tiny", "seed": 3, **body})
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    def ended(self, job_id: str) -> dict[str, Any]:
        over = ("succeeded", "failed", "cancelled")

        def look() -> dict[str, Any] | None:
            job: dict[str, Any] = self.call("GET", f"/jobs/{job_id}").json()
            return job if job["status"] in over else None

        return eventually(look, 120)

    def made(self, names: tuple[str, ...]) -> str:
        """Make a video on the server with nothing else beside it, and return its file's checksum."""
        job = self.ended(self.start(loras=list(names)))
        assert job["status"] == "succeeded", job["error"]
        found: str = job["video"]["sha256"]
        return found

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with hubs.running() as hub:
        made = Place(tmp_path_factory.mktemp("place"), hub)
        yield made
        made.stop()
        assert not made.log.exists() or "Traceback" not in made.log.read_text()


def test_each_job_of_a_server_gets_its_own_adapters_as_the_command_line_does(place: Place) -> None:
    place.serve()
    order: list[tuple[str, ...]] = [(), ("one",), ("two",), ("one", "two")]
    alone = {names: place.made(names) for names in order}
    assert len(set(alone.values())) == len(order)
    jobs = [(names, place.start(loras=list(names))) for names in reversed(order)]
    for names, job_id in jobs:
        job = place.ended(job_id)
        assert job["status"] == "succeeded", job["error"]
        assert job["video"]["sha256"] == alone[names], names
        told = [choice["value"] for choice in job["choices"] if choice["name"] == "lora"]
        assert told == [f"{name} at 1" for name in names]
    assert place.generate("--lora", "one", "--lora", "two:1.0") == alone["one", "two"]


def test_the_command_line_says_which_fit_and_refuses_the_others(place: Place) -> None:
    listed = place.run("models", "loras", "tiny").stdout.splitlines()
    assert listed[1:] == ["one", "two"]
    assert listed[0].startswith("foreign  does not fit: the file was made for another architecture")
    rows = json.loads(place.run("models", "loras", "tiny", "--json").stdout)
    assert [(row["name"], row["fits"]) for row in rows] == [("foreign", False), ("one", True), ("two", True)]
    for name, words in {
        "foreign": "the file was made for another architecture",
        "one:x": "what follows the colon must be a number",
    }.items():
        refused = place.run("generate", "a dog", "--model", "tiny", "--lora", name, code=2)
        assert words in " ".join(refused.stderr.split())


def test_a_cards_adapter_is_downloaded_and_always_applied(place: Place) -> None:
    """By `generate` itself, as a model's files are, or by `pull`, also where the model is a folder of this machine."""
    style = place.hub.repositories["someone/styles"].files["sub/style.safetensors"]
    assert "1 files" in place.run("models", "pull", "styled").stdout
    assert place.run("models", "loras", "styled").returncode == 0
    (place.loras / "style.safetensors").write_bytes(style)
    place.serve()
    by_card = place.ended(place.start(model="styled"))
    by_request = place.ended(place.start(loras=[{"name": "style", "scale": 0.5}]))
    assert by_card["video"]["sha256"] == by_request["video"]["sha256"]
    (choice,) = (choice for choice in by_card["choices"] if choice["name"] == "lora")
    assert choice["value"] == "style at 0.5"
    assert choice["reason"].startswith("the model's card says so")

"""Several models in a server's memory: real processes, real tiny models, a budget."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import tiny
from waiting import eventually

MODELS = {"wan": "WanPipeline", "ltx": "LTXPipeline", "unet": "TextToVideoSDPipeline"}

NUM_TOKENS = 1_000_000
"""Of the text encoders: 64 MB of weights, so that what the work takes, and its noise, is the smaller part of it."""

FOR_TWO = 0.19
"""GB: less than three of them."""


def _with_a_large_text_encoder(name: str) -> Callable[[], Any]:
    def make() -> Any:
        pipe = tiny.BUILDERS[name]()
        pipe.text_encoder.resize_token_embeddings(NUM_TOKENS, mean_resizing=False)
        return pipe

    return make


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of cards of three models."""
    root = tmp_path_factory.mktemp("models")
    (root / "cards").mkdir()
    for model, name in MODELS.items():
        folder = tiny.build(name, root / model, _with_a_large_text_encoder(name))
        card = f'id = "{model}"\nsource = "folder:{folder}"\npipeline = "{name}"\n{tiny.SMALL}\n'
        card += "frames = { multiple = 8, offset = 1, minimum = 9, maximum = 17, default = 9 }\n"
        (root / "cards" / f"{model}.toml").write_text(card)
    return root / "cards"


@pytest.fixture
def url(tmp_path: Path, cards: Path) -> Iterator[str]:
    """A server with memory for two of them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "VITASCOPE_HOME": str(tmp_path / "home"),
        "VITASCOPE_CARDS": str(cards),
        "VITASCOPE_ENGINE__MEMORY_GB": str(FOR_TWO),
        "VITASCOPE_ENGINE__DEFAULT_MODEL": "wan",
        "VITASCOPE_ENGINE__DEVICE": "cpu",
        "VITASCOPE_WORKER__LEASE_SECONDS": "3",
    }
    log = tmp_path / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "vitascope", "serve", "--port", str(port)],
            env={**os.environ, **settings}, stderr=file, cwd=tmp_path,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/readyz").status_code == 200
        return False

    try:
        eventually(is_ready, 60)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert "Traceback" not in log.read_text()


def submit(url: str, model: str, seed: int) -> str:
    asked = {"prompt": "a dog", "model": model, "seed": seed, "num_frames": 9, "num_inference_steps": 2}
    answer = httpx.post(f"{url}/api/v1/jobs", json={**asked, "width": 32, "height": 32})
    assert answer.status_code < 300, answer.text
    return str(answer.json()["id"])


def memory_of(url: str) -> dict[str, Any]:
    (worker,) = httpx.get(f"{url}/api/v1/workers").json()["workers"]
    return dict(worker["memory"])


def test_three_models_share_the_memory_of_two(url: str) -> None:
    """30 jobs in a row of three models: none fails, and a model is not loaded again for each of its jobs."""
    seen: set[int] = set()

    def are_done(jobs: list[str]) -> bool:
        seen.add(len(memory_of(url)["models"]))
        while jobs and (state := httpx.get(f"{url}/api/v1/jobs/{jobs[0]}").json())["status"] == "succeeded":
            jobs.pop(0)
        assert not jobs or state["status"] in ("queued", "running"), state["error"]
        return not jobs

    for burst in range(2):
        jobs = [submit(url, list(MODELS)[index % 3], burst * 15 + index) for index in range(15)]
        eventually(lambda jobs=jobs: are_done(jobs), timeout_seconds=240, pause_seconds=0.2)
    memory = eventually(lambda: found if (found := memory_of(url))["loads"] + found["hits"] >= 30 else None)
    assert memory is not None
    assert max(seen) == 2
    assert len(memory["models"]) == 2
    assert memory["budget_bytes"] == FOR_TWO * 1e9
    assert memory["out_of_memory"] == 0
    assert memory["loads"] + memory["hits"] == 30
    assert memory["evictions"] == memory["loads"] - 2
    # in the order of arrival each job would need another model; loaded ones are preferred, within two minutes of patience
    assert 3 <= memory["loads"] <= 8
    for found in memory["models"].values():
        assert found["weights_bytes"] == pytest.approx(64.2e6, rel=0.01)
        assert found["num_open"] == 0
    metrics = httpx.get(f"{url}/metrics").text
    told = dict(re.findall(r'^vitascope_model_(\w+)_total\{worker="[^"]+"\} (\S+)$', metrics, re.MULTILINE))
    counted = {name: memory[name] for name in ("loads", "hits", "evictions", "out_of_memory")}
    assert {name: float(told[name]) for name in counted} == counted
    assert metrics.count("vitascope_model_bytes{") == 2

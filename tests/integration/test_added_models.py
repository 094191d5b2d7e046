"""Models that are added while a server runs: a hub on loopback, real processes, tiny real checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save_file

import hub as hubs
import tiny
from endpoints import json_answer, serving
from tiny import loras
from vitascope.catalog import Catalog
from waiting import eventually

from .test_cli_models import NAME, Place, repository

__all__ = ["repository"]

SMALL = {"prompt": "a dog", "width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 1}
PATIENCE_SECONDS = 180
"""Of a first load: it imports torch, on machines that do much else."""

STARTED = {"status": "success", "message": "model load started"}
ENTERPRISE = "/api/v1/enterprise"


class Yard(Place):
    """A machine without cards of its own."""

    def __init__(self, folder: Path, hub: hubs.Hub) -> None:
        super().__init__(folder, hub)
        (self.home / "cards" / "tiny.toml").unlink()
        self.folders = folder / "folders"
        self.folders.mkdir()
        self.environment |= {
            "VITASCOPE_MODELS__ALLOW": json.dumps(["hub", str(self.folders)]),
            "VITASCOPE_OUTBOUND__ALLOW": '["127.0.0.1"]',
        }

    def vendor(self, name: str, **body: Any) -> Any:
        answer = httpx.post(f"{self.url}{ENTERPRISE}/{name}", json=body, trust_env=False, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def models(self) -> set[str]:
        return {row["model_id"] for row in self.vendor("get_all_models")["models"]}

    def made(self, model: str, **more: Any) -> Any:
        job = self.call("POST", "/jobs", json={**SMALL, "model": model, **more})
        return self.ended(f"/jobs/{job['id']}")

    def loaded(self) -> set[str]:
        return {name for worker in self.call("GET", "/workers")["workers"] for name in worker["loaded"]}

    def snapshots(self) -> list[Path]:
        return [
            path for path in (self.home.parent / "hf").glob("hub/models--*/snapshots/*/*") if path.exists()
        ]


@pytest.fixture
def yard(tmp_path: Path, repository: hubs.Repository) -> Iterator[Yard]:
    with hubs.running() as hub:
        hub.repositories[NAME] = hubs.Repository(dict(repository.files))
        made = Yard(tmp_path, hub)
        yield made
        made.stop()
        assert not made.log.exists() or "Traceback" not in made.log.read_text()


def test_a_hubs_model_from_the_vendors_call_to_its_end(yard: Yard) -> None:
    """Loaded beside a running server, used, known after a restart, deleted."""
    yard.serve()
    assert yard.vendor("verify_model", model_id="mine")["status"] == "error"
    started = yard.vendor("load_model", url=NAME, model_id="mine", model_type="huggingface")
    assert started == {"status": "success", "message": "model load started"}
    eventually(lambda: "mine" in yard.loaded(), PATIENCE_SECONDS)
    assert yard.vendor("verify_model", model_id="mine")["status"] == "success"
    assert yard.models() == {"pocket", "mine"}
    (worker,) = yard.call("GET", "/workers")["workers"]
    assert worker["available"] == ["mine", "pocket"]
    first = yard.made("mine", seed=1)
    assert first["status"] == "succeeded", first["error"]

    yard.stop()
    yard.serve()
    assert yard.made("mine", seed=1)["status"] == "succeeded"
    deleted = yard.vendor("delete_model", model_id="mine")
    assert deleted == {"status": "success", "message": "Model deleted on server"}
    assert yard.models() == {"pocket"}
    assert "mine" not in yard.loaded()
    assert not yard.snapshots(), "its files are gone"
    refused = httpx.post(f"{yard.url}/api/v1/jobs", json={**SMALL, "model": "mine"}, trust_env=False)
    assert refused.json()["error"]["code"] == "unknown_model"
    assert yard.vendor("delete_model", model_id="pocket")["status"] == "error"
    yard.vendor("load_model", url=NAME, model_id="mine")
    eventually(lambda: "mine" in yard.loaded(), PATIENCE_SECONDS)


def test_the_command_line_adds_and_deletes(yard: Yard) -> None:
    yard.serve()
    added = yard.run("add", NAME, "--id", "ours")
    assert added.stdout == "ours  loaded\n"
    assert yard.made("ours")["status"] == "succeeded"
    assert "GB are free again" in yard.run("delete", "ours").stdout
    files = yard.hub.repositories[NAME].files
    weights = next(name for name in files if name.endswith(".safetensors"))
    files[weights.replace(".safetensors", ".bin")] = files.pop(weights)
    refused = yard.run("add", NAME, "--id", "ours", code=1)
    assert "are a pickle" in refused.stderr


def test_folders_autoencoders_and_adapters(yard: Yard, repository: hubs.Repository) -> None:
    """A folder's model with an autoencoder of another repository and an adapter of a hub, and who is told that it came."""
    folder = tiny.build("WanPipeline", yard.folders / "mine")
    spec = Catalog.open().resolve_local(str(folder))
    vae = {
        name.removeprefix("vae/"): content for name, content in repository.files.items() if name[:4] == "vae/"
    }
    weights = next(name for name in vae if name.endswith(".safetensors"))
    save_file(
        {name: tensor * 0.5 for name, tensor in load_file(folder / "vae" / weights).items()},
        yard.folders / weights,
    )
    vae[weights] = (yard.folders / weights).read_bytes()
    adapter = loras.write(yard.folders / "paint.safetensors", spec, "transformer").read_bytes()
    yard.hub.repositories |= {
        "someone/soft": hubs.Repository(vae),
        "someone/paint": hubs.Repository({"paint.safetensors": adapter, "README.md": b"paint"}),
    }
    yard.serve()
    with serving(json_answer({})) as receiver:
        told = {"webhook": f"{receiver.url}/done", "track_id": 7}
        assert (
            yard.vendor("load_model_v2", url=str(folder), model_id="mine", model_category="video", **told)
            == STARTED
        )
        eventually(lambda: receiver.asked, PATIENCE_SECONDS)
        yard.vendor("load_vae", vae_url="someone/soft", vae_id="soft", vae_type="diffusers")
        yard.vendor("load_model", url="someone/paint", model_id="brush", model_type="lora")
        yard.vendor("load_model", url=f"{yard.folders}/nothing", model_id="none", **told)
        eventually(lambda: len(receiver.asked) == 2, PATIENCE_SECONDS)
    assert receiver.asked[0] == {
        "status": "success",
        "message": "Model loaded",
        "model_id": "mine",
        "track_id": 7,
    }
    failed = receiver.asked[1]
    assert (failed["status"], failed["model_id"]) == ("failed", "none")
    assert "are not there" in failed["message"]
    assert str(yard.folders) not in failed["message"]
    eventually(
        lambda: all(
            model["ready_at"]
            for model in yard.call("GET", "/added-models")["models"]
            if model["id"] != "none"
        ),
        60,
    )

    plain = yard.made("mine", seed=1)
    assert plain["status"] == "succeeded", plain["error"]
    soft = yard.made("mine+vae=soft", seed=1)
    assert soft["status"] == "succeeded", soft["error"]
    painted = yard.made("mine", seed=1, loras=[{"name": "brush"}])
    assert painted["status"] == "succeeded", painted["error"]
    sums = {job["videos"][0]["sha256"] for job in (plain, soft, painted)}
    assert len(sums) == 3, "each changes the picture"
    wrong = httpx.post(
        f"{yard.url}/api/v1/jobs", json={**SMALL, "model": "mine+vae=none"}, trust_env=False
    ).json()
    assert wrong["error"]["code"] == "unknown_model"

    for name in ("soft", "brush", "mine"):
        assert yard.vendor("delete_model", model_id=name)["status"] == "success"
    assert folder.is_dir(), "a folder is the operator's own"
    assert not (yard.home / "loras" / "brush.safetensors").exists()
    assert yard.loaded() == set()
    assert not yard.snapshots()

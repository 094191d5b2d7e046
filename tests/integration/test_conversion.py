"""From pickles to safetensors: real torch pickles, in the real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import hub as hubs
import tiny
from vitascope import catalog
from vitascope.catalog import hub
from vitascope.domain.errors import InvalidParameter, ModelUnavailable
from vitascope.domain.model_spec import ModelSpec
from vitascope.engine import open_engine

NAME, COMMIT = hubs.NAME, hubs.COMMIT
UNET = "transformer/diffusion_pytorch_model"
TEXT = "text_encoder/model"


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build("WanPipeline", tmp_path_factory.mktemp("safe"))


@pytest.fixture
def pickled(safe: Path, tmp_path: Path) -> Path:
    """The same checkpoint with two of its parts as pickles, one of them in two pieces."""
    import shutil

    folder = tmp_path / "pickled"
    shutil.copytree(safe, folder)
    torch.save(load_file(folder / f"{UNET}.safetensors"), folder / f"{UNET}.bin")
    (folder / f"{UNET}.safetensors").unlink()
    weights = load_file(folder / f"{TEXT}.safetensors")
    names = sorted(weights)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: weights[name] for name in part}, folder / "text_encoder" / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "text_encoder" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / f"{TEXT}.safetensors").unlink()
    return folder


def silent(_progress: Any) -> None:
    """Nobody watches."""


def of_folder(spec: ModelSpec, folder: Path) -> ModelSpec:
    return replace(spec, source=f"folder:{folder}", revision=None, dtype="float32")


def test_a_folder_of_pickles_becomes_one_of_the_same_weights(
    spec: ModelSpec, pickled: Path, safe: Path
) -> None:
    own = of_folder(spec, pickled)
    with pytest.raises(ModelUnavailable, match="are a pickle"):
        catalog.locate(own)
    before = sorted(pickled.rglob("*"))
    folder, made = catalog.convert(own, silent)
    assert folder == pickled.with_name("pickled-safetensors")
    assert sorted(pickled.rglob("*")) == before, "the operator's folder stays as it was"
    assert made.converted
    converted = replace(own, source=f"folder:{folder}")
    assert catalog.verify(converted, silent) == []
    plan = tiny.make_plan(converted)
    frames = []
    for each in (converted, replace(own, source=f"folder:{safe}")):
        engine = open_engine("diffusers", catalog.locate, device="cpu", threads=1)
        frames.append(tiny.run(engine, each, plan)[1].frames)
        engine.close()
    assert (frames[0] == frames[1]).all()
    with pytest.raises(InvalidParameter, match="it exists already"):
        catalog.convert(own, silent)


def test_a_hubs_pickles_are_converted_beside_their_manifest(
    hub_server: hubs.Hub,
    spec: ModelSpec,
    pickled: Path,
) -> None:
    hub_server.repositories[NAME] = hubs.Repository.of(pickled)
    with pytest.raises(ModelUnavailable, match="are a pickle"):
        catalog.pull(spec, silent)
    folder, _ = catalog.convert(spec, silent)
    assert folder == hub.own_folder(NAME) / COMMIT
    assert catalog.locate(spec) == str(folder)
    assert catalog.verify(spec, silent) == []
    assert catalog.weights_of(spec).is_downloaded
    catalog.pull(spec, silent)
    assert catalog.locate(spec) == str(folder)
    catalog.remove(spec)
    assert not hub.cache_folder(NAME).exists()


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch owned",)


def test_a_program_in_a_pickle_is_not_run(
    spec: ModelSpec,
    pickled: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(pickled.parent)
    torch.save({"w": Evil()}, pickled / f"{UNET}.bin")
    with pytest.raises(
        ModelUnavailable, match=r"`diffusion_pytorch_model.bin` is not converted: Weights only load failed"
    ):
        catalog.convert(of_folder(spec, pickled), silent)
    assert not list(pickled.parent.rglob("owned"))
    assert not pickled.with_name("pickled-safetensors").exists()
    torch.save([1, 2], pickled / f"{UNET}.bin")
    with pytest.raises(ModelUnavailable, match="something else than tensors"):
        catalog.convert(of_folder(spec, pickled), silent)
    index = json.loads((pickled / "model_index.json").read_text())
    (pickled / "model_index.json").write_text(json.dumps({**index, "transformer": ["own", "Own"]}))
    (pickled / "transformer" / "own.py").write_text("evil()")
    with pytest.raises(ModelUnavailable, match="code of its own"):
        catalog.convert(of_folder(spec, pickled), silent)


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        ("import socket; socket.socket()", "PermissionError"),
        ("import subprocess; subprocess.run(['/bin/true'])", "PermissionError"),
        ("bytearray(2**33)", "MemoryError"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's filter is Linux's")
def test_the_process_has_nothing_to_lose(attempt: str, error: str) -> None:
    program = f"import subprocess, socket\nfrom vitascope.engine.convert import confine\nconfine(2**32, 10)\n{attempt}\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith(error)

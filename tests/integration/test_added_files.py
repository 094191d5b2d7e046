"""What is added at run time, as its files: fetched from hubs, folders and URLs, looked at, refused, removed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import hub as hubs
from vitascope.catalog import Catalog, added
from vitascope.domain.access import Caller
from vitascope.domain.added import AddedModel, ModelKind
from vitascope.domain.command import CommandKind, CommandStatus
from vitascope.domain.errors import InvalidParameter, ModelUnavailable, UnknownModel
from vitascope.service import Wish
from vitascope.service.additions import Additions
from vitascope.service.commands import Commands
from vitascope.store import Store
from vitascope.store.tables import outbox
from vitascope.worker.errands import Errands

from .test_downloads import checkpoint, tensors

NAME, COMMIT = hubs.NAME, hubs.COMMIT


def model(kind: ModelKind, source: str, name: str = "mine", card: Any = None) -> AddedModel:
    return AddedModel(
        id=name,
        kind=kind,
        source=source,
        revision=None,
        card=card,
        command_id="c",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def adapter(name: str = "transformer.blocks.0.attn1.to_q.lora_A.weight", kind: str = "F32") -> bytes:
    header = json.dumps({name: {"dtype": kind, "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(16)


def autoencoder(kind: str = "AutoencoderKLWan", channels: int = 16) -> dict[str, bytes]:
    config = {"_class_name": kind, "z_dim": channels}
    return {"config.json": json.dumps(config).encode(), "diffusion_pytorch_model.safetensors": tensors()}


@pytest.fixture
def server(hub_server: hubs.Hub) -> hubs.Hub:
    hub_server.repositories[NAME] = hubs.Repository(checkpoint())
    return hub_server


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Of adapters; nothing else is left beside it."""
    found = tmp_path / "data" / "loras"
    yield found
    if found.parent.is_dir():
        assert [path.name for path in found.parent.iterdir()] == ["loras"]


def fetched(one: AddedModel, folder: Path | None = None) -> AddedModel:
    return dataclasses.replace(one, card=added.fetch(one, folder, lambda _progress: None))


def refused(one: AddedModel, folder: Path | None = None) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        fetched(one, folder)
    return caught.value.message


def test_a_pipeline_is_pinned_to_what_was_fetched(server: hubs.Hub) -> None:
    found = fetched(model(ModelKind.PIPELINE, f"hub:{NAME}"))
    assert found.card is not None
    assert (found.card["pipeline"], found.card["revision"]) == ("WanPipeline", COMMIT)
    spec = added.spec_of(found)
    assert spec is not None
    assert (spec.id, spec.source, spec.revision) == ("mine", f"hub:{NAME}", COMMIT)
    assert Catalog.open().is_here(spec)
    assert "GB are free again" in added.remove(found, [], None)
    assert not Catalog.open().is_here(spec)
    assert added.remove(found, [], None) == "nothing of it was on this machine"


def test_removing_what_a_worker_never_had_is_done(hub_server: hubs.Hub, tmp_path: Path) -> None:
    """Of several workers some may have no files of a model; the others' removal is no failure for that."""
    store, catalog = Store.open(f"sqlite:///{tmp_path}/v.db"), Catalog.open()
    store.worker_seen("w")
    command = Commands(store, 60.0).order(CommandKind.REMOVE, catalog.resolve("wan2.1-t2v-1.3b"))
    errands = Errands(store, catalog, "w", 60.0)
    errand = errands.next_between_jobs()
    assert errand is not None
    errands.end(errand, lambda: errands.remove(errand))
    (part,) = store.command(command.id).errands
    assert (part.status, part.message) == (CommandStatus.DONE, "nothing of it was on this machine")
    store.close()


def test_files_that_another_model_needs_stay(server: hubs.Hub) -> None:
    found = fetched(model(ModelKind.PIPELINE, f"hub:{NAME}"))
    spec = added.spec_of(found)
    assert spec is not None
    said = added.remove(found, [dataclasses.replace(spec, id="other")], None)
    assert said == "its files stay: model `other` needs them"
    assert Catalog.open().is_here(spec)


def test_one_that_is_deleted_and_added_anew_keeps_its_files(server: hubs.Hub, tmp_path: Path) -> None:
    """A busy worker removes between its jobs, and fetches beside them: the removal's turn may come last."""
    store, catalog = Store.open(f"sqlite:///{tmp_path}/v.db"), Catalog.open()
    catalog.watch(store.added_models)
    store.worker_seen("w")
    additions = Additions(store, catalog, Commands(store, 60.0), catalog.allowed)
    errands = Errands(store, catalog, "w", 60.0)
    for is_last in (False, True):
        additions.add(Wish("mine", NAME), Caller("", frozenset()))
        one = store.added_model("mine")
        assert one is not None
        store.model_came("mine", catalog.fetch(one, lambda _progress: None))
        if not is_last:
            assert additions.delete("mine") is not None
    removal = errands.next_between_jobs()
    assert removal is not None
    assert "added anew" in errands.remove(removal)
    catalog.look_soon()
    assert catalog.is_here(catalog.resolve("mine"))
    assert additions.delete("mine") is not None
    removal = errands.next_between_jobs()
    assert removal is not None
    assert "GB are free again" in errands.remove(removal)
    store.close()


def test_the_receiver_of_a_cards_model_is_told(tmp_path: Path) -> None:
    store, catalog = Store.open(f"sqlite:///{tmp_path}/v.db"), Catalog.open()
    store.worker_seen("w")
    additions = Additions(store, catalog, Commands(store, 60.0), catalog.allowed)
    spec = catalog.resolve("wan2.1-t2v-1.3b")
    wish = Wish(spec.id, spec.source.removeprefix("hub:"), webhook="https://hook.example/a")
    command = additions.add(wish, Caller("", frozenset()))
    (errand,) = command.errands
    assert store.take_errand("w", {errand.kind}) is not None
    store.end_errand(errand.number, "no room", failed=True)
    with store._database.read() as connection:
        (row,) = connection.execute(sa.select(outbox)).all()
    assert row.url == "https://hook.example/a"
    assert json.loads(row.body) == {
        "type": "model.ended", "model": spec.id, "status": "failed", "message": "no room"
    }  # fmt: skip
    store.close()


@pytest.mark.parametrize("revision", ["../../x", "a b", "r" * 256, "/x", "x\n"])
def test_a_revision_is_a_name(server: hubs.Hub, tmp_path: Path, revision: str) -> None:
    store, catalog = Store.open(f"sqlite:///{tmp_path}/v.db"), Catalog.open()
    store.worker_seen("w")
    additions = Additions(store, catalog, Commands(store, 60.0), catalog.allowed)
    with pytest.raises(InvalidParameter, match="revision"):
        additions.add(Wish("mine", NAME, revision=revision), Caller("", frozenset()))
    with pytest.raises(InvalidParameter, match="source"):
        additions.add(Wish("mine", "a/" + "b" * 5000), Caller("", frozenset()))
    assert additions.all() == []
    store.close()


def test_what_makes_no_videos_is_refused(server: hubs.Hub) -> None:
    files = server.repositories[NAME].files
    one = model(ModelKind.PIPELINE, f"hub:{NAME}")
    index = json.loads(files["model_index.json"])
    files["model_index.json"] = json.dumps({**index, "_class_name": "StableDiffusionPipeline"}).encode()
    assert "makes no videos here" in refused(one)
    assert not any(path.endswith(".safetensors") for _, path, _ in server.requests), "nor was it fetched"
    own = json.dumps({**index, "_class_name": ["own", "Own"]}).encode()
    server.repositories["a/own"] = hubs.Repository({**files, "model_index.json": own})
    assert "code of its own" in refused(model(ModelKind.PIPELINE, "hub:a/own"))
    assert "no repository" in refused(model(ModelKind.PIPELINE, "hub:nobody/nothing"))


def test_an_autoencoder_fits_models_of_its_class_only(server: hubs.Hub) -> None:
    server.repositories["a/soft"] = hubs.Repository(autoencoder())
    server.repositories["a/other"] = hubs.Repository(autoencoder("AutoencoderKL", 4))
    server.repositories["a/none"] = hubs.Repository(
        {**autoencoder(), "config.json": b'{"_class_name": "UNet"}'}
    )
    soft = fetched(model(ModelKind.VAE, "hub:a/soft", "soft"))
    other = fetched(model(ModelKind.VAE, "hub:a/other", "other"))
    assert "no autoencoder" in refused(model(ModelKind.VAE, "hub:a/none"))
    catalog = Catalog.open()
    catalog.take([soft, other])
    # pocket's own has other channels than these random ones
    with pytest.raises(UnknownModel, match="`other` does not fit model `pocket`: its class is AutoencoderKL"):
        catalog.resolve("pocket+vae=other")
    with pytest.raises(UnknownModel, match="there is no VAE `nothing`"):
        catalog.resolve("pocket+vae=nothing")
    with pytest.raises(UnknownModel, match="there is no model `nothing`"):
        catalog.resolve("nothing+vae=soft")
    # of a model that is not here nobody can tell before it is loaded
    spec = catalog.resolve("wan2.1-t2v-1.3b+vae=soft")
    assert (spec.id, spec.components["vae"]) == ("wan2.1-t2v-1.3b+vae=soft", "hub:a/soft")
    assert "wan2.1-t2v-1.3b+vae=soft" not in {each.id for each in catalog.all()}


@pytest.mark.parametrize("source", ["hub:a/paint", "hub:a/paint/paint.safetensors", "url", "file", "folder"])
def test_an_adapter_comes_under_its_id(server: hubs.Hub, folder: Path, tmp_path: Path, source: str) -> None:
    server.repositories["a/paint"] = hubs.Repository({"paint.safetensors": adapter(), "README.md": b"paint"})
    place = tmp_path / "place"
    place.mkdir()
    (place / "paint.safetensors").write_bytes(adapter())
    sources = {
        "url": f"url:{server.url}/a/paint/resolve/{COMMIT}/paint.safetensors",
        "file": f"folder:{place}/paint.safetensors",
        "folder": f"folder:{place}",
    }
    one = fetched(model(ModelKind.LORA, sources.get(source, source), "brush"), folder)
    assert (folder / "brush.safetensors").read_bytes() == adapter()
    assert fetched(one, folder) == one, "once more is no matter"
    assert "GB are free again" in added.remove(one, [], folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", [adapter(), adapter("another.lora_A")], ids=["the same", "another"])
def test_an_adapter_of_the_operators_own_is_never_removed(
    server: hubs.Hub, folder: Path, content: bytes
) -> None:
    server.repositories["a/paint"] = hubs.Repository({"paint.safetensors": adapter()})
    one = model(ModelKind.LORA, "hub:a/paint", "brush")
    folder.mkdir(parents=True)
    file = folder / "brush.safetensors"
    file.write_bytes(content)
    if content == adapter():
        fetched(one, folder)
    else:
        assert "there already" in refused(one, folder)
    assert "stays" in added.remove(one, [], folder)
    assert file.read_bytes() == content


def test_an_adapter_that_was_replaced_stays(server: hubs.Hub, folder: Path) -> None:
    server.repositories["a/paint"] = hubs.Repository({"paint.safetensors": adapter()})
    one = fetched(model(ModelKind.LORA, "hub:a/paint", "brush"), folder)
    (folder / "brush.safetensors").write_bytes(adapter("another.lora_A"))
    assert "there already" in refused(one, folder)
    assert "stays" in added.remove(one, [], folder)
    (folder / "brush.safetensors").unlink()
    assert "nothing" in added.remove(one, [], folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04 a pickle of torch's", "is a pickle"),
        (b"<html>not found</html>", "safetensors"),
        (adapter()[:-4], "is cut"),
        (adapter("model.weight"), "no tensor's name says so"),
        (adapter(kind="I32"), "is no adapter"),
        (b"", "safetensors"),
    ],
)
def test_what_is_no_adapter_is_refused(server: hubs.Hub, folder: Path, content: bytes, words: str) -> None:
    server.repositories["a/paint"] = hubs.Repository({"paint.safetensors": content})
    assert words in refused(model(ModelKind.LORA, "hub:a/paint"), folder)
    assert list(folder.iterdir()) == []


def test_a_repository_of_several_adapters_has_to_be_asked_for_one(server: hubs.Hub, folder: Path) -> None:
    server.repositories["a/many"] = hubs.Repository({f"{n}.safetensors": adapter() for n in "ab"})
    assert "holds 2 safetensors files, not one" in refused(model(ModelKind.LORA, "hub:a/many"), folder)
    server.repositories["a/many"].files["pytorch_lora_weights.safetensors"] = adapter()
    fetched(model(ModelKind.LORA, "hub:a/many"), folder)
    server.repositories["a/old"] = hubs.Repository({"lora.bin": b"PK"})
    assert "are a pickle" in refused(model(ModelKind.LORA, "hub:a/old"), folder)

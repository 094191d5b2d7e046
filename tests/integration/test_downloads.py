"""Downloads from a hub: a real server on loopback that speaks the hub's file API, and the hub's own client."""

from __future__ import annotations

import fcntl
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import hub as hubs
from vitascope.catalog import hub, locate, weights
from vitascope.domain.errors import InvalidParameter, ModelInUse, ModelUnavailable, StorageError
from vitascope.domain.model_spec import ModelSpec
from waiting import eventually

NAME, COMMIT = hubs.NAME, hubs.COMMIT


def tensors(num_bytes: int = 4000, fill: int = 7) -> bytes:
    """A safetensors file of one tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes([fill]) * num_bytes


def checkpoint() -> dict[str, bytes]:
    index = {
        "_class_name": "WanPipeline",
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer_2": [None, None],
        "expand_timesteps": False,
    }
    return {
        "README.md": b"# not needed",
        "model_index.json": json.dumps(index).encode(),
        "transformer/config.json": b"{}",
        "transformer/diffusion_pytorch_model.safetensors": tensors(),
        "transformer/diffusion_pytorch_model.fp16.safetensors": tensors(2000),
        "transformer/diffusion_pytorch_model.bin": b"a pickle",
        "text_encoder/config.json": b'{"model_type": "t5"}',
        "text_encoder/model.safetensors": tensors(3000, 9),
        "tokenizer/tokenizer_config.json": b"{}",
        "tokenizer/spiece.model": b"pieces",
        "tokenizer/make.py": b"raise SystemExit",
        "examples/big.safetensors": tensors(9000),
    }


@pytest.fixture
def server(hub_server: hubs.Hub) -> hubs.Hub:
    hub_server.repositories[NAME] = hubs.Repository(checkpoint())
    return hub_server


def pull(spec: ModelSpec, **how: Any) -> list[hub.Progress]:
    seen: list[hub.Progress] = []
    hub.pull(spec, seen.append, **how)
    return seen


def refused(spec: ModelSpec, error: type[Exception] = ModelUnavailable, **how: Any) -> str:
    with pytest.raises(error) as caught:
        pull(spec, **how)
    return f"{caught.value.message} ({caught.value.hint})"  # type: ignore[attr-defined]


def test_only_what_the_pipeline_needs_comes_and_a_manifest_says_so(server: hubs.Hub, spec: ModelSpec) -> None:
    assert weights.weights_of(spec).hint == "`vitascope models pull tiny` downloads it"
    seen = pull(spec)
    made = hub.installed(spec)
    assert made is not None
    assert [file.name for file in made.files] == [
        "model_index.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/spiece.model",
        "tokenizer/tokenizer_config.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
    ]
    assert (made.commit, made.source) == (COMMIT, f"hub:{NAME}")
    folder = Path(locate(spec))
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {
        Path(file.name).name for file in made.files
    }
    assert seen[-1].num_bytes == seen[-1].total_bytes == made.num_bytes
    assert [step.num_bytes for step in seen] == sorted(step.num_bytes for step in seen)
    found = weights.weights_of(spec)
    assert (found.is_downloaded, found.num_bytes, found.revision) == (True, made.num_bytes, COMMIT)


def test_parts_of_other_repositories_come_too(server: hubs.Hub, spec: ModelSpec) -> None:
    adapter = {"config.json": b"{}", "diffusion_pytorch_model.safetensors": tensors(), "mm.ckpt": b"a pickle"}
    server.repositories["other/adapter"] = hubs.Repository(adapter)
    whole = replace(spec, components={"motion_adapter": "hub:other/adapter"})
    pull(spec)
    assert not weights.weights_of(whole).is_downloaded
    assert weights.weights_of(whole).hint == "`vitascope models pull tiny` downloads it"
    pull(whole)
    folder = Path(locate(whole.parts["motion_adapter"]))
    assert {path.name for path in folder.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert weights.weights_of(whole).is_downloaded
    assert weights.verify(whole, lambda _progress: None) == []
    path = (folder / "diffusion_pytorch_model.safetensors").resolve()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (problem,) = weights.verify(whole, lambda _progress: None)
    assert "diffusion_pytorch_model.safetensors" in problem
    del adapter["diffusion_pytorch_model.safetensors"]
    server.repositories["other/pickled"] = hubs.Repository(adapter)
    assert "pickle" in refused(replace(spec, components={"motion_adapter": "hub:other/pickled"}))


def test_a_second_download_does_nothing(server: hubs.Hub, spec: ModelSpec) -> None:
    pull(spec)
    server.requests.clear()
    assert pull(spec) == []
    assert server.requests == [], "the card names the commit"
    unpinned = replace(spec, revision=None)
    pull(unpinned)
    assert not [request for request in server.requests if request[0] == "GET" and "/resolve/" in request[1]]


def test_the_client_of_the_hub_finds_what_was_downloaded(server: hubs.Hub, spec: ModelSpec) -> None:
    from huggingface_hub import hf_hub_download

    pull(spec)
    server.requests.clear()
    path = hf_hub_download(NAME, "text_encoder/model.safetensors", revision=COMMIT)
    assert Path(path).read_bytes() == tensors(3000, 9)
    assert not server.requests


def test_what_another_program_has_downloaded_is_used_and_completed(server: hubs.Hub, spec: ModelSpec) -> None:
    from huggingface_hub import hf_hub_download

    for name in ("model_index.json", "text_encoder/config.json"):
        hf_hub_download(NAME, name, revision=COMMIT)
    found = weights.weights_of(spec)
    assert not found.is_downloaded
    assert found.problem == "model `tiny` is not complete: the folder `transformer` is missing"
    assert found.hint == "`vitascope models pull tiny` completes it"
    pull(spec)
    assert len(server.sent("model_index.json")) == 1
    assert weights.weights_of(spec).is_downloaded


WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def test_broken_connections_go_on_where_they_broke(server: hubs.Hub, spec: ModelSpec) -> None:
    server.cuts[WEIGHTS] = [1000, 1500]
    pull(spec)
    assert server.sent(WEIGHTS) == [None, "bytes=1000-", "bytes=2500-"]
    assert weights.verify(spec, lambda _progress: None) == []


class Stopped(Exception):
    """Ctrl-C, at a chosen moment."""


def test_what_was_stopped_goes_on_where_it_stopped(server: hubs.Hub, spec: ModelSpec) -> None:

    def stop(progress: hub.Progress) -> None:
        if progress.file == WEIGHTS and progress.stage == "downloading":
            raise Stopped

    with pytest.raises(Stopped):
        hub.pull(spec, stop)
    assert not weights.weights_of(spec).is_downloaded
    assert weights.weights_of(spec).num_bytes > 3000, "what there is"
    (part,) = hub.own_folder(NAME).glob("*.part")
    size = part.stat().st_size
    assert size > 0
    server.requests.clear()
    pull(spec)
    assert server.sent(WEIGHTS) == [f"bytes={size}-"]
    assert server.sent("text_encoder/model.safetensors") == []
    assert weights.verify(spec, lambda _progress: None) == []
    assert not list(hub.own_folder(NAME).glob("*.part"))


@pytest.mark.parametrize("name", [WEIGHTS, "text_encoder/config.json", "tokenizer/spiece.model"])
def test_a_wrong_checksum_is_refused_and_leaves_nothing_to_load(
    server: hubs.Hub, spec: ModelSpec, name: str
) -> None:
    server.damaged.add(name)
    assert f"`{name}` of model `tiny` has another checksum than the hub lists" in refused(spec)
    assert hub.installed(spec) is None
    with pytest.raises(ModelUnavailable):
        locate(spec)
    server.damaged.clear()
    pull(spec)
    assert weights.verify(spec, lambda _progress: None) == []


def test_a_file_that_has_changed_is_found_and_mended(server: hubs.Hub, spec: ModelSpec) -> None:
    pull(spec)
    blob = (hub.snapshot(NAME, COMMIT) / WEIGHTS).resolve()
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + b"\x00")
    assert weights.verify(spec, lambda _progress: None) == [
        f"`{WEIGHTS}` has changed: its checksum is another one"
    ]
    assert locate(spec), "to load it, only sizes are compared"
    pull(spec, repair=True)
    assert weights.verify(spec, lambda _progress: None) == []
    assert server.sent("text_encoder/model.safetensors") == [None], "what is right is not fetched again"


def test_a_file_that_was_cut_is_not_loaded(server: hubs.Hub, spec: ModelSpec) -> None:
    pull(spec)
    blob = (hub.snapshot(NAME, COMMIT) / WEIGHTS).resolve()
    blob.write_bytes(blob.read_bytes()[:100])
    with pytest.raises(ModelUnavailable) as caught:
        locate(spec)
    assert caught.value.message.startswith(
        f"the download of model `tiny` is damaged: `{WEIGHTS}` has 100 bytes"
    )
    assert caught.value.hint == "`vitascope models pull tiny --repair` mends it"
    pull(spec)
    assert locate(spec)


def test_a_pickle_is_refused_before_any_weights_come(server: hubs.Hub, spec: ModelSpec) -> None:
    files = server.repositories[NAME].files
    del files[WEIGHTS]
    message = refused(spec)
    assert (
        "the weights of `transformer` of model `tiny` are a pickle (`diffusion_pytorch_model.bin`)" in message
    )
    assert "`vitascope models convert tiny --allow-pickle`" in message
    assert not server.sent("text_encoder/model.safetensors")
    assert not server.sent("diffusion_pytorch_model.bin")


def in_index(files: dict[str, bytes], **values: object) -> None:
    files["model_index.json"] = json.dumps({**json.loads(files["model_index.json"]), **values}).encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda files: in_index(files, _class_name=["pipeline", "Own"]),
            "`_class_name` in `model_index.json` is a list",
        ),
        (
            lambda files: (
                in_index(files, transformer=["own", "Own"]),
                files.update({"transformer/own.py": b"evil()"}),
            ),
            "`transformer/own.py`",
        ),
        (
            lambda files: files.update(
                {"text_encoder/config.json": b'{"auto_map": {"AutoModel": "own.Own"}}'}
            ),
            "`auto_map` in `text_encoder/config.json`",
        ),
    ],
)
def test_code_of_a_repository_is_refused(
    server: hubs.Hub, spec: ModelSpec, change: Callable[[dict[str, bytes]], object], words: str
) -> None:
    change(server.repositories[NAME].files)
    message = refused(spec)
    assert "model `tiny` needs code of its own" in message
    assert words in message
    assert not [name for _, name, _ in server.requests if name.endswith((".py", ".safetensors"))]


def test_what_the_hub_does_not_have_is_said(server: hubs.Hub, spec: ModelSpec) -> None:
    assert "the hub has no revision `v9` of model `tiny`" in refused(replace(spec, revision="v9"))
    assert "the hub has no repository `no/where`" in refused(replace(spec, source="hub:no/where"))
    del server.repositories[NAME].files["model_index.json"]
    assert "is not in diffusers' format" in refused(spec)
    server.token = "secret"
    assert "HF_TOKEN" in refused(spec)


def test_a_hub_that_is_away_is_said(
    server: hubs.Hub, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert "the hub does not answer for model `tiny`" in refused(spec)
    with pytest.raises(ModelUnavailable, match="the hub does not answer for model `tiny`"):
        hub.small_file(spec, "model_index.json")  # how a model that is added is looked at first
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(spec)
    with pytest.raises(ModelUnavailable, match="HF_HUB_OFFLINE is set"):
        hub.small_file(spec, "model_index.json")


def test_the_disk_is_looked_at_first(server: hubs.Hub, spec: ModelSpec) -> None:
    server.sizes[WEIGHTS] = 10**18
    message = refused(spec, StorageError)
    assert "needs 1000000000.0 GB more" in message
    assert "set HF_HOME" in message
    assert not server.sent("text_encoder/model.safetensors")


def test_a_second_download_at_once_says_that_it_waits(server: hubs.Hub, spec: ModelSpec) -> None:
    hub.own_folder(NAME).mkdir(parents=True)
    seen: list[hub.Progress] = []
    with (hub.own_folder(NAME) / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=hub.pull, args=(spec, seen.append))
        thread.start()
        eventually(lambda: seen)
        assert [step.stage for step in seen] == ["waiting"]
    thread.join()
    assert hub.installed(spec) is not None


def test_what_is_being_downloaded_is_not_removed_and_not_waited_for(
    server: hubs.Hub, spec: ModelSpec
) -> None:
    weight = "transformer/diffusion_pytorch_model.safetensors"
    server.stalled.add(weight)
    thread = threading.Thread(target=hub.pull, args=(spec, lambda _progress: None))
    thread.start()
    assert server.reached.wait(30)
    with pytest.raises(ModelInUse, match="is being downloaded"):
        weights.remove(spec)
    server.go_on.set()
    thread.join()
    assert weights.remove(spec) >= 4000


def test_a_link_that_leads_nowhere_takes_no_room(server: hubs.Hub, spec: ModelSpec) -> None:
    pull(spec)
    folder = hub.snapshot(NAME, COMMIT)
    (hub.own_folder(NAME) / f"{COMMIT}.json").unlink()  # as another program leaves it
    (folder / "gone.bin").symlink_to("../../blobs/gone")
    found = weights.weights_of(spec)
    assert (found.is_downloaded, found.num_bytes >= 4000) == (True, True)


def test_a_removed_model_is_gone_and_what_others_share_stays(server: hubs.Hub, spec: ModelSpec) -> None:
    pull(spec)
    other = hubs.Repository(dict(checkpoint()), commit="ab" * 20)
    other.files[WEIGHTS] = tensors(4000, 1)
    server.repositories[NAME] = other
    newer = replace(spec, revision=other.commit)
    pull(newer)
    freed = weights.remove(spec)
    assert freed >= 4000
    assert hub.installed(spec) is None
    assert weights.verify(newer, lambda _progress: None) == []
    weights.remove(newer)
    assert not hub.cache_folder(NAME).exists()
    with pytest.raises(ModelUnavailable, match="nothing of model `tiny`"):
        weights.remove(newer)


def test_folders_of_the_operators_own_are_never_touched(spec: ModelSpec, tmp_path: Path) -> None:
    own = replace(spec, source=f"folder:{tmp_path}")
    for work in (weights.remove, lambda spec: hub.pull(spec, lambda _progress: None)):
        for wrong in (own, replace(spec, source="embedded:pocket")):
            with pytest.raises(InvalidParameter):
                work(wrong)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"transformer/diffusion_pytorch_model.safetensors": tensors()[:-1]},
            "has 4073 bytes, and its header says 4074",
        ),
        ({"transformer/diffusion_pytorch_model.safetensors": b"PK"}, "is cut, or no safetensors file"),
        ({"transformer/diffusion_pytorch_model.safetensors": None}, "are a pickle"),
        ({"tokenizer/": None}, "the folder `tokenizer` is missing"),
        (
            {
                "transformer/diffusion_pytorch_model.safetensors.index.json": json.dumps(
                    {"weight_map": {"w": "diffusion_pytorch_model-00002-of-00002.safetensors"}}
                ).encode()
            },
            "00002-of-00002.safetensors` of model `own` is missing",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_not_loaded(
    spec: ModelSpec, tmp_path: Path, files: dict[str, bytes | None], words: str
) -> None:
    content = {
        name: data
        for name, data in checkpoint().items()
        if not name.startswith(tuple(n for n in files if n[-1] == "/"))
    }
    for name, data in {**content, **files}.items():
        if data is not None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
    for name, data in files.items():
        if data is None and name in content:
            (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(ModelUnavailable) as caught:
        locate(replace(spec, id="own", source=f"folder:{tmp_path}"))
    assert words in caught.value.message

"""What was added while the server runs: its files fetched and looked at, made a card of, and removed again."""

from __future__ import annotations

import contextlib
import dataclasses
import filecmp
import json
import shutil
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vitascope.domain.added import AddedModel, ModelKind
from vitascope.domain.errors import InvalidParameter, ModelUnavailable, StorageError, UnknownModel
from vitascope.domain.model_spec import ModelSpec

from . import checkpoint, headers, hub, manifest
from .cards import pipeline_defaults, spec_from
from .hub import Progress, Report
from .sources import CARD_IN_FOLDER, embedded_folder, locate
from .weights import remove as remove_download

ENDING = ".safetensors"

USUAL_ADAPTER = "pytorch_lora_weights.safetensors"
"""What diffusers calls the file of an adapter."""


def fetch(model: AddedModel, loras_folder: Path | None, report: Report) -> dict[str, Any]:
    """Bring all files of what was added to this machine, and find out what it is. Reads no weights and runs nothing.

    Returns:
        What a card of it says: of a pipeline all that `spec_from` needs.

    Raises:
        ModelUnavailable: it is not there, not whole, a pickle, wants code of its own, or is not what it was said to be.
        StorageError: the disk has no room for it.
    """
    if model.kind is ModelKind.LORA:
        return _fetch_adapter(model, loras_folder, report)
    stub = _stub(model)
    commit = None
    if model.source.startswith("hub:"):
        if model.kind is ModelKind.PIPELINE:
            _class_in(model.id, hub.small_file(stub, checkpoint.INDEX))  # before gigabytes come for nothing
        commit = hub.pull(stub, report).commit
    folder = Path(locate(stub))
    if model.kind is ModelKind.VAE:
        return {"id": model.id, "source": model.source, **_autoencoder_in(model.id, folder)}
    checkpoint.check_folder(model.id, folder)
    return _card_of(model, folder, commit)


def spec_of(model: AddedModel) -> ModelSpec | None:
    """Make a spec of a pipeline that was added; None if its card is not one that this version reads."""
    try:
        return None if model.card is None else spec_from(model.card)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def with_vae(base: ModelSpec, vae: AddedModel, name: str) -> ModelSpec:
    """Make the spec of a model whose autoencoder is another one.

    Raises:
        UnknownModel: it does not fit, as far as the files of both tell.
    """
    own = _own_autoencoder(base)
    if own is not None and vae.card is not None:
        for key, value in own.items():
            if vae.card.get(key) != value:
                words = f"its {key.replace('_', ' ')} is {vae.card.get(key)}, and the model's own {value}"
                raise UnknownModel(f"the VAE `{vae.id}` does not fit model `{base.id}`: {words}")
    return dataclasses.replace(base, id=name, aliases=(), components={**base.components, "vae": vae.source})


def remove(model: AddedModel, others: Iterable[ModelSpec], loras_folder: Path | None) -> str:
    """Remove the files of what was added, unless another model needs them; says what became of them.

    Raises:
        ModelInUse: it is being downloaded.
    """
    others = list(others)
    if model.kind is ModelKind.LORA:
        return _remove_adapter(model, others, loras_folder)
    if not model.source.startswith("hub:"):
        return "its folder is the operator's own, and stays"
    for other in others:
        if model.source in (other.source, *other.components.values()):
            return f"its files stay: model `{other.id}` needs them"
    try:
        return f"{remove_download(_stub(model)) / 1e9:.2f} GB are free again"
    except ModelUnavailable:
        return "nothing of it was on this machine"


def _stub(model: AddedModel) -> ModelSpec:
    """Make a spec of where the files are, before anybody knows what they are."""
    values = {"id": model.id, "source": model.source, "pipeline": "WanPipeline", "revision": model.revision}
    spec = spec_from(values)
    if model.kind is ModelKind.VAE:
        spec = dataclasses.replace(spec, pipelines={}, revision=None)
    return spec


def _card_of(model: AddedModel, folder: Path, commit: str | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": model.id, "source": model.source, "revision": commit or model.revision}
    card: dict[str, Any] = {}
    if (folder / CARD_IN_FOLDER).is_file():
        try:
            card = tomllib.loads((folder / CARD_IN_FOLDER).read_text("utf-8"))
        except (OSError, ValueError):
            raise ModelUnavailable(f"`{CARD_IN_FOLDER}` of model `{model.id}` cannot be read") from None
    else:
        card = {"pipeline": _class_in(model.id, folder / checkpoint.INDEX)}
    card = {**card, **shown, "aliases": []}
    if card["revision"] is None:
        del card["revision"]
    try:
        spec_from(card)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelUnavailable(f"the card of model `{model.id}` is not right: {error}") from None
    return card


def _class_in(model_id: str, index: Path) -> str:
    """Read a pipeline's class.

    Raises:
        ModelUnavailable: it is the checkpoint's own, or none that is known here.
    """
    name = checkpoint.read_index(index, model_id).get("_class_name")
    if name not in pipeline_defaults():
        hint = "a card can name it; see the docs on models"
        raise ModelUnavailable(
            f"model `{model_id}` is a {str(name)[:80]}, which makes no videos here", hint=hint
        )
    return str(name)


def _autoencoder_in(model_id: str, folder: Path) -> dict[str, Any]:
    """Read what has to be the same of two autoencoders for one to take the place of the other.

    Raises:
        ModelUnavailable: it is none.
    """
    try:
        config = json.loads((folder / checkpoint.CONFIG).read_text("utf-8"))
        found = config["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelUnavailable(
            f"the configuration of `{model_id}` cannot be read, or names no class"
        ) from None
    if not isinstance(found, str) or not found.startswith("Autoencoder"):
        raise ModelUnavailable(f"`{model_id}` is a {str(found)[:80]}, and no autoencoder")
    channels = config.get("latent_channels", config.get("z_dim"))
    return {"class": found, "latent_channels": channels}


def _own_autoencoder(spec: ModelSpec) -> dict[str, Any] | None:
    """Read the same of a model's own autoencoder; None where the model is not on this machine, or has none."""
    kind, _, name = spec.source.partition(":")
    with contextlib.suppress(ModelUnavailable):
        folder = embedded_folder(name) if kind == "embedded" else Path(locate(spec))
        return _autoencoder_in(spec.id, folder / "vae")
    return None


def _fetch_adapter(model: AddedModel, folder: Path | None, report: Report) -> dict[str, Any]:
    if folder is None:
        raise ModelUnavailable("this machine has no folder of adapters")
    target = folder / f"{model.id}{ENDING}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _place(folder) as place:
            part = _adapter_file(model, place, report)
            _check_adapter(model.id, part)
            if target.exists() and not filecmp.cmp(part, target, shallow=False):
                raise ModelUnavailable(f"another adapter of the name `{model.id}` is there already")
            if not target.exists():
                _put(part, target, place / f"{target.name}.new")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StorageError(f"the adapter `{model.id}` cannot be written: {reason}") from None
    return {"id": model.id, "source": model.source}


def _put(part: Path, target: Path, copy: Path) -> None:
    """Put an adapter's file where requests find it, with a note that it was put there: only such a one is ever removed."""
    shutil.copyfile(part, copy)
    _note_of(target).write_text(manifest.sha256(copy), "ascii")
    copy.replace(target)


def _note_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.added")


def _was_put(target: Path) -> bool:
    """Whether this very file came with a model that was added; it is the operator's own if not."""
    try:
        return _note_of(target).read_text("ascii") == manifest.sha256(target)
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _place(folder: Path) -> Iterator[Path]:
    """Make a folder on the same disk that no request looks into."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".adding-") as name:
        yield Path(name)


def _adapter_file(model: AddedModel, place: Path, report: Report) -> Path:
    kind, _, name = model.source.partition(":")
    if kind == "folder":
        path = Path(name)
        found = [path] if path.is_file() else sorted(path.glob(f"*{ENDING}"))
        if len(found) != 1:
            raise ModelUnavailable(
                f"the folder of `{model.id}` holds {len(found)} safetensors files, not one"
            )
        return found[0]
    report(Progress("downloading", file=model.id))
    if kind == "url":
        return _from_url(model, name, place / "file")
    from huggingface_hub import hf_hub_download

    owner, repository, *path_parts = name.split("/")
    repository = f"{owner}/{repository}"
    stub = dataclasses.replace(_stub(model), source=f"hub:{repository}")  # as messages name it
    commit, names = hub.names_in(stub, repository)
    file = "/".join(path_parts) or _only_adapter(model.id, names)
    with hub.hub_errors(stub):
        found_at = hf_hub_download(repository, file, revision=commit, local_dir=place / "repository")
    return Path(found_at)


def _only_adapter(model_id: str, names: Iterable[str]) -> str:
    names = list(names)
    found = [name for name in names if name.endswith(ENDING)]
    if USUAL_ADAPTER in found:
        return USUAL_ADAPTER
    if len(found) == 1:
        return found[0]
    checkpoint.check_no_pickle(model_id, "the repository", [] if found else names)
    hint = "name one as OWNER/NAME/FILE.safetensors"
    raise ModelUnavailable(
        f"the repository of `{model_id}` holds {len(found)} safetensors files, not one", hint=hint
    )


def _from_url(model: AddedModel, url: str, part: Path) -> Path:
    """Transfer one file from where the operator's list allows it, in the way in which the hub's client does."""
    from huggingface_hub.file_download import http_get

    with hub.hub_errors(_stub(model)), part.open("wb") as file:
        http_get(url, file)
    return part


def _check_adapter(model_id: str, path: Path) -> None:
    try:
        header = headers.read_header(path)
    except headers.UnreadableHeader as error:
        raise ModelUnavailable(f"the file of `{model_id}` {error}") from None
    if not header.shapes or any(kind not in headers.FLOATS for kind in header.dtypes.values()):
        raise ModelUnavailable(f"the file of `{model_id}` is no adapter")
    if not any("lora" in name.lower() for name in header.shapes):
        raise ModelUnavailable(f"the file of `{model_id}` is no adapter (LoRA): no tensor's name says so")


def _remove_adapter(model: AddedModel, others: Iterable[ModelSpec], folder: Path | None) -> str:
    path = (folder or Path()) / f"{model.id}{ENDING}"
    for other in others:
        if any(lora.source == f"file:{path.name}" for lora in other.loras):
            return f"its file stays: model `{other.id}` needs it"
    if folder is None or not path.is_file():
        _note_of(path).unlink(missing_ok=True)
        return "nothing of it was on this machine"
    if not _was_put(path):
        return "its file was there without it, and stays"
    num_bytes = path.stat().st_size
    path.unlink()
    _note_of(path).unlink(missing_ok=True)
    return f"{num_bytes / 1e9:.2f} GB are free again"


def check_source(kind: ModelKind, source: str, revision: str | None) -> None:
    """Refuse what cannot be served, before anything is fetched.

    Raises:
        InvalidParameter: an https URL of something else than one file, or one file of something else than an adapter.
    """
    where, _, name = source.partition(":")
    is_file = name.endswith(ENDING)
    if kind is ModelKind.LORA:
        if where == "url" and not is_file:
            raise InvalidParameter("source", name[:200], "an adapter's URL must lead to a .safetensors file")
        return
    if where == "url" or is_file:
        rule = "a model in diffusers' layout is many files: it must be a hub id, its page's URL, or a folder"
        hint = "single files of whole checkpoints are not served; convert them to diffusers' layout"
        raise InvalidParameter("source", name[:200], rule, hint=hint)
    if kind is ModelKind.VAE and revision is not None:
        raise InvalidParameter("revision", revision, "of a VAE its repository's own is taken")


def told(models: Iterable[AddedModel]) -> list[dict[str, Any]]:
    """Make plain JSON values of what requests may name, for another process."""
    return [
        {"id": model.id, "kind": model.kind.value, "source": model.source, "card": dict(model.card)}
        for model in models
        if model.card is not None
    ]


def heard(values: Iterable[Mapping[str, Any]]) -> list[AddedModel]:
    """Read what `told` made."""
    epoch = datetime(2000, 1, 1, tzinfo=UTC)
    return [
        AddedModel(
            id=value["id"],
            kind=ModelKind(value["kind"]),
            source=value["source"],
            revision=None,
            card=value["card"],
            command_id="",
            created_at=epoch,
        )
        for value in values
    ]

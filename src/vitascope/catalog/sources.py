"""Where weights come from: the package itself, a local folder, or a hub."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

from vitascope.domain.errors import ModelUnavailable, UnknownModel
from vitascope.domain.model_spec import ModelSpec

from . import checkpoint, hub, manifest
from .cards import pipeline_defaults, read_card, spec_from

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
CARD_IN_FOLDER = "vitascope.toml"
CHECKSUMS = "SHA256SUMS"


def locate(spec: ModelSpec) -> str:
    """Return the folder of this model's files, after a look at whether it is whole: sizes, not contents.

    Parts that other repositories hold are looked at too; each has a folder of its own.

    Raises:
        ModelUnavailable: it is not there, not complete, damaged, a pickle, or wants code of its own; the hint says what
            mends it.
    """
    for part in spec.parts.values():
        locate(part)
    kind, _, name = spec.source.partition(":")
    if kind == "hub":
        return str(_downloaded(spec, name))
    folder = embedded_folder(name) if kind == "embedded" else Path(name)
    if not (folder / (checkpoint.CONFIG if spec.is_part else checkpoint.INDEX)).is_file():
        raise ModelUnavailable(f"the files of model `{spec.id}` are not there", hint=f"looked in {folder}")
    if kind == "embedded":
        check_sums(spec.id, folder)
    elif not spec.is_part:
        checkpoint.check_folder(spec.id, folder)
    return str(folder)


def _downloaded(spec: ModelSpec, repository: str) -> Path:
    made = hub.installed(spec)
    if made is not None:
        folder = hub.files_of(made, repository)
        if problem := manifest.wrong_size(made, folder):
            message = f"the download of model `{spec.id}` is damaged: {problem}"
            raise ModelUnavailable(message, hint=f"`vitascope models pull {spec.id} --repair` mends it")
        return folder
    folder_of_others = hub.snapshot_of_others(spec, repository)
    if folder_of_others is None:
        message = f"model `{spec.id}` is not downloaded"
        raise ModelUnavailable(message, hint=f"`vitascope models pull {spec.id}` downloads it")
    try:
        checkpoint.check_folder(spec.id, folder_of_others)
    except ModelUnavailable as error:
        hint = error.hint or f"`vitascope models pull {spec.id}` completes it"
        raise ModelUnavailable(error.message, hint=hint) from None
    return folder_of_others


def embedded_folder(name: str) -> Path:
    return Path(str(resources.files(__package__).joinpath("embedded", name)))


def check_sums(model_id: str, folder: Path) -> None:
    """Compare every file of an embedded model with its checksum; 35 MB take some 30 ms.

    Raises:
        ModelUnavailable: one is missing or another.
    """
    hint = "reinstall vitascope, or run `git checkout` on the file"
    try:
        lines = (folder / CHECKSUMS).read_text("utf-8").splitlines()
    except OSError:
        message = f"`{CHECKSUMS}` of the embedded model `{model_id}` is missing"
        raise ModelUnavailable(message, hint=hint) from None
    for line in lines:
        expected, _, name = line.partition("  ")
        path = folder / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
        if found != expected:
            message = (
                f"`{name}` of the embedded model `{model_id}` is damaged: sha256 {found}, expected {expected}"
            )
            raise ModelUnavailable(message, hint=hint)


def spec_of_folder(folder: Path) -> ModelSpec:
    """Describe a local diffusers folder: by the card in it, else by the defaults of its pipeline class.

    Raises:
        UnknownModel: the folder holds no pipeline that the engine knows.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise UnknownModel(f"`{folder}` is not a diffusers model folder: it has no model_index.json")
    if (folder / CARD_IN_FOLDER).is_file():
        return replace(read_card(folder / CARD_IN_FOLDER), source=f"folder:{folder.absolute()}")
    name = folder.absolute().name
    hint = f"write a card named {CARD_IN_FOLDER} into the folder; see docs/models.md"
    return _spec_by_class(index, {"id": name, "source": f"folder:{folder.absolute()}"}, hint)


def spec_of_hub(hub_id: str) -> ModelSpec:
    """Describe a hub model that has no card, from its index file; pins the commit that is newest now.

    Raises:
        UnknownModel: the hub has no such model, cannot be reached, or the model is of an unknown class.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        index = Path(huggingface_hub.hf_hub_download(hub_id, "model_index.json"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
        hint = "check the name, the network and HF_TOKEN, or name a downloaded folder"
        raise UnknownModel(f"the model index of `{hub_id}` could not be fetched", hint=hint) from None
    # the cache keeps files as snapshots/COMMIT/model_index.json
    values = {"id": hub_id, "source": f"hub:{hub_id}", "revision": index.parent.name}
    return _spec_by_class(index, values, "write a card for it; see docs/models.md")


def _spec_by_class(index: Path, values: dict[str, str], hint: str) -> ModelSpec:
    try:
        class_name = json.loads(index.read_text("utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UnknownModel(f"the model index of `{values['id']}` cannot be read", hint=hint) from None
    if not isinstance(class_name, str):  # a list names the checkpoint's own code, which is never run
        raise UnknownModel(f"`{values['id']}` needs code of its own, which is not run", hint=hint)
    if class_name not in pipeline_defaults():
        raise UnknownModel(f"`{values['id']}` is a {class_name}, for which there are no defaults", hint=hint)
    return spec_from({**values, "pipeline": class_name})

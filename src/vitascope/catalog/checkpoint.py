"""What a checkpoint in diffusers' format consists of, and what about it is refused. Reads small files only, runs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vitascope.domain.errors import ModelUnavailable

INDEX = "model_index.json"
CONFIG = "config.json"

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
"""Endings of weights that are programs: whoever opens them runs what their author wrote."""

# a name without a further dot: `model.fp16.safetensors` is a second copy of the weights
_WEIGHTS = re.compile(r"[^.]+\.safetensors(\.index\.json)?")
_PICKLED = re.compile(r"[^.]+\.bin(\.index\.json)?")
_SMALL = re.compile(r"[^.]+\.(json|txt|model|jinja)")
_COMPONENT = re.compile(r"\w[\w-]*", re.ASCII)

MAX_HEADER_BYTES = 100_000_000
"""Of a safetensors file; that library's own limit."""


def read_index(path: Path, model_id: str) -> dict[str, Any]:
    """Read a model index.

    Raises:
        ModelUnavailable: it cannot be read, or names code of the checkpoint's own.
    """
    try:
        index = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        raise ModelUnavailable(f"`{INDEX}` of model `{model_id}` cannot be read") from None
    if not isinstance(index, dict):
        raise ModelUnavailable(f"`{INDEX}` of model `{model_id}` is not a table")
    if not isinstance(index.get("_class_name", ""), str):
        raise own_code(model_id, f"`_class_name` in `{INDEX}` is a list")
    return index


def own_code(model_id: str, where: str) -> ModelUnavailable:
    """Say that a checkpoint wants a program of its own to be run."""
    hint = "code of a checkpoint is never run: choose a conversion to diffusers' own classes"
    return ModelUnavailable(f"model `{model_id}` needs code of its own ({where})", hint=hint)


def components(index: Mapping[str, Any]) -> dict[str, str]:
    """Name the folders of a checkpoint, each with the library that its class is from."""
    return {
        name: str(value[0])
        for name, value in index.items()
        if not name.startswith("_") and isinstance(value, list) and len(value) == 2 and value[0] is not None
        if _COMPONENT.fullmatch(name)  # it becomes the name of a folder
    }


def needed_files(model_id: str, index: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """Choose the files of a repository that its pipeline loads: safetensors, configurations, tokenizers.

    Args:
        model_id: for messages.
        index: the model index.
        names: of all files in the repository.

    Raises:
        ModelUnavailable: it wants code of its own, or a part's weights are there as pickles only.
    """
    chosen = [INDEX]
    _check_code(model_id, index, names)
    for component in components(index):
        inside = {name for name in names if PurePosixPath(name).parent.as_posix() == component}
        found = {name for name in inside if _is_needed(PurePosixPath(name).name)}
        if not any(name.endswith(".safetensors") for name in found):
            check_no_pickle(model_id, component, inside)
        chosen += sorted(found)
    return chosen


def files_of_part(model_id: str, names: Collection[str]) -> list[str]:
    """Choose the files of a repository that holds one component and no pipeline.

    Raises:
        ModelUnavailable: it holds something else, or its weights are there as pickles only.
    """
    inside = {name for name in names if "/" not in name}
    chosen = sorted(name for name in inside if _is_needed(name) and name != INDEX)
    if not any(name.endswith(".safetensors") for name in chosen):
        check_no_pickle(model_id, "the other repository", inside)
    if CONFIG not in chosen:
        message = (
            f"a repository that model `{model_id}` needs is not in diffusers' format: it has no {CONFIG}"
        )
        raise ModelUnavailable(message)
    return chosen


def _check_code(model_id: str, index: Mapping[str, Any], names: Collection[str]) -> None:
    for component, library in components(index).items():
        for code in (f"{component}/{library}.py", f"{library}.py"):
            if code in names:
                raise own_code(model_id, f"`{code}`")


def files_with_pickles(model_id: str, index: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """Choose what a conversion needs: the same, and pickles where a part has no other weights.

    Raises:
        ModelUnavailable: it wants code of its own.
    """
    chosen = [INDEX]
    _check_code(model_id, index, names)
    for component in components(index):
        inside = sorted(name for name in names if PurePosixPath(name).parent.as_posix() == component)
        found = [name for name in inside if _is_needed(PurePosixPath(name).name)]
        if not any(name.endswith(".safetensors") for name in found):
            found += [name for name in inside if _PICKLED.fullmatch(PurePosixPath(name).name)]
        chosen += found
    return chosen


def is_weights(name: str) -> bool:
    """Whether a file holds weights that are loaded, and is no second copy of them."""
    return name.endswith(".safetensors") and _WEIGHTS.fullmatch(name) is not None


def _is_needed(name: str) -> bool:
    return _WEIGHTS.fullmatch(name) is not None or _SMALL.fullmatch(name) is not None


def check_no_pickle(model_id: str, component: str, names: Collection[str]) -> None:
    """Refuse a part whose only weights are pickles; `names` are its files.

    Raises:
        ModelUnavailable: they are.
    """
    pickles = sorted(PurePosixPath(name).name for name in names if name.endswith(PICKLES))
    if pickles:
        message = f"the weights of `{component}` of model `{model_id}` are a pickle (`{pickles[0]}`), which can run code"
        hint = f"`vitascope models convert {model_id} --allow-pickle` makes safetensors of it"
        raise ModelUnavailable(message, hint=hint)


def check_folder(model_id: str, folder: Path) -> None:
    """Look whether all is there that the index names, without reading the weights themselves.

    Raises:
        ModelUnavailable: says what is missing, cut or not allowed.
    """
    index = read_index(folder / INDEX, model_id)
    for component, library in components(index).items():
        inside = folder / component
        if (inside / f"{library}.py").is_file() or (folder / f"{library}.py").is_file():
            raise own_code(model_id, f"`{library}.py`")
        _check_component(model_id, component, inside)


def _check_component(model_id: str, component: str, inside: Path) -> None:
    if not inside.is_dir():
        raise ModelUnavailable(f"model `{model_id}` is not complete: the folder `{component}` is missing")
    for name in ("config.json", "tokenizer_config.json"):
        check_config(model_id, f"{component}/{name}", inside / name)
    names = [path.name for path in inside.iterdir()]
    weights = [name for name in names if is_weights(name)]
    if (inside / "config.json").is_file() and not weights:
        check_no_pickle(model_id, component, names)
        message = f"model `{model_id}` is not complete: `{component}` has no weights (*.safetensors)"
        raise ModelUnavailable(message)
    for shard in sorted({*weights, *_shards(inside, names)}):
        if problem := cut(inside / shard):
            raise ModelUnavailable(f"`{component}/{shard}` of model `{model_id}` {problem}")


def check_config(model_id: str, name: str, path: Path) -> None:
    """Refuse a configuration that names code of the checkpoint's own; one that is not there is none.

    Raises:
        ModelUnavailable: it does.
    """
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        raise ModelUnavailable(f"`{name}` of model `{model_id}` cannot be read") from None
    if isinstance(config, dict) and config.get("auto_map"):
        raise own_code(model_id, f"`auto_map` in `{name}`")


def _shards(inside: Path, names: Collection[str]) -> set[str]:
    """Name the files that a sharded part's own list says there are."""
    found: set[str] = set()
    for name in names:
        if name.endswith(".index.json") and _WEIGHTS.fullmatch(name):
            try:
                found |= set(json.loads((inside / name).read_text("utf-8"))["weight_map"].values())
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # the loader says what is wrong with it
    return found


def cut(path: Path) -> str | None:
    """Say what is wrong with the length of a safetensors file; None if nothing is.

    Its header says where each tensor ends: the last one ends with the file.
    """
    try:
        num_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 0 < header_bytes <= min(MAX_HEADER_BYTES, num_bytes - 8):
                return "is cut, or no safetensors file"
            header = json.loads(file.read(header_bytes))
        ends = [int(value["data_offsets"][1]) for name, value in header.items() if name != "__metadata__"]
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "cannot be read as a safetensors file"
    expected = 8 + header_bytes + max(ends, default=0)
    return None if num_bytes == expected else f"has {num_bytes} bytes, and its header says {expected}"

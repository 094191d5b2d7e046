"""From pickles to safetensors, when the operator asks for it: in a process of its own that has nothing to lose."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from vitascope.domain.errors import InvalidParameter, ModelUnavailable, StorageError
from vitascope.domain.model_spec import ModelSpec

from . import checkpoint, hub, manifest
from .hub import Progress, Report
from .manifest import Manifest, ManifestFile

SECONDS = 3600
"""What a conversion may take."""

SPARE_MEMORY_BYTES = 16 * 1024**3
"""Addresses beside those for the file, which torch reserves without using them."""


def convert(spec: ModelSpec, report: Report, target: Path | None = None) -> tuple[Path, Manifest]:
    """Make a folder of safetensors of a model whose weights are pickles; downloads them first if they are a hub's.

    Args:
        spec: the model.
        report: told how far it is.
        target: where a model of a folder is put; by default beside it. A hub's lies where its manifest is.

    Returns:
        The new folder and its manifest. A hub's model is loaded from there from now on.

    Raises:
        InvalidParameter: the model comes with Vitascope, or the folder is there already.
        ModelUnavailable: there is nothing to convert, or a file is not one of tensors only.
        StorageError: the folder cannot be written.
    """
    kind, _, name = spec.source.partition(":")
    if kind == "hub":
        made = hub.pull(spec, report, with_pickles=True)
        own = hub.own_folder(name)
        with hub.only_one(own, report):
            folder = own / made.commit
            shutil.rmtree(folder, ignore_errors=True)
            files = _convert(
                spec, hub.snapshot(name, made.commit), folder, [f.name for f in made.files], report
            )
            made = replace(made, files=files, folder=made.commit, converted=True)
            made.write(own / f"{made.commit}.json")
        return folder, made
    if kind == "embedded":
        raise InvalidParameter("model", spec.id, "it comes with Vitascope, as safetensors")
    source = Path(name)
    folder = target or source.with_name(f"{source.name}-safetensors")
    if folder.exists():
        raise InvalidParameter("--to", str(folder), "it exists already", hint="name a folder that does not")
    index = checkpoint.read_index(source / checkpoint.INDEX, spec.id)
    names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    files = _convert(spec, source, folder, checkpoint.files_with_pickles(spec.id, index, names), report)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = Manifest(spec.source, None, "", now, files, folder=".", converted=True)
    made.write(folder / manifest.IN_FOLDER)
    return folder, made


def _convert(
    spec: ModelSpec, source: Path, target: Path, names: list[str], report: Report
) -> tuple[ManifestFile, ...]:
    """Fill `target`; removes it again if that fails."""
    pickles = [name for name in names if name.endswith(checkpoint.PICKLES)]
    if not pickles:
        raise ModelUnavailable(f"no weights of model `{spec.id}` are pickles: there is nothing to convert")
    try:
        for name in set(names) - set(pickles):
            _copy(source / name, target, name)
        for name in pickles:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
        _run(spec, [(source / name, target / _renamed(name)) for name in pickles], report)
        checkpoint.check_folder(spec.id, target)
        made = [path for path in target.rglob("*") if path.is_file()]
        return tuple(
            ManifestFile(path.relative_to(target).as_posix(), path.stat().st_size, manifest.sha256(path))
            for path in sorted(made)
        )
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise StorageError(f"the folder `{target.name}` cannot be written: {error.strerror}") from None
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _copy(path: Path, target: Path, name: str) -> None:
    """Copy a file that is no pickle; a list of pickles becomes one of what will be made of them."""
    copy = target / _renamed(name)
    copy.parent.mkdir(parents=True, exist_ok=True)
    if not name.endswith(".bin.index.json"):
        shutil.copyfile(path, copy)
        return
    index = json.loads(path.read_text("utf-8"))
    index["weight_map"] = {key: _renamed(file) for key, file in index["weight_map"].items()}
    copy.write_text(json.dumps(index), "utf-8")


def _renamed(name: str) -> str:
    """Say how a file is called as safetensors: each library has its own name for weights."""
    folder, slash, file = name.rpartition("/")
    file = re.sub(r"^pytorch_model(?=[-.])", "model", file) if ".bin" in file else file
    return folder + slash + re.sub(r"\.bin(\.index\.json)?$", r".safetensors\1", file)


def _run(spec: ModelSpec, pickles: list[tuple[Path, Path]], report: Report) -> None:
    largest = max(path.stat().st_size for path, _ in pickles)
    order = {
        "pickles": [[str(path.resolve()), str(target)] for path, target in pickles],
        "memory_bytes": 3 * largest + SPARE_MEMORY_BYTES,
        "seconds": SECONDS,
    }
    report(Progress("converting", 0, len(pickles)))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "vitascope.engine.convert"],
            input=json.dumps(order),
            # no token, no proxy, nothing of the operator's
            env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "HOME": "/nonexistent"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelUnavailable(
            f"the weights of model `{spec.id}` were not converted within {SECONDS} s"
        ) from None
    if done.returncode == 0:
        return
    lines = done.stdout.splitlines()
    problem = json.loads(lines[-1]).get("problem") if lines else None
    problem = problem or f"the process ended with status {done.returncode}"
    raise ModelUnavailable(f"the weights of model `{spec.id}` cannot be made safetensors: {problem}")

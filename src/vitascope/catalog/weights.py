"""What is on this machine of each model: whether it is complete, what it takes, whether it is still right; and its end."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vitascope.domain.errors import ModelUnavailable
from vitascope.domain.model_spec import ModelSpec

from . import checkpoint, hub, manifest
from .hub import Progress, Report
from .sources import check_sums, embedded_folder, locate


@dataclass(frozen=True, slots=True)
class Weights:
    """What this machine has of a model."""

    is_downloaded: bool
    #: On the disk; of something incomplete what there is.
    num_bytes: int
    #: The commit that is there; None if there is none or it has no name.
    revision: str | None
    #: Why it cannot be loaded; None if it can.
    problem: str | None
    #: What mends it.
    hint: str | None = None
    #: When they came, aware UTC; None of what is not complete.
    since: datetime | None = None


def weights_of(spec: ModelSpec) -> Weights:
    """Look at what there is of a model, quickly: no weights are read."""
    kind, _, name = spec.source.partition(":")
    made = hub.installed(spec)
    try:
        folder = embedded_folder(name) if kind == "embedded" else Path(locate(spec))
    except ModelUnavailable as error:
        begun = _size(hub.cache_folder(name)) if kind == "hub" else 0
        revision = made.commit if made else None
        return Weights(
            is_downloaded=False, num_bytes=begun, revision=revision, problem=error.message, hint=error.hint
        )
    num_bytes = made.num_bytes if made else _size(folder, follow=True)
    revision = made.commit if made else folder.name if kind == "hub" else None
    since = datetime.fromisoformat(made.made_at) if made else _changed_at(folder)
    return Weights(is_downloaded=True, num_bytes=num_bytes, revision=revision, problem=None, since=since)


def _changed_at(folder: Path) -> datetime:
    """Tell when a folder's index was written, which is the last thing that is needed of it."""
    index = folder / checkpoint.INDEX
    return datetime.fromtimestamp((index if index.exists() else folder).stat().st_mtime, UTC)


def is_here(spec: ModelSpec) -> bool:
    """Whether this machine has all files of a model, as far as their lengths tell."""
    kind, _, name = spec.source.partition(":")
    try:
        if kind == "embedded":  # its checksums take a while, and are looked at when it is loaded
            return (embedded_folder(name) / checkpoint.INDEX).is_file()
        locate(spec)
    except (ModelUnavailable, OSError):
        return False
    return True


def verify(spec: ModelSpec, report: Report) -> list[str]:
    """Read every file of a model and compare it with its checksum.

    Returns:
        What is wrong with which file; empty if all is right.

    Raises:
        ModelUnavailable: there is nothing to compare, or a part is missing or not allowed.
    """
    of_parts = [problem for part in spec.parts.values() for problem in verify(part, report)]
    kind, _, name = spec.source.partition(":")
    if kind == "embedded":
        check_sums(spec.id, embedded_folder(name))
        return of_parts
    made, folder = _made(spec, name) if kind == "folder" else (hub.installed(spec), None)
    if made is None:
        locate(spec)
        hint = f"`vitascope models pull {spec.id}` makes one"
        if kind == "folder":
            hint = "a folder of your own has none: it is only looked at, and that found nothing wrong"
        raise ModelUnavailable(f"there is no manifest of model `{spec.id}` to compare with", hint=hint)
    done = 0

    def counted(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        report(Progress("checking", done, made.num_bytes))

    return manifest.wrong_files(made, folder or hub.files_of(made, name), counted) + of_parts


def damaged(spec: ModelSpec, problems: Sequence[str]) -> ModelUnavailable:
    """Say what `verify` has found."""
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    hint = f"`vitascope models pull {spec.id} --repair` mends it"
    return ModelUnavailable(f"model `{spec.id}` is damaged: {problems[0]}{more}", hint=hint)


def _made(spec: ModelSpec, name: str) -> tuple[manifest.Manifest | None, Path]:
    return manifest.read(Path(name) / manifest.IN_FOLDER), Path(name)


def remove(spec: ModelSpec) -> int:
    """Remove a download from the hub's cache: the revision that the model uses, and what is left of broken downloads.

    Returns:
        How many bytes that freed; files that other revisions share stay.

    Raises:
        InvalidParameter: the model comes with Vitascope, or its folder is the operator's own.
        ModelUnavailable: nothing of it is there.
        ModelInUse: it is being downloaded or converted. That is not waited for: a worker that waits makes no jobs.
    """
    repository = hub.repository_of(spec)
    folder = hub.cache_folder(repository)
    if not folder.is_dir():
        raise ModelUnavailable(f"nothing of model `{spec.id}` is on this machine")
    before = _size(folder)
    with hub.only_one(hub.own_folder(repository), None):
        _remove_revision(spec, repository, folder)
    return before - _size(folder)


def _remove_revision(spec: ModelSpec, repository: str, folder: Path) -> None:
    from huggingface_hub import constants, scan_cache_dir

    made = hub.installed(spec)
    others = hub.snapshot_of_others(spec, repository)
    commit = made.commit if made else others.name if others else None
    if commit is not None and (folder / "snapshots" / commit).is_dir():
        scan_cache_dir(constants.HF_HUB_CACHE).delete_revisions(commit).execute()
    own = hub.own_folder(repository)
    if commit is not None:
        (own / f"{commit}.json").unlink(missing_ok=True)
        shutil.rmtree(own / commit, ignore_errors=True)
    for part in own.glob("*.part"):
        part.unlink()
    snapshots = folder / "snapshots"
    if not snapshots.is_dir() or not any(snapshots.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path, *, follow: bool = False) -> int:
    """Count the bytes of a folder's files; links as what they are, or as what they lead to."""
    found = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        # a download may rename files meanwhile, and a link may lead nowhere
        with contextlib.suppress(OSError):
            found += 0 if path.is_dir() else path.stat(follow_symlinks=follow).st_size
    return found

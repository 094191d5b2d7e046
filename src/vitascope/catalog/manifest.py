"""What a download is: every file's size and checksum, written once all of it is there.

A manifest lies beside the files that it describes, in the folder that the hub's cache keeps for the repository:
`models--OWNER--NAME/vitascope/COMMIT.json`. So it is there for all processes, users and machines that share the cache, and
goes when the cache is cleaned; nothing else that uses the cache looks at it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

IN_FOLDER = "vitascope-manifest.json"
"""Name of the manifest of a folder that was converted."""

READ_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A file of a model, by its path inside it."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A complete download, or what was made of one."""

    #: As a card says it: `hub:OWNER/NAME` or `folder:PATH`.
    source: str
    #: What was asked for: a branch, a tag or a commit; None for the repository's own choice.
    asked: str | None
    #: What that was then; empty if it came from no repository.
    commit: str
    made_at: str
    files: tuple[ManifestFile, ...]
    #: Where the files are, seen from the manifest's own folder.
    folder: str
    #: Whether the weights came as pickles.
    converted: bool = False

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    def write(self, path: Path) -> None:
        """Put it where it belongs, all of it or nothing, and on the disk."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        with part.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def read(path: Path) -> Manifest | None:
    """Read a manifest; None if there is none that can be read, which is as if nothing had been downloaded."""
    try:
        values = json.loads(path.read_text("utf-8"))
        files = tuple(ManifestFile(**file) for file in values.pop("files"))
        return Manifest(**values, files=files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def all_in(folder: Path) -> Iterator[tuple[Path, Manifest]]:
    """Yield the manifests of a folder, the newest first."""
    found = [(path, made) for path in folder.glob("*.json") if (made := read(path)) is not None]
    yield from sorted(found, key=lambda pair: pair[1].made_at, reverse=True)


def sha256(path: Path, counted: Callable[[int], None] = lambda _num_bytes: None) -> str:
    """Compute a file's checksum; tells how many bytes it has read as it goes.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
            counted(len(chunk))
    return digest.hexdigest()


def wrong_size(manifest: Manifest, folder: Path) -> str | None:
    """Say which file is not as long as it was, without reading any; None if all are."""
    for file in manifest.files:
        try:
            num_bytes = (folder / file.name).stat().st_size
        except OSError:
            return f"`{file.name}` is missing"
        if num_bytes != file.num_bytes:
            return f"`{file.name}` has {num_bytes} bytes, and it had {file.num_bytes}"
    return None


def wrong_files(
    manifest: Manifest, folder: Path, counted: Callable[[int], None] = lambda _num_bytes: None
) -> list[str]:
    """Read every file and say of each wrong one what is wrong."""
    found = []
    for file in manifest.files:
        try:
            if sha256(folder / file.name, counted) != file.sha256:
                found.append(f"`{file.name}` has changed: its checksum is another one")
        except OSError:
            found.append(f"`{file.name}` is missing")
    return found

"""The public packages that the training clips are made of: fetched by name, checked by hash, kept.

`fetch` returns a verified archive or stops with one clear sentence; nothing half downloaded is ever kept.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """One npm package, pinned."""

    name: str
    version: str
    integrity: str

    @property
    def file(self) -> str:
        return f"{self.name.rpartition('/')[2]}-{self.version}.tgz"

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


STILLS = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
)
ANIMATED = (
    Package(
        "@lobehub/fluent-emoji-anim-1",
        "1.0.0",
        "sha512-/4m31vAuZEQ4aUJ5pxcOU5PVkuJya55GRxUZL7+zgLlxZXpzzE8jPqpDyhZICE3n47nS/Y9M5/vLdizi8201QA==",
    ),
    Package(
        "@lobehub/fluent-emoji-anim-2",
        "1.0.0",
        "sha512-S6yzf0RZXrQbXdxCWuHA9BAoLdBRk2flX+ne4TPGEH/qApwisCAKHoAAGjKSlTY3OVeZ9b7t/NEbmpjawnQYJA==",
    ),
    Package(
        "@lobehub/fluent-emoji-anim-3",
        "1.0.0",
        "sha512-UzRSUDMjdfdt9vER5bhjHkPqgc3EEgfGtYs6ndvizOTvQOxYQ57ow2RTkWSDZxwW30X4EYBi2eWTS7CXDDoFsg==",
    ),
    Package(
        "@lobehub/fluent-emoji-anim-4",
        "1.0.0",
        "sha512-IIkl5ztSd1HrzvIDt/uGsFoC1WODXRdYq5uROrnkyqi9DbToEcJ1nlY86PnoUXeFS9nBCnHfiYk3ouSEGThFmA==",
    ),
)
NAMES = Package(
    "unicode-emoji-json",
    "0.9.0",
    "sha512-HdrQW/7SdbXUsTd8uTATv7LvQJkCSgbAgRCDCtOhQ6xn3EAx+xZHQtRniOXWJK3ywIqPegkNhP4U4EbuFsiQng==",
)
KEYWORDS = Package(
    "emojilib",
    "4.0.3",
    "sha512-KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
)


def default_work() -> Path:
    """The user's cache folder, so that nothing large lands in a checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vitascope" / "pocket"


def need_space(folder: Path, gib: float) -> None:
    """Stop before a disk runs full in the middle of something."""
    free = shutil.disk_usage(folder).free / (1 << 30)
    if free < gib:
        raise SystemExit(
            f"pocket: {folder} has {free:.1f} GiB free and {gib:g} are needed; use --work another folder"
        )


def fetch(work: Path, package: Package) -> Path:
    """Return the verified archive of a package, downloading it once by name."""
    work.mkdir(parents=True, exist_ok=True)
    archive = work / package.file
    if not archive.exists():
        need_space(work, 1)
        with tempfile.TemporaryDirectory(dir=work) as tmp:
            command = ["npm", "pack", "--silent", str(package)]
            try:
                subprocess.run(command, cwd=tmp, check=True, stdout=subprocess.DEVNULL)
                found = next(Path(tmp).glob("*.tgz"))
            except (OSError, subprocess.CalledProcessError, StopIteration) as error:
                raise SystemExit(f"pocket: `{' '.join(command)}` did not work: {error!r}") from error
            _verify(found, package)
            found.rename(archive)
    _verify(archive, package)
    return archive


def _verify(archive: Path, package: Package) -> None:
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    found = "sha512-" + base64.b64encode(digest).decode()
    if found != package.integrity:
        raise SystemExit(
            f"pocket: {archive} is not {package}: {found}, expected {package.integrity}; delete it and try again"
        )


@functools.cache
def pictures(archive: Path) -> dict[str, bytes]:
    """Every picture of an archive by its code points."""
    with tarfile.open(archive) as tar:
        return {
            Path(m.name).stem: tar.extractfile(m).read()  # type: ignore[union-attr]
            for m in tar.getmembers()
            if m.name.endswith(".webp")
        }


def member(archive: Path, name: str) -> bytes:
    """One file of an archive."""
    with tarfile.open(archive) as tar:
        file = tar.extractfile(name)
        if file is None:
            raise SystemExit(f"pocket: {archive} has no file {name}")
        return file.read()


def save_whole(path: Path, data: bytes) -> None:
    """Write under another name first: a kill leaves the old file whole."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)

"""Several storages as one: a file is where the first name of its key says. Knows nothing of who chooses a place, or when."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from vitascope.domain.bucket import KEYS_BEGIN

from .protocol import FileStat, Storage, StoredFile, check_key


class OtherPlaces(Protocol):
    """Places beside the server's own. To know which may fail with StorageUnavailable."""

    def open(self, name: str) -> Storage:
        """Open one by the first name of its keys. A StorageError: there is none."""

    def for_new_videos(self) -> str | None:
        """Name the one that new videos go to; None is the server's own."""

    def public_url_for(self, key: str) -> str | None:
        """Say where anyone can fetch a file, without opening its place: that takes a moment."""

    def names(self) -> Sequence[str]:
        """Name all that hold files, or may."""


class Places:
    """The server's own storage, and others whose keys begin with a name of theirs.

    Args:
        own: where all is that no other place has.
        others: asked at each call, so that a change takes effect everywhere at once.
    """

    def __init__(self, own: Storage, others: OtherPlaces) -> None:
        self._own = own
        self._others = others

    def _of(self, key: str) -> Storage:
        name = check_key(key).partition("/")[0]
        return self._others.open(name) if name.startswith(KEYS_BEGIN) else self._own

    def key_for_new(self, key: str) -> str:
        last = check_key(key).rpartition("/")[2]
        name = self._others.for_new_videos()
        return key if name is None else f"{name}/{last}"

    def elsewhere(self) -> Sequence[str]:
        return self._others.names()

    def put(self, path: Path, key: str) -> None:
        self._of(key).put(path, key)

    def put_bytes(self, data: bytes, key: str) -> None:
        self._of(key).put_bytes(data, key)

    def copy(self, source: str, key: str) -> None:
        here, there = self._of(source), self._of(key)
        if here is there:
            here.copy(source, key)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "copy"
            here.fetch(source, path)
            there.put(path, key)

    def open(self, key: str) -> BinaryIO:
        return self._of(key).open(key)

    def stat(self, key: str) -> FileStat:
        return self._of(key).stat(key)

    def read(self, key: str, start: int, end: int) -> Iterator[bytes]:
        yield from self._of(key).read(key, start, end)

    def path_for(self, key: str) -> Path | None:
        return self._of(key).path_for(key)

    def fetch(self, key: str, path: Path) -> None:
        self._of(key).fetch(key, path)

    def url_for(self, key: str, *, expires_seconds: int) -> str | None:
        return self._of(key).url_for(key, expires_seconds=expires_seconds)

    def public_url_for(self, key: str) -> str | None:
        is_other = check_key(key).startswith(KEYS_BEGIN)
        return self._others.public_url_for(key) if is_other else self._own.public_url_for(key)

    def delete(self, key: str) -> None:
        self._of(key).delete(key)

    def files_in(self, folder: str) -> Iterator[StoredFile]:
        yield from self._of(folder).files_in(folder)

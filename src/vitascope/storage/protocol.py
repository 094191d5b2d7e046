"""What every storage can do, and what a key is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from vitascope.domain.errors import StorageError, shorten

MAX_KEY_CHARS = 200

#: Names of our own making, joined by slashes. None starts with a dot, so there is no way up and nothing is hidden.
_KEY = re.compile(r"[a-z0-9_-][a-z0-9_.-]*(/[a-z0-9_-][a-z0-9_.-]*)*")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as a listing knows it."""

    key: str
    #: Time since it was written, by the wall clocks of whoever wrote it and of this machine.
    age_seconds: float


@dataclass(frozen=True, slots=True)
class FileStat:
    """What is known of a file without reading it."""

    num_bytes: int
    #: Aware UTC.
    written_at: datetime


class Storage(Protocol):
    """Files by key. A key is made by the server, such as `videos/3f/video_3f….mp4`, never by a client.

    Every method may raise StorageError: the key is not legal, or the storage did not do what was asked. It is a
    StorageUnavailable where the same call may succeed later. Calls may wait for a network: none belongs into an event loop.
    """

    def key_for_new(self, key: str) -> str:
        """Give the key that a new video's file is put under, from the one that it would have in a storage of a single place."""

    def elsewhere(self) -> Sequence[str]:
        """Name the folders whose files are in other places than the rest. Each is this database's alone."""

    def put(self, path: Path, key: str) -> None:
        """Take a finished file over: afterwards `path` is gone and `key` survives a crash of the machine.

        What `key` held before is replaced, and readers see either the one or the other whole. So a job that is run
        again may put its file again. A put that failed has left `path` as it was.
        """

    def put_bytes(self, data: bytes, key: str) -> None:
        """Keep a small file, such as a client's picture; else as `put`."""

    def copy(self, source: str, key: str) -> None:
        """Keep a file under a second key, however large it is; else as `put`. A source that is not there is a StorageError."""

    def open(self, key: str) -> BinaryIO:
        """Open a file for reading, seekable. The caller closes it. A file that is not there is a StorageError."""

    def stat(self, key: str) -> FileStat:
        """Tell how large a file is. One that is not there is a StorageError."""

    def read(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Read the bytes from `start` up to but without `end` in pieces, each when the caller asks for it."""

    def path_for(self, key: str) -> Path | None:
        """Say where the file is on this machine; None if it is elsewhere, which is said without looking.

        A file that is not there is a StorageError.
        """

    def fetch(self, key: str, path: Path) -> None:
        """Copy a file to this machine, whole. A file that is not there is a StorageError."""

    def url_for(self, key: str, *, expires_seconds: int) -> str | None:
        """Make an address from which anyone can GET the file for a while; None if the storage has no such thing."""

    def public_url_for(self, key: str) -> str | None:
        """Say where anyone can fetch the file for as long as it is there; None if it is nowhere public. Asks nobody whether it is."""

    def delete(self, key: str) -> None:
        """Remove a file. If it is not there, that is what was asked."""

    def files_in(self, folder: str) -> Iterator[StoredFile]:
        """List the files whose keys begin with `folder/`, in no order, reading on as the caller goes on.

        A file that comes or goes meanwhile may be left out or listed. What an interrupted `put` has left is listed under a
        key of its own, which continues that of the file it was to become, after a dot; if it can be seen at all.
        """


def check_key(key: str) -> str:
    """Give the key back if it is legal.

    Raises:
        StorageError: it is empty, too long, or holds more than lower-case names joined by slashes.
    """
    if not is_key(key):
        raise StorageError(f"{shorten(key)} is not a storage key")
    return key


def is_key(text: str) -> bool:
    """Whether it is a legal key."""
    return len(text) <= MAX_KEY_CHARS and _KEY.fullmatch(text) is not None

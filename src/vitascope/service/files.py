"""Files that clients upload once and name in later requests.

A file is put into the storage first and becomes a row then: a row that can be read has its file. An upload that was cut in between has left a
file without a row, which workers sweep after an hour; nobody was told its id. A file that is deleted, or whose time is over, is a marked row
first (from then on nobody gets it), and then gone from the storage: `Removal` does that again for whoever was killed before.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

from vitascope.domain.access import Caller
from vitascope.domain.errors import FileNotFound, InvalidParameter, StorageError, StorageUnavailable
from vitascope.domain.file import MAX_FILE_SECONDS, MIN_FILE_SECONDS, UPLOAD_PURPOSES, File, FilePage
from vitascope.storage import Storage
from vitascope.store import Store

from . import ids
from .inputs import Content, FileId, Sent

logger = logging.getLogger(__name__)

MAX_NAME_CHARS = 255

REMOVED_AT_ONCE = 100

FAILURES_AT_ONCE = 3
"""So many files in a row that cannot be deleted mean that the storage is away: the rest waits too."""

NO_SUCH_FILE = "no file has this id"


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was checked, and is nowhere yet."""

    file: File
    data: bytes


class Files:
    """Files of keys. Another's is an unknown one, but to operators.

    Args:
        store: where their rows are.
        storage: where they are.
        clock: the time now.
    """

    def __init__(self, store: Store, storage: Storage, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._storage = storage
        self._clock = clock

    def prepare(
        self, data: bytes, name: str, purpose: str, caller: Caller, expires_seconds: int | None = None
    ) -> Upload:
        """Check a file and give it an id. Reads all of it: not in an event loop if it is large.

        Args:
            data: what is in it; not looked at before a request names it.
            name: the client's word for it.
            purpose: what it is for.
            caller: whose it will be.
            expires_seconds: how long it is kept; None for as long as nobody deletes it, but a batch's for 30 days.

        Raises:
            InvalidParameter: one of these is not legal.
        """
        if len(name) > MAX_NAME_CHARS:
            rule = f"its name must have at most {MAX_NAME_CHARS} characters"
            raise InvalidParameter("file", f"named with {len(name)}", rule)
        if purpose not in UPLOAD_PURPOSES:
            raise InvalidParameter("purpose", purpose, f"it must be one of {', '.join(UPLOAD_PURPOSES)}")
        if expires_seconds is None and purpose == "batch":
            expires_seconds = MAX_FILE_SECONDS
        return self._made(data, name, purpose, caller.key_id, checked_seconds(expires_seconds))

    def _made(self, data: bytes, name: str, purpose: str, key_id: str, seconds: int | None) -> Upload:
        digest = hashlib.sha256(data).hexdigest()
        return Upload(self._described(name, purpose, key_id, seconds, len(data), digest), data)

    def take_over(self, path: Path, name: str, purpose: str, key_id: str, seconds: int) -> File:
        """Put a file that the server itself has written for a key into the storage; afterwards `path` is gone.

        Whoever makes it known does so in a transaction of its own. May wait for a network.

        Raises:
            StorageError: it could not be stored; `path` is as it was.
        """
        with path.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        file = self._described(name, purpose, key_id, seconds, path.stat().st_size, digest)
        self._storage.put(path, file.key)
        return file

    def _described(
        self, name: str, purpose: str, key_id: str, seconds: int | None, num_bytes: int, digest: str
    ) -> File:
        file_id, now = ids.new_id(), self._clock()
        return File(
            id=file_id,
            key_id=key_id,
            name=name,
            purpose=purpose,
            key=f"files/{file_id}",
            num_bytes=num_bytes,
            sha256=digest,
            created_at=now,
            expires_at=None if seconds is None else now + timedelta(seconds=seconds),
        )

    def check_room(self, upload: Upload, caller: Caller) -> None:
        """Find out quickly whether the caller has room for a file; `add` looks again.

        Raises:
            StorageLimitReached: it has not.
        """
        limit = caller.limits.max_storage_bytes
        if limit is not None:
            self._store.check_file_room(caller.key_id, limit, upload.file.num_bytes)

    def put(self, upload: Upload) -> None:
        """Store what is in a file, safe from a crash. May wait for a network."""
        self._storage.put_bytes(upload.data, upload.file.key)

    def add(self, upload: Upload, caller: Caller) -> File:
        """Make a file that was put known. When this returns, it is durable.

        Raises:
            StorageLimitReached: the caller has no room for it: `drop` it.
        """
        return self._store.add_file(upload.file, caller.limits.max_storage_bytes)

    def drop(self, upload: Upload) -> None:
        """Remove what was put and did not become known. May wait for a network."""
        self.remove(upload.file.key)

    def get(self, file_id: str, caller: Caller) -> File:
        """Return a file, or raise FileNotFound."""
        if not ids.is_id(file_id):
            raise FileNotFound
        return self._store.file(file_id, caller.owner)

    def page(
        self,
        caller: Caller,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        purpose: str | None = None,
    ) -> FilePage:
        """List files by age, of one purpose only or all.

        Raises:
            InvalidParameter: no file has the id `after`.
        """
        return self._store.file_page(
            after=after, limit=limit, order=order, purpose=purpose, owner=caller.owner
        )

    def delete(self, file_id: str, caller: Caller) -> str:
        """Give a file out no more; returns its key: hand it to `remove` once that is durable. Raises FileNotFound."""
        if not ids.is_id(file_id):
            raise FileNotFound
        return self._store.delete_file(file_id, caller.owner)

    def remove(self, key: str) -> None:
        """Delete from the storage what has no row, or a marked one. May wait for a network."""
        with contextlib.suppress(StorageError):  # it is given out no more, and others come by for it
            self._storage.delete(key)

    def read(self, file: File) -> bytes:
        """Read all of a file. May wait for a network.

        Raises:
            StorageError: it is gone.
            StorageUnavailable: the storage does not answer.
        """
        with self._storage.open(file.key) as opened:
            return opened.read()

    def read_own(self, file_id: str, caller: Caller) -> bytes:
        """Read all of a file of the caller's. May wait for a network.

        Raises:
            FileNotFound: there is none of that id; it may have been deleted while it was read.
            StorageError: it is gone although nobody has deleted it, or cannot be read.
            StorageUnavailable: the storage does not answer.
        """
        file = self.get(file_id, caller)
        try:
            return self.read(file)
        except StorageUnavailable:
            raise
        except StorageError:
            self.get(file_id, caller)  # a deleted one goes from the storage at once
            raise

    def looked_up(self, sent: Sent, caller: Caller) -> Sent:
        """Read the files that a request names by their ids. May wait for a network.

        Raises:
            InvalidParameter: no file of the caller's has this id.
        """

        def read(name: str, content: Content) -> Content:
            if not isinstance(content, FileId):
                return content
            try:
                return self.read_own(content.id, caller)
            except FileNotFound:
                raise InvalidParameter(name, content.shown, NO_SUCH_FILE) from None

        return sent.mapped(read)


def checked_seconds(seconds: int | None) -> int | None:
    """Return how long a file shall be kept, if that is legal; raises InvalidParameter."""
    if seconds is not None and not MIN_FILE_SECONDS <= seconds <= MAX_FILE_SECONDS:
        rule = f"its seconds must be from {MIN_FILE_SECONDS} to {MAX_FILE_SECONDS}"
        nearest = min(max(seconds, MIN_FILE_SECONDS), MAX_FILE_SECONDS)
        raise InvalidParameter("expires_after", seconds, rule, nearest=nearest)
    return seconds


class DoomedFiles(Protocol):
    """What a removal needs of the store."""

    def files_to_remove(self, max_files: int) -> Mapping[str, str]: ...

    def files_removed(self, file_ids: Collection[str]) -> None: ...


class DeletingStorage(Protocol):
    """What a removal needs of the storage."""

    def delete(self, key: str) -> None: ...


class Removal:
    """Deletes from the storage files that were deleted or whose time is over. Any number of processes may do so at the same time.

    Args:
        store: knows which.
        storage: has them.
    """

    def __init__(self, store: DoomedFiles, storage: DeletingStorage) -> None:
        self._store = store
        self._storage = storage
        #: Files that could not be deleted the last time.
        self._failed: set[str] = set()

    def advance(self) -> bool:
        """Delete some. Returns whether there may be more to do at once.

        Raises:
            StoreUnavailable: they come again.
        """
        gone = self._deleted(self._store.files_to_remove(REMOVED_AT_ONCE))
        if gone:
            self._store.files_removed(gone)
        return len(gone) == REMOVED_AT_ONCE

    def _deleted(self, found: Mapping[str, str]) -> list[str]:
        """Delete files; returns the ids of those that are gone."""
        gone: list[str] = []
        failed: set[str] = set()
        failures = 0
        # last those that could not be deleted the last time: some never can, and would keep the others from their turn for ever
        for file_id in sorted(found, key=lambda one: one in self._failed):
            if failures == FAILURES_AT_ONCE:
                break
            try:
                self._storage.delete(found[file_id])
            except StorageError as error:
                failures += 1
                failed.add(file_id)
                logger.warning("a file could not be removed: %s", error.message)
            else:
                failures = 0
                gone.append(file_id)
        self._failed = failed | (self._failed & set(found)).difference(gone)
        return gone

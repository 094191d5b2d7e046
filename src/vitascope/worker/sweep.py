"""Removing files that nobody needs: what a crash, or a delete that failed, left in the storage."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, islice
from typing import BinaryIO, Protocol

from vitascope.domain.errors import StorageError, StorageUnavailable, StoreUnavailable
from vitascope.storage import StoredFile

logger = logging.getLogger(__name__)

FOLDERS = ("inputs", "videos", "files", "characters")
"""Where jobs' files are, and what clients have uploaded."""

MARKER = "deployment"
"""Key of the file that names the database whose files these are."""

PASS_SECONDS = 3600.0
"""How often all files are looked at."""

LEAST_AGE_SECONDS = 3600.0
"""A younger file may belong to a job that is about to be stored, or to end."""

FILES_AT_ONCE = 200
"""A job may be waiting for this worker. Measured with SQLite on two busy cores: 31 ms for so many."""


class Owners(Protocol):
    """What the sweep needs of the store."""

    def deployment_id(self) -> str: ...

    def unowned(self, keys: Collection[str]) -> set[str]: ...


class SweptFiles(Protocol):
    """What the sweep needs of the storage."""

    def files_in(self, folder: str) -> Iterator[StoredFile]: ...

    def open(self, key: str) -> BinaryIO: ...

    def put_bytes(self, data: bytes, key: str) -> None: ...

    def delete(self, key: str) -> None: ...


class Sweep:
    """Looks at all files once an hour, some at each call. Any number of workers may do so at the same time.

    Args:
        store: knows who needs what.
        files: the storage.
    """

    def __init__(self, store: Owners, files: SweptFiles) -> None:
        self._store = store
        self._files = files
        self._next_pass_at = float("-inf")
        self._listing: Iterator[StoredFile] | None = None

    def advance(self) -> None:
        """Look at some files and remove those that no job needs. Call it often, but not while a job waits for it.

        Raises:
            StoreUnavailable: nothing was removed; the next pass will see these files again.
        """
        try:
            keys = [file.key for file in self._next() if file.age_seconds >= LEAST_AGE_SECONDS]
            for key in self._store.unowned(keys) if keys else ():
                self._files.delete(key)
                logger.info("removed a file that no job needs", extra={"key": key})
        except StorageError as error:
            logger.warning("files that no job needs could not be removed: %s", error.message)
            self._listing = None

    def _next(self) -> list[StoredFile]:
        if self._listing is None:
            if time.monotonic() < self._next_pass_at:
                return []
            self._next_pass_at = time.monotonic() + PASS_SECONDS
            if not self._is_ours():
                return []
            self._listing = chain.from_iterable(self._files.files_in(folder) for folder in FOLDERS)
        some = list(islice(self._listing, FILES_AT_ONCE))
        if len(some) < FILES_AT_ONCE:
            self._listing = None
        return some

    def _is_ours(self) -> bool:
        """Whether these are the files of this very database: to another one they would all seem to be nobody's."""
        own = self._store.deployment_id()
        try:
            with self._files.open(MARKER) as file:
                found = file.read(1000).decode("ascii", errors="replace")
        except StorageUnavailable:
            raise  # it may be there all the same, and another database's
        except StorageError:  # nobody has written it yet
            self._files.put_bytes(own.encode("ascii"), MARKER)
            return True
        if found != own:
            logger.warning(
                "the storage holds files of another database: none are removed", extra={"key": MARKER}
            )
        return found == own


class FilesElsewhere(Protocol):
    """What the sweep of other places needs of the storage."""

    def elsewhere(self) -> Sequence[str]: ...

    def files_in(self, folder: str) -> Iterator[StoredFile]: ...

    def delete(self, key: str) -> None: ...


class SweepElsewhere:
    """Does the same once an hour in the folders that are in other places than the rest.

    In a thread of its own: one of those places may be away for good, and no job waits for it.

    Args:
        store: knows who needs what.
        files: the storage.
    """

    def __init__(self, store: Owners, files: FilesElsewhere) -> None:
        self._store = store
        self._files = files
        self._next_pass_at = float("-inf")
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin a pass if it is time for one. Call it often."""
        if time.monotonic() < self._next_pass_at or (self._thread is not None and self._thread.is_alive()):
            return
        self._next_pass_at = time.monotonic() + PASS_SECONDS
        self._thread = threading.Thread(target=self.sweep, name="sweep", daemon=True)
        self._thread.start()

    def sweep(self) -> None:
        """Look at all files of all other places; what cannot be done now, the next pass does."""
        try:
            for folder in self._files.elsewhere():
                self._sweep_folder(folder)
        except (StorageError, StoreUnavailable) as error:
            logger.warning("files that no job needs were not looked for: %s", error.message)
        except Exception:  # the thread's end must not be silent
            logger.exception("files that no job needs were not looked for")

    def _sweep_folder(self, folder: str) -> None:
        try:
            listing = self._files.files_in(folder)
            while some := list(islice(listing, FILES_AT_ONCE)):
                old = [file.key for file in some if file.age_seconds >= LEAST_AGE_SECONDS]
                for key in self._store.unowned(old) if old else ():
                    self._files.delete(key)
                    logger.info("removed a file that no job needs", extra={"key": key})
        except StorageError as error:
            extra = {"key": folder}
            logger.warning("files that no job needs could not be removed: %s", error.message, extra=extra)

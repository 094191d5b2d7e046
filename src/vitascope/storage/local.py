"""Files in one folder of this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from vitascope.domain.errors import StorageError

from .protocol import FileStat, StoredFile, check_key, is_key

READ_BYTES = 256 * 1024
"""Pieces of a file that is read: many enough that a slow reader costs little memory."""


class LocalStorage:
    """A folder whose tree is the keys. It is made at the first `put`.

    Nothing else should write there. Folders that became empty stay: removing one could meet a `put` that needs it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def key_for_new(self, key: str) -> str:
        return check_key(key)

    def elsewhere(self) -> tuple[str, ...]:
        return ()

    def put(self, path: Path, key: str) -> None:
        target = self._target(key)
        with _storing(key):
            if not path.is_file():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            _make_folder(target.parent)
            _flush(path)
            try:
                path.replace(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                with _replacing(target) as temporary:  # renaming cannot cross file systems
                    shutil.copyfile(path, temporary)
                path.unlink()
            _flush(target.parent)

    def put_bytes(self, data: bytes, key: str) -> None:
        target = self._target(key)
        with _storing(key):
            _make_folder(target.parent)
            with _replacing(target) as temporary:
                temporary.write_bytes(data)

    def copy(self, source: str, key: str) -> None:
        found, target = self.path_for(source), self._target(key)
        with _storing(key):
            _make_folder(target.parent)
            with _replacing(target) as temporary:
                shutil.copyfile(found, temporary)

    def open(self, key: str) -> BinaryIO:
        with _storing(key):
            return self._target(key).open("rb")

    def stat(self, key: str) -> FileStat:
        found = self.path_for(key)
        with _storing(key):
            status = found.stat()
        return FileStat(status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def read(self, key: str, start: int, end: int) -> Iterator[bytes]:
        with self.open(key) as file, _storing(key):
            file.seek(start)
            while start < end and (piece := file.read(min(READ_BYTES, end - start))):
                start += len(piece)
                yield piece

    def fetch(self, key: str, path: Path) -> None:
        target = self._target(key)
        with _storing(key):
            shutil.copyfile(target, path)

    def path_for(self, key: str) -> Path:
        target = self._target(key)
        with _storing(key):
            if not target.is_file():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return target

    def url_for(self, key: str, *, expires_seconds: int) -> str | None:
        check_key(key)
        return None

    def public_url_for(self, key: str) -> str | None:
        check_key(key)
        return None

    def delete(self, key: str) -> None:
        target = self._target(key)
        with _storing(key), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            target.unlink()
            _flush(target.parent)

    def files_in(self, folder: str) -> Iterator[StoredFile]:
        top = self._target(folder)
        with _storing(folder), contextlib.suppress(FileNotFoundError):
            for entry in _files_below(top):
                key = Path(entry.path).relative_to(self._folder).as_posix()
                with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                    written_at = entry.stat(follow_symlinks=False).st_mtime
                    if is_key(key):
                        yield StoredFile(key, datetime.now(UTC).timestamp() - written_at)

    def _target(self, key: str) -> Path:
        return self._folder / check_key(key)


@contextlib.contextmanager
def _storing(key: str) -> Iterator[None]:
    """Say what the system's errors mean. Messages name the key, never a path."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise StorageError(f"there is no file `{key}`") from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError("the disk is full", hint="free some space in the data folder") from error
        hint = "check the permissions of the data folder"
        raise StorageError(f"the file `{key}` could not be reached", hint=hint) from error


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each name safely on the disk."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        _flush(new.parent)


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`, which it becomes once it is written and on the disk."""
    # a key too, so that it can be found and deleted if this process is killed
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush(target.parent)


def _files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Walk as the caller goes on: a folder of a million files is not read at once."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    yield from _files_below(Path(entry.path))
            else:
                yield entry


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

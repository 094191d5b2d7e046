"""A disk that remembers: every write and every sync that SQLite makes in this process, in their order.

From that it can tell what a power cut at any moment may leave: what was synced is there; of what came after a file's last
sync any part may be missing, in any order, down to single sectors.

SQLite reaches the disk through a table of functions (its VFS); those that write, truncate and sync are replaced by ours, which
call the originals and take notes. Source: https://www.sqlite.org/c3ref/vfs.html and https://www.sqlite.org/c3ref/io_methods.html.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import random
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SECTOR = 512
"""What a disk writes whole or not at all. Newer disks have 4,096; the smaller one tears more."""

Survival = Literal["all", "none", "prefix", "any", "torn"]
SURVIVALS: tuple[Survival, ...] = ("all", "none", "prefix", "any", "torn")


@dataclass(frozen=True, slots=True)
class Write:
    name: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    name: str


@dataclass(frozen=True, slots=True)
class Told:
    """Something that a client was told at this moment."""

    job_id: str
    fact: str


Note = Write | Truncate | Sync | Told


class NotWatchable(Exception):
    """This Python has SQLite built in, where its functions cannot be reached."""


class Disk:
    """Takes notes of the files in one folder while `watching`."""

    def __init__(self, folder: Path) -> None:
        self.notes: list[Note] = []
        self._prefix = f"{folder.resolve()}/"
        self._lock = threading.Lock()

    def tell(self, job_id: str, fact: str) -> None:
        with self._lock:
            self.notes.append(Told(job_id, fact))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch all connections that are opened meanwhile.

        Raises:
            NotWatchable: they cannot be watched here.
        """
        vfs = _default_vfs()
        original = vfs.xOpen
        hooks = _Hooks(self, original)
        vfs.xOpen = ctypes.cast(hooks.on_open, ctypes.c_void_p).value
        try:
            _check(hooks)
            yield
        finally:
            vfs.xOpen = original

    def wants(self, path: str) -> bool:
        return path.startswith(self._prefix)

    def note(self, make: type[Any], path: str, *values: Any) -> None:
        self.notes.append(make(path.removeprefix(self._prefix), *values))

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Keep what threads do in the order in which it is noted."""
        with self._lock:
            yield


@dataclass
class Image:
    """What is on the disk at some moment: what is sure, and what came after the last sync."""

    sure: dict[str, bytearray]
    unsure: list[Write | Truncate]

    def advance(self, note: Note) -> None:
        """Go one note further."""
        if isinstance(note, (Write, Truncate)):
            self.unsure.append(note)
        elif isinstance(note, Sync):
            kept: list[Write | Truncate] = []
            for earlier in self.unsure:
                if earlier.name == note.name:
                    _apply(self.sure, earlier)
                else:
                    kept.append(earlier)
            self.unsure = kept

    def cut(self, survival: Survival, rng: random.Random) -> dict[str, bytearray]:
        """Return the files as a power cut now may leave them."""
        files = {name: bytearray(content) for name, content in self.sure.items()}
        for note in self._surviving(survival, rng):
            _apply(files, note)
        return files

    def _surviving(self, survival: Survival, rng: random.Random) -> Iterator[Write | Truncate]:
        if survival == "all":
            yield from self.unsure
        elif survival == "prefix":
            yield from self.unsure[: rng.randint(0, len(self.unsure))]
        elif survival == "any":
            yield from (note for note in self.unsure if rng.random() < 0.5)
        elif survival == "torn":
            for note in self.unsure:
                if isinstance(note, Write):
                    yield from (part for part in _sectors(note) if rng.random() < 0.5)
                elif rng.random() < 0.5:
                    yield note


def _sectors(write: Write) -> Iterator[Write]:
    start = 0
    while start < len(write.data):
        end = min(len(write.data), start + SECTOR - (write.offset + start) % SECTOR)
        yield Write(write.name, write.offset + start, write.data[start:end])
        start = end


def _apply(files: dict[str, bytearray], note: Write | Truncate) -> None:
    content = files.setdefault(note.name, bytearray())
    if isinstance(note, Truncate):
        del content[note.size :]
        return
    if len(content) < note.offset:
        content.extend(bytes(note.offset - len(content)))
    content[note.offset : note.offset + len(note.data)] = note.data


# SQLite's structures, as far as they are needed


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("iVersion", ctypes.c_int),
        ("szOsFile", ctypes.c_int),
        ("mxPathname", ctypes.c_int),
        ("pNext", ctypes.c_void_p),
        ("zName", ctypes.c_void_p),
        ("pAppData", ctypes.c_void_p),
        ("xOpen", ctypes.c_void_p),
    ]


class _Methods(ctypes.Structure):
    _fields_ = [
        ("iVersion", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("xClose", "xRead", "xWrite", "xTruncate", "xSync")),
        ("others", ctypes.c_void_p * 13),
    ]


class _File(ctypes.Structure):
    _fields_ = [("methods", ctypes.POINTER(_Methods))]


_OPEN = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 3, ctypes.c_int, ctypes.c_void_p)
_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


def _default_vfs() -> _Vfs:
    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    try:
        find = library.sqlite3_vfs_find
    except AttributeError:
        raise NotWatchable from None
    find.restype = ctypes.POINTER(_Vfs)
    find.argtypes = [ctypes.c_char_p]
    vfs: _Vfs = find(None).contents
    return vfs


def _check(hooks: _Hooks) -> None:
    """Open a database, to see whether our functions are called."""
    with tempfile.TemporaryDirectory() as folder, closing(sqlite3.connect(f"{folder}/probe")) as probe:
        probe.execute("CREATE TABLE t (x)")
    if hooks.num_opened == 0:
        raise NotWatchable


class _Hooks:
    """Functions that SQLite calls in place of its own. Keep the object as long as a connection is open."""

    def __init__(self, disk: Disk, original_open: int) -> None:
        self.num_opened = 0
        self._disk = disk
        self._open = _OPEN(original_open)
        self._paths: dict[int, str] = {}
        self._tables: dict[int, tuple[_Methods, Any, Any, Any]] = {}
        self.on_open = _OPEN(self._on_open)

    def _on_open(self, vfs: int, name: int, file: int, flags: int, out: int) -> int:
        status: int = self._open(vfs, name, file, flags, out)
        self.num_opened += 1
        path = ctypes.string_at(name).decode() if name else ""
        if status == 0 and self._disk.wants(path):
            handle = _File.from_address(file)
            self._paths[file] = path
            handle.methods = ctypes.pointer(self._watched(handle.methods))
        return status

    def _watched(self, original: Any) -> _Methods:
        """Copy a file's functions, with ours among them; one copy for all files that have the same."""
        address = ctypes.addressof(original.contents)
        if address not in self._tables:
            copy = _Methods.from_buffer_copy(original.contents)
            ours = (
                _WRITE(self._writer(_WRITE(copy.xWrite))),
                _TRUNCATE(self._truncater(_TRUNCATE(copy.xTruncate))),
                _SYNC(self._syncer()),
            )
            copy.xWrite, copy.xTruncate, copy.xSync = (
                ctypes.cast(function, ctypes.c_void_p).value for function in ours
            )
            self._tables[address] = (copy, *ours)
        return self._tables[address][0]

    def _writer(self, original: Any) -> Any:
        def write(file: int, data: int, size: int, offset: int) -> int:
            with self._disk.one_at_a_time():
                status: int = original(file, data, size, offset)
                if status == 0:
                    self._disk.note(Write, self._paths[file], offset, ctypes.string_at(data, size))
            return status

        return write

    def _truncater(self, original: Any) -> Any:
        def truncate(file: int, size: int) -> int:
            with self._disk.one_at_a_time():
                status: int = original(file, size)
                if status == 0:
                    self._disk.note(Truncate, self._paths[file], size)
            return status

        return truncate

    def _syncer(self) -> Any:
        def sync(file: int, _flags: int) -> int:
            with self._disk.one_at_a_time():
                self._disk.note(Sync, self._paths[file])
            return 0  # what would be waited for is simulated

        return sync

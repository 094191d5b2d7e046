"""All that is particular to SQLite.

One file, many processes: WAL, so that readers and the one writer do not wait for each other; BEGIN IMMEDIATE for writers,
so that a transaction which will write waits for its turn at its start and not in its middle, where it could only fail.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from vitascope.domain.errors import SettingsError, StoreUnavailable

BUSY_SECONDS = 10.0
"""How long a writer waits for its turn. Writes take milliseconds; only a disk that hangs takes longer than this."""


class SqliteDatabase:
    """See `database.Database`."""

    has_quick_reads = True

    def __init__(self, url: sa.URL) -> None:
        self._path = _usable_path(url)
        self._reads = _engine(url, "BEGIN", "PRAGMA query_only = ON")
        self._writes = _engine(url, "BEGIN IMMEDIATE", "PRAGMA synchronous = FULL")
        self._soon = _engine(url, "BEGIN IMMEDIATE", "PRAGMA synchronous = NORMAL")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        with _translated(), self._reads.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        with _translated(), self._writes.begin() as connection:
            yield connection

    @contextmanager
    def write_soon(self) -> Iterator[sa.Connection]:
        with _translated(), self._soon.begin() as connection:
            yield connection

    @contextmanager
    def upgrade_lock(self) -> Iterator[None]:
        # a lock file, because switching to WAL does not wait for other processes but fails
        try:
            with self._path.with_name(self._path.name + ".lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._switch_to_wal()
                yield
        except OSError as error:
            raise SettingsError(f"the database `{self._path}` cannot be opened: {error.strerror}") from None
        except (sqlite3.DatabaseError, DatabaseError, StoreUnavailable) as error:
            cause = getattr(error.__cause__ or error, "orig", error)
            raise SettingsError(f"the database `{self._path}` cannot be opened: {cause}") from None

    def _switch_to_wal(self) -> None:
        with self._writes.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            mode = driver.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise SettingsError(
                f"the database `{self._path}` is on a disk that cannot hold it (no shared memory)"
            )

    def close(self) -> None:
        for engine in (self._reads, self._writes, self._soon):
            engine.dispose()


def _usable_path(url: sa.URL) -> Path:
    if url.database is None or url.database in ("", ":memory:") or url.database.startswith("file:"):
        hint = "write sqlite:///PATH"
        raise SettingsError("the database must be a file: several processes share it", hint=hint)
    path = Path(url.database).absolute()
    if not path.parent.is_dir():
        raise SettingsError(f"the folder of the database `{path}` does not exist", hint="create it first")
    if path.is_dir():
        raise SettingsError(f"the database `{path}` is a folder", hint="name a file in it")
    return path


def _engine(url: sa.URL, begin: str, pragma: str) -> sa.Engine:
    engine = sa.create_engine(
        url,
        poolclass=QueuePool,
        pool_size=2,
        max_overflow=14,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @sa.event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver begins nothing on its own: `begin` below does
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(pragma)

    @sa.event.listens_for(engine, "begin")
    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


@contextmanager
def _translated() -> Iterator[None]:
    """A locked file, a full disk, a file that is gone: tell them in our words."""
    try:
        yield
    except OperationalError as error:
        raise StoreUnavailable(f"the job store does not answer ({error.orig})") from error

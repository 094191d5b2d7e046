"""All that is particular to SQLite.

One file, many processes: WAL, so that readers and the one writer do not wait for each other; BEGIN IMMEDIATE for writers,
so that a transaction which will write waits for its turn at its start and not in its middle, where it could only fail.
All processes are on one machine: WAL needs memory that they share.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from vitascope.domain.errors import SettingsError, StorageError, StoreUnavailable

from .clock import MachineClock
from .filesystem import network_kind
from .writes import Writes

BUSY_SECONDS = 10.0
"""How long a writer waits for its turn. Writes take milliseconds; only a disk that hangs takes longer than this."""

LOOK_SECONDS = 0.02
"""How often it is looked for changes where the system does not tell of writes,"""

HEARING_LOOK_SECONDS = 1.0
"""and how often where it does."""

COMMIT_SECONDS, COMMIT_LOOK_SECONDS = 0.05, 0.002
"""For so long after a write it is looked more often, at first this often: the change can be seen when the disk has it."""

DEAF_AFTER = 3
"""So many changes of which nothing was heard, one after the other, and nothing more is expected."""


class SqliteDatabase:
    """See `database.Database`."""

    has_quick_reads = True

    def __init__(self, url: sa.URL, clock: MachineClock | None = None) -> None:
        self._path = _usable_path(url)
        self._clock = clock or MachineClock()
        # each statement is its own transaction: BEGIN and COMMIT would cost a point read more than the reading
        self._reads = _engine(url, None, "PRAGMA query_only = ON")
        self._writes = _engine(url, "BEGIN IMMEDIATE", "PRAGMA synchronous = FULL")
        self._soon = _engine(url, "BEGIN IMMEDIATE", "PRAGMA synchronous = NORMAL")
        self._group = threading.local()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        with _translated(), self._reads.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        with _translated(), self._transaction(self._writes) as connection:
            yield connection

    @contextmanager
    def write_soon(self) -> Iterator[sa.Connection]:
        with _translated(), self._transaction(self._soon) as connection:
            yield connection

    @contextmanager
    def _transaction(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        shared: sa.Connection | None = getattr(self._group, "connection", None)
        if shared is None:
            with engine.begin() as connection:
                yield connection
        else:
            with shared.begin_nested():
                yield shared

    @contextmanager
    def together(self) -> Iterator[None]:
        with _translated(), self._writes.begin() as connection:
            self._group.connection = connection
            try:
                yield
            finally:
                self._group.connection = None

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

    def start_clock(self) -> None:
        with self.read() as connection:
            is_known = self._clock.join(connection)
        if not is_known:
            with self.write() as connection:
                self._clock.found(connection)

    def lease_time(self, connection: sa.Connection) -> datetime:
        return self._clock.now()

    def lock_queue(self, connection: sa.Connection) -> None:
        """Do nothing: there is one writer at a time."""

    def tell_watchers(self, connection: sa.Connection) -> None:
        """Do nothing: they see any change."""

    def watch_jobs(self) -> Changes:
        return Changes(self._path)

    def lock_claims(self, connection: sa.Connection) -> None:
        """Do nothing: there is one writer at a time."""

    def problems(self) -> list[str]:
        self._must_exist()
        try:
            with self._driver() as driver:
                found = [row[0] for row in driver.execute("PRAGMA integrity_check")]
                orphans = driver.execute("PRAGMA foreign_key_check").fetchall()
        except (sqlite3.DatabaseError, DatabaseError) as error:
            return [str(getattr(error, "orig", error))]
        found += [f"row {row[1]} of `{row[0]}` belongs to nothing" for row in orphans]
        return [line for line in found if line != "ok"]

    def backup(self, path: Path) -> None:
        self._must_exist()
        if path.exists():
            raise SettingsError(f"`{path}` exists already", hint="name a file that does not")
        part = path.with_name(path.name + ".part")
        try:
            os.close(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))  # prompts are in it
            self._copy_to(part)
            part.rename(path)
        except OSError as error:
            raise StorageError(f"the backup `{path}` cannot be written: {error.strerror}") from None
        except (sqlite3.DatabaseError, DatabaseError) as error:
            raise StorageError(
                f"the backup `{path}` cannot be made: {getattr(error, 'orig', error)}"
            ) from None
        finally:
            part.unlink(missing_ok=True)

    def _copy_to(self, path: Path) -> None:
        """Copy everything that is committed now, in one go: writers do not wait, and nothing of theirs gets in."""
        with contextlib.closing(sqlite3.connect(path)) as copy:
            with self._driver() as driver:
                driver.backup(copy, pages=-1)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, that needs no other
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def _must_exist(self) -> None:
        if not self._path.exists():
            raise SettingsError(
                f"there is no database `{self._path}`", hint="`vitascope db upgrade` makes it"
            )

    @contextmanager
    def _driver(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection for what only the driver can do."""
        with self._reads.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            yield driver

    def close(self) -> None:
        for engine in (self._reads, self._writes, self._soon):
            engine.dispose()


class Changes:
    """Whether anybody has changed anything.

    The system tells of writes, where it can; that a write was committed shows in the number of the file's version, a little later.
    Reading that costs 10 µs, but a process that does it all the time is never idle: with 200 times a second it took 5 % of a core.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._driver: sqlite3.Connection | None = None
        self._version: int | None = None
        self._writes: Writes | None = None
        with contextlib.suppress(OSError):  # the system has no more to give, or is another one
            self._writes = Writes(Path(f"{path.resolve()}-wal"))
        self._written_at = float("-inf")
        #: Changes one after the other that came without a write.
        self._num_unheard = 0

    @property
    def look_seconds(self) -> float:
        if self._writes is None:
            return LOOK_SECONDS
        since = time.monotonic() - self._written_at
        return max(COMMIT_LOOK_SECONDS, since / 2) if since < COMMIT_SECONDS else HEARING_LOOK_SECONDS

    def fileno(self) -> int | None:
        return None if self._writes is None else self._writes.fileno()

    def has_come(self) -> bool:
        has_changed = self._has_changed()
        self._hear(has_changed)
        return has_changed

    def _has_changed(self) -> bool:
        try:
            if self._driver is None:
                self._driver = sqlite3.connect(self._path, timeout=0.0, check_same_thread=False)
            version = self._driver.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:
            return False
        before, self._version = self._version, version
        return bool(version != before)

    def _hear(self, has_changed: bool) -> None:
        """Take what was told of writes; on a file system where nothing is told, do without."""
        if self._writes is None:
            return
        if self._writes.have_come():
            self._written_at = time.monotonic()
            self._num_unheard = 0
        elif has_changed:
            is_heard = self._written_at > float("-inf")
            self._written_at = float("-inf")  # that was it; the next one is heard of
            self._num_unheard = 0 if is_heard else self._num_unheard + 1
            if self._num_unheard > DEAF_AFTER:
                self._writes.close()
                self._writes = None

    def close(self) -> None:
        if self._driver is not None:
            self._driver.close()
        if self._writes is not None:
            self._writes.close()


def _usable_path(url: sa.URL) -> Path:
    if url.database is None or url.database in ("", ":memory:") or url.database.startswith("file:"):
        hint = "write sqlite:///PATH"
        raise SettingsError("the database must be a file: several processes share it", hint=hint)
    path = Path(url.database).absolute()
    if not path.parent.is_dir():
        raise SettingsError(f"the folder of the database `{path}` does not exist", hint="create it first")
    if path.is_dir():
        raise SettingsError(f"the database `{path}` is a folder", hint="name a file in it")
    if (kind := network_kind(path)) is not None:
        message = f"the database `{path}` is on a network file system ({kind}), where it would be damaged"
        raise SettingsError(message, hint="keep it on a disk of this machine, or use PostgreSQL")
    return path


def _engine(url: sa.URL, begin: str | None, pragma: str) -> sa.Engine:
    engine = sa.create_engine(
        url,
        poolclass=QueuePool,
        # what has not begun needs no end
        pool_reset_on_return=None if begin is None else "rollback",
        pool_size=2,
        max_overflow=14,
        hide_parameters=True,  # prompts are among them: not in the log, nor in an error that gets there
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @sa.event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver begins nothing on its own: `begin` below does
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(pragma)

    if begin is not None:

        @sa.event.listens_for(engine, "begin")
        def start(connection: sa.Connection) -> None:
            connection.exec_driver_sql(begin)

    return engine


@contextmanager
def _translated() -> Iterator[None]:
    """A locked file, a full disk, a file that is gone or damaged: tell them in our words."""
    try:
        yield
    except DatabaseError as error:
        # a damaged file is the root of the driver's errors itself; the other branches are mistakes of ours
        if isinstance(error, OperationalError) or type(error) is DatabaseError:
            raise StoreUnavailable(f"the job store does not answer ({error.orig})") from error
        raise
    except PoolTimeout as error:
        raise StoreUnavailable("the job store does not answer (too many at once)") from error

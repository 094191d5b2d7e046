"""What the store needs of a database, and which databases there are."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from vitascope.domain.errors import SettingsError

from .postgresql import PostgresqlDatabase
from .sqlite import SqliteDatabase

HINT = "write sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE"


class JobNews(Protocol):
    """Tells who waits for something that it is worth to look: a hint only, as it may be wrong and may be missing.

    Who waits asks `has_come`, then waits until `fileno` can be read from, but not for longer than `look_seconds`, and asks again.
    """

    @property
    def look_seconds(self) -> float:
        """How long who waits may leave it unasked."""

    def fileno(self) -> int | None:
        """A descriptor that can be read from when it is worth to ask; None where there is none now. Another one after each asking."""

    def has_come(self) -> bool:
        """Whether jobs may have been added or have ended since this was last asked; costs some microseconds. Raises nothing."""

    def close(self) -> None:
        """Give its connection back."""


class Database(Protocol):
    """Connections to one database, each in a transaction that commits when its block ends without an error.

    All methods raise StoreUnavailable when the database does not answer; they work again once it does.
    """

    #: Whether a point read is so quick that an event loop may wait for it.
    has_quick_reads: bool

    def read(self) -> AbstractContextManager[sa.Connection]:
        """Write nothing. Each statement sees a consistent state; two of them may see different ones."""

    def write(self) -> AbstractContextManager[sa.Connection]:
        """Write what clients are told: durable when the block has ended."""

    def write_soon(self) -> AbstractContextManager[sa.Connection]:
        """Write what may be lost if the whole machine goes down, with workers and clients' connections.

        Cheaper where one writer's waiting for the disk keeps others waiting.
        """

    def start_clock(self) -> None:
        """Make `lease_time` ready; called once there are tables."""

    def lease_time(self, connection: sa.Connection) -> datetime:
        """Tell the instant by which leases are measured: one clock for all processes, whatever their own clocks say."""

    def lock_queue(self, connection: sa.Connection) -> None:
        """Let nobody else add jobs until the transaction ends.

        So the limit of the queue is exact, and jobs become visible in the order of their numbers. Who watches hears of
        the commit.
        """

    def tell_watchers(self, connection: sa.Connection) -> None:
        """Let who watches hear of the commit: a job has ended."""

    def watch_jobs(self) -> JobNews:
        """Hear of jobs that are added or have ended, by any process; for one caller at a time."""

    def lock_claims(self, connection: sa.Connection) -> None:
        """Let nobody else choose a job until the transaction ends: each choice counts in the next one."""

    def together(self) -> AbstractContextManager[None]:
        """Make one transaction of all `write` and `write_soon` blocks of this thread: each commits or fails with it.

        A block that ends with an error undoes only its own changes. Where commits of several connections share their
        waiting for the disk anyway, this does nothing.
        """

    def upgrade_lock(self) -> AbstractContextManager[None]:
        """Keep other processes from upgrading the schema at the same time.

        Raises:
            SettingsError: the database cannot be used as it is, or not by us.
        """

    def problems(self) -> list[str]:
        """Look for damage, as far as the database can tell.

        Raises:
            SettingsError: there is no database.
        """

    def backup(self, path: Path) -> None:
        """Copy the database, as it is at one moment, to a new file while others work with it.

        Raises:
            SettingsError: there is no database, the file exists already, or the database has a tool of its own for this.
            StorageError: the file cannot be written.
        """

    def close(self) -> None:
        """Close all connections."""


def connect(url: str) -> Database:
    """Open the database at a SQLAlchemy URL.

    Raises:
        SettingsError: the URL cannot be used.
    """
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        # the URL may hold a password: do not show it
        raise SettingsError("the store's URL cannot be read", hint=HINT) from None
    match parsed.drivername:
        case "sqlite" | "sqlite+pysqlite":
            return SqliteDatabase(parsed)
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return PostgresqlDatabase(parsed)
    raise SettingsError(f"a store of the kind `{parsed.drivername}` is not supported", hint=HINT)

"""What the store needs of a database, and which databases there are."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from vitascope.domain.errors import SettingsError

from .sqlite import SqliteDatabase


class Database(Protocol):
    """Connections to one database, each in a transaction that commits when its block ends without an error.

    All three raise StoreUnavailable when the database does not answer.
    """

    #: Whether a point read is so quick that an event loop may wait for it.
    has_quick_reads: bool

    def read(self) -> AbstractContextManager[sa.Connection]:
        """See one consistent state; write nothing."""

    def write(self) -> AbstractContextManager[sa.Connection]:
        """Write what clients are told: durable when the block has ended."""

    def write_soon(self) -> AbstractContextManager[sa.Connection]:
        """Write what a power cut may take back, such as progress: cheaper, as nothing waits for the disk."""

    def upgrade_lock(self) -> AbstractContextManager[None]:
        """Keep other processes from upgrading the schema at the same time."""

    def close(self) -> None:
        """Close all connections."""


def connect(url: str) -> Database:
    """Open the database at a SQLAlchemy URL.

    Raises:
        SettingsError: the URL cannot be used.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        # the URL may hold a password: do not show it
        raise SettingsError("the store's URL cannot be read", hint="write sqlite:///PATH") from None
    if parsed.get_backend_name() != "sqlite" or parsed.get_driver_name() != "pysqlite":
        raise SettingsError(
            f"a store of the kind `{parsed.drivername}` is not supported", hint="write sqlite:///PATH"
        )
    return SqliteDatabase(parsed)

"""All that is particular to PostgreSQL, through psycopg 3.

Many machines, one server: rows are locked one by one, workers skip what another one has locked, and what must happen one
after the other takes an advisory lock. Connections are checked before use, so that a server that was restarted is noticed
by the pool and not by a client. A pooler between must keep sessions (PgBouncer: `pool_mode = session`).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from vitascope.domain.errors import SettingsError, StoreUnavailable

from .tables import Instant

PARAMETERS = {
    "application_name": "vitascope",
    "connect_timeout": "5",
    # a server whose machine or network is gone says nothing: notice within about 15 s
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "15000",
}
"""libpq's parameters where the URL has none. Source: PostgreSQL documentation, 34.1.2 Parameter Key Words."""

SESSION = {
    # a lock is held for milliseconds; only a process that hangs holds it longer
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
}
READ_ONLY = {"default_transaction_read_only": "on"}

POOL_SECONDS = 10.0
"""How long a thread waits for a connection that other threads have."""

# Advisory locks have two numbers; the first one says that they are ours ("Vita" in ASCII).
OURS = 0x56697461
UPGRADE, QUEUE, CLAIMS = 1, 2, 3

CHANNEL = "vitascope_jobs"
"""Notices are sent on it when a transaction commits that may have added a job, or has ended one."""

LISTEN_AGAIN_SECONDS = 5.0
"""After a connection was lost that heard of them."""


class PostgresqlDatabase:
    """See `database.Database`."""

    has_quick_reads = False

    def __init__(self, url: sa.URL) -> None:
        _need_driver()
        # reads commit nothing: without BEGIN and COMMIT they take one exchange with the server instead of three
        self._reads = _engine(url, "AUTOCOMMIT", SESSION | READ_ONLY)
        self._writes = _engine(url, "READ COMMITTED", SESSION)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        with _translated(), self._reads.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        with _translated(), self._writes.begin() as connection:
            yield connection

    def write_soon(self) -> AbstractContextManager[sa.Connection]:
        """Write durably: commits share their waiting, and a server may go down without its workers."""
        return self.write()

    def start_clock(self) -> None:
        """Do nothing: the server's clock runs."""

    def lease_time(self, connection: sa.Connection) -> datetime:
        return connection.scalars(sa.select(sa.func.clock_timestamp(type_=Instant))).one()

    def lock_queue(self, connection: sa.Connection) -> None:
        lock, tell = sa.func.pg_advisory_xact_lock(OURS, QUEUE), sa.func.pg_notify(CHANNEL, "")
        connection.execute(sa.select(lock, tell))

    def tell_watchers(self, connection: sa.Connection) -> None:
        connection.execute(sa.select(sa.func.pg_notify(CHANNEL, "")))

    def watch_jobs(self) -> _Notices:
        return _Notices(self._reads)

    def lock_claims(self, connection: sa.Connection) -> None:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(OURS, CLAIMS)))

    def together(self) -> AbstractContextManager[None]:
        """Do nothing: commits of several connections share their waiting."""
        return nullcontext()

    @contextmanager
    def upgrade_lock(self) -> Iterator[None]:
        try:
            # of the session and not of a transaction, which would be idle for too long; a process that dies drops it
            with self._reads.connect() as connection:
                connection.detach()
                connection.execute(sa.text("SET lock_timeout = 0"))
                connection.execute(sa.select(sa.func.pg_advisory_lock(OURS, UPGRADE)))
                yield
        except ProgrammingError as error:
            raise SettingsError(f"the database cannot be used: {_first_line(error)}") from None
        except UNAVAILABLE as error:
            raise StoreUnavailable(f"the database does not answer: {_first_line(error)}") from None

    def problems(self) -> list[str]:
        """Find none: PostgreSQL checks its pages as it reads them, and `pg_amcheck` all of them."""
        with self.read() as connection:
            connection.execute(sa.select(1))
        return []

    def backup(self, path: Path) -> None:
        raise SettingsError(
            "PostgreSQL makes its backups itself, consistent and while the server runs",
            hint="pg_dump --format=custom --file=FILE DATABASE",
        )

    def close(self) -> None:
        for engine in (self._reads, self._writes):
            engine.dispose()


class _Notices:
    """What was sent on the channel, read from a connection of its own, whose server is not asked for it."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connection: Any = None
        self._listen_at = 0.0

    @property
    def look_seconds(self) -> float:
        return LISTEN_AGAIN_SECONDS

    def fileno(self) -> int | None:
        with suppress(Exception):  # the driver's own, where it is broken: the next asking closes it
            return None if self._connection is None else int(self._wire.socket)
        return None

    @property
    def _wire(self) -> Any:
        # `driver_connection` is None of what was detached
        return self._connection.connection.dbapi_connection.pgconn

    def has_come(self) -> bool:
        if self._connection is None and time.monotonic() < self._listen_at:
            return False
        try:
            if self._connection is None:
                self._listen_at = time.monotonic() + LISTEN_AGAIN_SECONDS
                self._listen()
                return True  # of what came before nobody has told
            wire = self._wire
            wire.consume_input()
            has_come = False
            while wire.notifies() is not None:
                has_come = True
        except Exception:  # noqa: BLE001  the driver's own, or the pool's: it is only a hint
            self.close()
            return False
        return has_come

    def _listen(self) -> None:
        self._connection = self._engine.connect()
        self._connection.detach()
        self._connection.execute(sa.text(f"LISTEN {CHANNEL}"))

    def close(self) -> None:
        if self._connection is not None:
            with suppress(Exception):
                self._connection.close()
            self._connection = None


def _need_driver() -> None:
    try:
        importlib.import_module("psycopg")
    except ImportError:
        raise SettingsError(
            "PostgreSQL needs the package `psycopg`, which is not installed",
            hint="install the extra: pip install 'vitascope[postgres]'",
        ) from None


def _engine(url: sa.URL, isolation_level: str, session: dict[str, str]) -> sa.Engine:
    options = [
        *url.normalized_query.get("options", ()),
        *(f"-c {name}={value}" for name, value in session.items()),
    ]
    parameters = {name: value for name, value in PARAMETERS.items() if name not in url.query}
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level=isolation_level,
        pool_size=5,
        max_overflow=11,
        pool_timeout=POOL_SECONDS,
        pool_pre_ping=True,
        hide_parameters=True,  # prompts are among them: not in the log, nor in an error that gets there
        pool_use_lifo=True,  # what is not needed any more idles at the other end
        connect_args={**parameters, "options": " ".join(options)},
        use_native_hstore=False,  # else each connection asks whether there is such a type
    )
    sa.event.listen(engine, "handle_error", _forget_values)
    return engine


def _forget_values(context: sa.ExceptionContext) -> None:
    """Cut from an error what quotes the row that was refused."""
    original = context.original_exception
    if getattr(getattr(original, "diag", None), "message_detail", None):
        for error in (original, context.sqlalchemy_exception):
            if error is not None and error.args:
                error.args = (str(error.args[0]).partition("\n")[0],)


#: The server is away, shuts down, has no memory or disk left, is read-only after a change of roles, or lets us wait too long.
UNAVAILABLE = (OperationalError, InterfaceError, InternalError, PoolTimeout)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except UNAVAILABLE as error:
        # the whole text would name the host to clients
        kind = type(error.orig).__name__ if isinstance(error, DBAPIError) else "too many at once"
        raise StoreUnavailable(f"the job store does not answer ({kind})") from error


def _first_line(error: Exception) -> str:
    text = str(error.orig if isinstance(error, DBAPIError) else error)
    return text.partition("\n")[0]

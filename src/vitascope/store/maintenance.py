"""What the operator does with a whole database: back it up, look whether it is sound. Changes nothing in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from vitascope.domain.errors import SettingsError
from vitascope.domain.job import JobStatus

from . import ledger
from .cipher import Cipher
from .database import connect
from .for_secrets import CHECK, unreadable
from .tables import HEAD, events, jobs, secrets, workers
from .upgrade import current_revision


@dataclass(frozen=True, slots=True)
class Health:
    """What `check` found; nothing in `problems` means that the database is sound."""

    #: Of the schema; None if there is none or it cannot be read.
    revision: str | None
    #: What this program needs.
    newest_revision: str
    #: Rows by what they are: jobs of each status, events, workers.
    counts: Mapping[str, int]
    problems: tuple[str, ...]


def backup(url: str, path: Path) -> None:
    """Copy the database to a new file while others work with it: everything that was committed when it began.

    Raises:
        SettingsError: there is no database, the file exists already, or the database has a tool of its own for this.
        StorageError: the file cannot be written.
    """
    with closing(connect(url)) as database:
        database.backup(path)


def check(url: str, cipher: Cipher | None = None) -> Health:
    """Look for damage, for an outdated schema, for jobs whose history does not fit, and for secrets that cannot be read.

    Args:
        url: of the database.
        cipher: for its secrets; without one they are not looked at.

    Raises:
        SettingsError: there is no database at the URL.
    """
    with closing(connect(url)) as database:
        if problems := database.problems():
            return Health(None, HEAD, {}, tuple(problems))
        with database.read() as connection:
            revision = current_revision(connection)
            if revision != HEAD:
                outdated = (
                    f"the schema is {revision or 'missing'}, and {HEAD} is needed: run `vitascope db upgrade`"
                )
                return Health(revision, HEAD, {}, (outdated,))
            problems = [*_contradictions(connection), *ledger.imbalances(connection)]
            if cipher is not None:
                problems += _unreadable_secrets(connection, cipher)
            return Health(revision, HEAD, _counts(connection), tuple(problems))


def _counts(connection: sa.Connection) -> dict[str, int]:
    by_status = sa.select(jobs.c.status, sa.func.count()).group_by(jobs.c.status)
    found = dict.fromkeys(JobStatus, 0) | {status: count for status, count in connection.execute(by_status)}
    counts = {f"{status} jobs": count for status, count in found.items()}
    for table in (events, workers):
        counts[table.name] = connection.scalars(sa.select(sa.func.count()).select_from(table)).one()
    kept = sa.select(sa.func.count()).where(secrets.c.purpose != CHECK)
    counts["secrets"] = connection.scalars(kept).one()
    return counts


def _contradictions(connection: sa.Connection) -> list[str]:
    """Find jobs whose newest event is not the one that their row names: each change writes both or neither."""
    newest = sa.select(sa.func.max(events.c.sequence)).where(events.c.job_number == jobs.c.number)
    differs = jobs.c.last_event != sa.func.coalesce(newest.scalar_subquery(), 0)
    ids = connection.scalars(sa.select(jobs.c.id).where(differs).order_by(jobs.c.number).limit(10))
    return [f"the history of job {job_id} does not end where its row says" for job_id in ids]


def _unreadable_secrets(connection: sa.Connection, cipher: Cipher) -> list[str]:
    try:
        errors = unreadable(connection, cipher)
    except SettingsError as missing:  # there is no key
        return [f"{missing.message}: {missing.hint}" if missing.hint else missing.message]
    counts = Counter(f"{error.message}: {error.hint}" for error in errors)
    return [f"{sentence} ({count} rows)" for sentence, count in counts.items()]

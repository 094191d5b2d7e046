"""The history of jobs: reading events so that none is missed, and pruning progress.

How one reader per web process follows all jobs that its clients watch: numbers of events are per job, and who writes an
event holds the lock of the job's row from taking the number to the commit. So within a job events become visible in the
order of their numbers, and "all after the last one I saw" misses nothing. One counter for all jobs would not have that:
on PostgreSQL the transaction with number 8 may commit before the one with 7, and a reader that has seen 8 never looks
for 7. Hence the reader keeps a cursor per watched job and asks for all of them at once, as often as it likes. One query
tells which of them have anything new; what nobody watches costs nothing, and what many watch is read once.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from .rows import Event, event_of
from .tables import events, jobs

IDS_PER_QUERY = 1000
"""Well below what a statement may have of parameters: SQLite 32,766, PostgreSQL 65,535."""

JOBS_PER_PRUNING = 100
"""So many jobs at once, so that other writers do not wait for long."""

PROGRESS = "progress"
PREVIEW = "preview"
"""A small picture of what is being made. Written after progress, and goes with it."""


def events_after(connection: sa.Connection, cursors: Mapping[str, int], limit: int) -> list[Event]:
    """Return events of each job after the number given for it, in order within each job; see `Store.events_after`."""
    found: list[Event] = []
    ids = list(cursors)
    for start in range(0, len(ids), IDS_PER_QUERY):
        for row in connection.execute(_NEWEST, {"ids": ids[start : start + IDS_PER_QUERY]}).all():
            if len(found) == limit:
                return found
            if row.last_event > cursors[row.id]:
                after = {"number": row.number, "after": cursors[row.id], "most": limit - len(found)}
                found += [event_of(row.id, event) for event in connection.execute(_AFTER, after)]
    return found


#: Asked whenever something is written: put together once, which takes longer than running them.
_NEWEST = (
    sa.select(jobs.c.number, jobs.c.id, jobs.c.last_event)
    .where(jobs.c.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(jobs.c.number)
)
_AFTER = (
    sa.select(events)
    .where(events.c.job_number == sa.bindparam("number"), events.c.sequence > sa.bindparam("after"))
    .order_by(events.c.sequence)
    .limit(sa.bindparam("most"))
)


def to_prune(ended_before: datetime) -> sa.Select[Any]:
    """Find rows of jobs that ended before that instant and still have progress events."""
    have_progress = sa.select(events.c.job_number).where(events.c.kind == sa.literal_column(f"'{PROGRESS}'"))
    is_due = (jobs.c.finished_at < ended_before) & jobs.c.number.in_(have_progress)
    return sa.select(jobs.c.number).where(is_due).limit(JOBS_PER_PRUNING)


def prune(connection: sa.Connection, ended_before: datetime) -> int:
    """Delete the progress events of such jobs, and previews; returns how many. Jobs that another process has locked are left to it."""
    numbers = connection.scalars(to_prune(ended_before).with_for_update(skip_locked=True)).all()
    is_unneeded = events.c.kind.in_([PROGRESS, PREVIEW]) & events.c.job_number.in_(numbers)
    return connection.execute(sa.delete(events).where(is_unneeded)).rowcount


def delete_previews(connection: sa.Connection, job_number: int) -> None:
    """Delete the previews of a job, for a newer one to come: who watches has seen them, and they are large."""
    is_older = (events.c.job_number == job_number) & (events.c.kind == PREVIEW)
    connection.execute(sa.delete(events).where(is_older))

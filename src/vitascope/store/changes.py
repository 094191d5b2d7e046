"""How a job's row changes, inside a transaction that the caller holds. Every change of status comes through `move`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import ReturningUpdate

from vitascope.domain.command import WORKER_STOPPED, CommandStatus
from vitascope.domain.errors import JobConflict, JobNotFound, LeaseLost, WorkerLost
from vitascope.domain.job import TRANSITIONS, JobError, JobStatus, Lease

from . import added, ledger, outbox
from .rows import Row
from .tables import commands, events, jobs, storable, workers

FORGET_WORKERS_AFTER = timedelta(days=1)

#: Of a job whose row is being updated. Who updates it holds its lock until the commit, so that the events of a job can be
#: seen in the order of their numbers.
NEXT_EVENT = jobs.c.last_event + 1

LOST_EVENTS = 1000
"""Event numbers that are left out when a lease has lapsed. Perhaps the whole machine went down, and with it progress that
SQLite had not forced to the disk, though a client had seen it: that is less than the log's 1,000 pages between
checkpoints, a page or more an event. The client resumes after the last number it saw, so none may be given twice."""


def locked(connection: sa.Connection, job_id: str, owner: str | None = None) -> Row:
    """Return the job's row and keep others from changing it until the transaction ends.

    Raises:
        JobNotFound: there is none, it has been deleted, or it is not the job of the key `owner`.
    """
    query = sa.select(jobs).where(jobs.c.id == job_id, jobs.c.deleted_at.is_(None)).with_for_update()
    if owner is not None:
        query = query.where(jobs.c.key_id == owner)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise JobNotFound
    return row


def held(connection: sa.Connection, lease: Lease) -> Row:
    """Return the row of the job that a worker holds, deleted or not, and lock it.

    Raises:
        LeaseLost: the worker no longer holds it.
    """
    row = connection.execute(_HELD, _its(lease)).one_or_none()
    if row is None:
        raise LeaseLost
    return row


#: True of the job's row as long as nobody else got it.
_HOLDS = (
    jobs.c.id == sa.bindparam("its_id"),
    jobs.c.token == sa.bindparam("its_token"),
    jobs.c.status == sa.literal(JobStatus.RUNNING.value),
)
_HELD = sa.select(jobs).where(*_HOLDS).with_for_update()


def _its(lease: Lease) -> dict[str, Any]:
    return {"its_id": lease.job.id, "its_token": lease.token}


_TOUCHED = (
    jobs.c.number,
    jobs.c.attempt,
    jobs.c.last_event,
    jobs.c.progress,
    jobs.c.worker_id,
    jobs.c.cancel_requested,
)
"""What is asked of a running job many times a second: not its request, its plan and all else that there is."""


def touching(**values: Any) -> ReturningUpdate[Any]:
    """Write a statement for `touch`, once for all jobs: to put one together takes longer than to run it.

    Args:
        values: by column; those that are to be given are bound parameters, named otherwise than any column.
    """
    return sa.update(jobs).where(*_HOLDS).values(**values).returning(*_TOUCHED)


def touch(connection: sa.Connection, lease: Lease, how: ReturningUpdate[Any], **given: Any) -> Row:
    """Change the row of the job that a worker holds; returns what `_TOUCHED` names of it.

    Raises:
        LeaseLost: the worker no longer holds it.
    """
    row: Row | None = connection.execute(how, {**_its(lease), **given}).one_or_none()
    if row is None:
        raise LeaseLost
    return row


def move(connection: sa.Connection, row: Row, status: JobStatus, now: datetime, **values: Any) -> Row:
    """Bring a job to another status, with all that follows from it, and note the event; returns the changed row.

    Raises:
        JobConflict: the job cannot get there from where it is.
    """
    if (JobStatus(row.status), status) not in TRANSITIONS:
        raise JobConflict(f"a job that is {row.status} cannot become {status}")
    values["status"] = status.value
    if status is not JobStatus.RUNNING:
        values["lease_expires_at"] = None
    if status.is_terminal:
        values["finished_at"] = now
        # counted from here: what waited for long is kept no shorter, and nothing goes before it is there
        if (seconds := row.request.get("expires_in_seconds")) is not None:
            values["expires_at"] = now + timedelta(seconds=seconds)
        if row.price is not None:
            values["charged"] = ledger.close(connection, row, status, values, now)
    changed = note(connection, row, status.value, now, **values)
    if status.is_terminal:
        outbox.write(connection, changed, status, now)
    return changed


def note(connection: sa.Connection, row: Row, kind: str, now: datetime, **values: Any) -> Row:
    """Write an event and what changed with it; returns the changed row."""
    changes = {"last_event": NEXT_EVENT, **values}
    update = sa.update(jobs).where(jobs.c.number == row.number).values(changes)
    changed = connection.execute(update.returning(jobs)).one()
    add_event(connection, changed, kind, now)
    return changed


_NEW_EVENT = sa.insert(events)  # written once: what a statement says takes longer to put together than to run


def add_event(
    connection: sa.Connection, row: Row, kind: str, now: datetime, data: dict[str, Any] | None = None
) -> None:
    """Write an event under the number that updating the row has taken."""
    where = {"job_number": row.number, "sequence": row.last_event}
    event = {**where, "kind": kind, "attempt": row.attempt, "created_at": now, "data": data}
    connection.execute(_NEW_EVENT, event)


def mark_read(connection: sa.Connection, job_id: str, now: datetime) -> None:
    """Note that a job's client knows its id, if that was not known."""
    is_unread = (jobs.c.id == job_id) & jobs.c.read_at.is_(None)
    connection.execute(sa.update(jobs).where(is_unread).values(read_at=now))


def wish_to_cancel(connection: sa.Connection, row: Row, now: datetime) -> Row:
    """Cancel at once what has not begun; ask the worker to stop what has; leave alone what has ended. Returns the row.

    Who wishes that knows the job's id.
    """
    mark_read(connection, row.id, now)
    if row.status == JobStatus.QUEUED:
        return move(connection, row, JobStatus.CANCELLED, now, cancel_requested=True)
    if row.status == JobStatus.RUNNING and not row.cancel_requested:
        return note(connection, row, "cancel_requested", now, cancel_requested=True)
    return row


def give_back(
    connection: sa.Connection, row: Row, now: datetime, *, max_attempts: int | None, **values: Any
) -> None:
    """Take a running job from its worker: it waits again, unless it shall stop or has been tried too often.

    Without `max_attempts` this attempt is as if it had not been.
    """
    if row.cancel_requested:
        move(connection, row, JobStatus.CANCELLED, now, **values)
    elif max_attempts is not None and row.attempt >= max_attempts:
        error = JobError(WorkerLost.code, WorkerLost().message)
        move(connection, row, JobStatus.FAILED, now, **error_values(error), **values)
    else:
        attempt = row.attempt - 1 if max_attempts is None else row.attempt
        values |= {"attempt": attempt, "progress": 0, "stage": "", "worker_id": None}
        move(connection, row, JobStatus.QUEUED, now, **values)


def see_worker(
    connection: sa.Connection,
    worker_id: str,
    now: datetime,
    device: str | None = None,
    loaded: Collection[str] | None = None,
    residency: Mapping[str, Any] | None = None,
    available: Collection[str] | None = None,
    peer: str | None = None,
) -> None:
    """Note that a worker is alive; forgets those that were not seen for long when a new one comes."""
    values: dict[str, Any] = {} if device is None else {"device": device}
    if loaded is not None:
        values["loaded"] = sorted(loaded)
    if residency is not None:
        values["residency"] = dict(residency)
    if available is not None:
        values["available"] = sorted(available)
    if peer is not None:
        values["peer"] = peer
    seen = sa.update(workers).where(workers.c.id == worker_id).values(seen_at=now, stopped_at=None, **values)
    if connection.execute(seen).rowcount == 0:
        connection.execute(sa.delete(workers).where(workers.c.seen_at < now - FORGET_WORKERS_AFTER))
        connection.execute(sa.insert(workers).values(id=worker_id, started_at=now, seen_at=now, **values))


def fail_commands(connection: sa.Connection, of: sa.ColumnElement[bool], now: datetime) -> None:
    """End commands that nobody will carry out any more: their worker has stopped."""
    is_open = commands.c.status.in_([CommandStatus.QUEUED.value, CommandStatus.RUNNING.value])
    values = {"status": CommandStatus.FAILED.value, "finished_at": now, "message": WORKER_STOPPED}
    update = sa.update(commands).where(is_open, of).values(values)
    if ended := connection.scalars(update.returning(commands.c.id)).all():
        added.tell_ended(connection, set(ended), now)


def error_values(error: JobError) -> dict[str, str]:
    return {"error_code": error.code, "error_message": storable(error.message)}

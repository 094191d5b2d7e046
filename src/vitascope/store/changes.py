"""How a job's row changes, inside a transaction that the caller holds. Every change of status comes through `move`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from vitascope.domain.errors import JobConflict, JobNotFound, LeaseLost, WorkerLost
from vitascope.domain.job import TRANSITIONS, JobError, JobStatus, Lease

from .rows import Row
from .tables import events, jobs, workers

FORGET_WORKERS_AFTER = timedelta(days=1)


def locked(connection: sa.Connection, job_id: str) -> Row:
    """Return the job's row and keep others from changing it until the transaction ends.

    Raises:
        JobNotFound: there is none, or it has been deleted.
    """
    query = sa.select(jobs).where(jobs.c.id == job_id, jobs.c.deleted_at.is_(None)).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise JobNotFound
    return row


def held(connection: sa.Connection, lease: Lease) -> Row:
    """Return the row of the job that a worker holds, deleted or not, and lock it.

    Raises:
        LeaseLost: the worker no longer holds it.
    """
    query = sa.select(jobs).where(*holds(lease)).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise LeaseLost
    return row


def holds(lease: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    """Conditions that are true of the job's row as long as nobody else got it."""
    return (jobs.c.id == lease.job.id, jobs.c.token == lease.token, jobs.c.status == JobStatus.RUNNING.value)


def touch(connection: sa.Connection, lease: Lease, **values: Any) -> Row:
    """Change what is no event; returns the row.

    Raises:
        LeaseLost: the worker no longer holds it.
    """
    update = sa.update(jobs).where(*holds(lease)).values(**values)
    row = connection.execute(update.returning(jobs.c.worker_id, jobs.c.cancel_requested)).one_or_none()
    if row is None:
        raise LeaseLost
    return row


def move(connection: sa.Connection, row: Row, status: JobStatus, now: datetime, **values: Any) -> None:
    """Bring a job to another status, with all that follows from it, and note the event.

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
    note(connection, row, status.value, now, **values)


def note(connection: sa.Connection, row: Row, kind: str, now: datetime, **values: Any) -> None:
    """Write an event and what changed with it. Updating the row hands out the event's number in order of commit."""
    update = sa.update(jobs).where(jobs.c.number == row.number).returning(jobs.c.last_event, jobs.c.attempt)
    sequence, attempt = connection.execute(update.values(last_event=jobs.c.last_event + 1, **values)).one()
    connection.execute(
        sa.insert(events).values(
            job_number=row.number, sequence=sequence, kind=kind, attempt=attempt, created_at=now
        )
    )


def wish_to_cancel(connection: sa.Connection, row: Row, now: datetime) -> None:
    """Cancel at once what has not begun; ask the worker to stop what has; leave alone what has ended."""
    if row.status == JobStatus.QUEUED:
        move(connection, row, JobStatus.CANCELLED, now, cancel_requested=True)
    elif row.status == JobStatus.RUNNING and not row.cancel_requested:
        note(connection, row, "cancel_requested", now, cancel_requested=True)


def give_back(connection: sa.Connection, row: Row, now: datetime, *, max_attempts: int | None) -> None:
    """Take a running job from its worker: it waits again, unless it shall stop or has been tried too often.

    Without `max_attempts` this attempt is as if it had not been.
    """
    if row.cancel_requested:
        move(connection, row, JobStatus.CANCELLED, now)
    elif max_attempts is not None and row.attempt >= max_attempts:
        error = JobError(WorkerLost.code, WorkerLost().message)
        move(connection, row, JobStatus.FAILED, now, **error_values(error))
    else:
        attempt = row.attempt - 1 if max_attempts is None else row.attempt
        values = {"attempt": attempt, "progress": 0, "stage": "", "worker_id": None}
        move(connection, row, JobStatus.QUEUED, now, **values)


def see_worker(connection: sa.Connection, worker_id: str, now: datetime) -> None:
    """Note that a worker is alive; forgets those that were not seen for long when a new one comes."""
    seen = sa.update(workers).where(workers.c.id == worker_id).values(seen_at=now, stopped_at=None)
    if connection.execute(seen).rowcount == 0:
        connection.execute(sa.delete(workers).where(workers.c.seen_at < now - FORGET_WORKERS_AFTER))
        connection.execute(sa.insert(workers).values(id=worker_id, started_at=now, seen_at=now))


def error_values(error: JobError) -> dict[str, str]:
    return {"error_code": error.code, "error_message": error.message}

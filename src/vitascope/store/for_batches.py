"""Batches: what their clients ask, and what a feeder does. `service.feeding` tells what survives what.

A feeder has a batch for a while only. All that it writes shows the token of its claim, in the transaction that writes, and is refused once the
batch is another's: LeaseLost. What it writes also makes its time longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from vitascope.domain.batch import (
    QUEUED_AT_ONCE,
    Batch,
    BatchLease,
    BatchPage,
    BatchStatus,
    Line,
    LineError,
    NewLine,
    Outcome,
)
from vitascope.domain.errors import (
    BatchConflict,
    BatchNotFound,
    IdempotencyConflict,
    InvalidParameter,
    LeaseLost,
    QueueFull,
)
from vitascope.domain.file import File
from vitascope.domain.job import TERMINAL, Job, JobStatus
from vitascope.domain.once import RETRY_WINDOW, Once
from vitascope.domain.plan import Plan
from vitascope.domain.request import GenerationRequest

from . import changes, queue
from .base import Base
from .for_clients import check_room, check_storage, insert_job
from .for_files import insert_file
from .ledger import Charge
from .once import ONCE_KEPT, digest_of
from .rows import Row, job_of
from .tables import batch_lines, batches, files, jobs, storable

LEASE_SECONDS = 60.0
"""A feeder that wrote nothing for so long counts as dead."""

LINES_PRUNED_AT_ONCE = 1000

_is_open = batches.c.due_at.is_not(None)
_is_waiting = batch_lines.c.job_number.is_(None) & batch_lines.c.outcome.is_(None)
_is_making = batch_lines.c.job_number.is_not(None) & batch_lines.c.outcome.is_(None)
_OUTCOMES = {
    JobStatus.SUCCEEDED: Outcome.SUCCEEDED,
    JobStatus.FAILED: Outcome.FAILED,
    JobStatus.CANCELLED: Outcome.FAILED,
}


class ForBatches(Base):
    """Batches. Where an `owner` is asked for, another's is no other case than an unknown one."""

    # clients

    def add_batch(
        self,
        batch: Batch,
        max_open: int,
        once: Once | None = None,
        max_storage_bytes: int | None = None,
    ) -> Batch:
        """Keep a new batch.

        Args:
            batch: which; its file is there.
            max_open: batches of its key that may be open.
            max_storage_bytes: bytes of its key's videos, files, characters and open batches that it must not exceed.
            once: by what a repetition of the request is known.

        Returns:
            The batch; or the first one, whose id is another, if the request was sent again.

        Raises:
            QueueFull: as many as allowed are open already.
            StorageLimitReached: there is no room for its requests.
            IdempotencyConflict: the request's name was another request's.
        """
        now = self._now()
        with self._database.write() as connection:
            self._database.lock_queue(connection)
            first = None if once is None else _first(connection, batch.key_id, once, now)
            if first is not None:
                return _batch_of(first)
            is_its_keys = (batches.c.key_id == batch.key_id) & _is_open
            if connection.scalars(sa.select(sa.func.count()).where(is_its_keys)).one() >= max_open:
                raise QueueFull(f"as many batches of this key are open as may be: {max_open}")
            if max_storage_bytes is not None:
                num_bytes = sa.select(files.c.num_bytes).where(files.c.id == batch.input_file_id)
                check_storage(connection, batch.key_id, max_storage_bytes, connection.scalar(num_bytes) or 0)
            values = {name: value for name, value in asdict(batch).items() if name in batches.c} | {
                "status": batch.status.value,
                "errors": [],
                "due_at": self._lease_time(connection),
                "fingerprint": once and once.fingerprint,
                "once_name": digest_of(once.name) if once is not None and once.name else None,
            }
            return _batch_of(connection.execute(sa.insert(batches).values(values).returning(batches)).one())

    def batch_made_before(self, once: Once, key_id: str) -> Batch | None:
        """Return the batch that the request has made before; None if it is new. `add_batch` looks again.

        Raises:
            IdempotencyConflict: the request's name was another request's.
        """
        with self._database.read() as connection:
            row = _first(connection, key_id, once, self._now())
        return None if row is None else _batch_of(row)

    def batch(self, batch_id: str, owner: str | None = None) -> Batch:
        """Return a batch.

        Raises:
            BatchNotFound: there is none of that id.
        """
        with self._database.read() as connection:
            return _batch_of(_one(connection, batch_id, owner))

    def mark_batch_read(self, batch_id: str) -> None:
        """Note that the batch's client knows its id."""
        is_it = (batches.c.id == batch_id) & batches.c.read_at.is_(None)
        with self._database.write_soon() as connection:
            connection.execute(sa.update(batches).where(is_it).values(read_at=self._now()))

    def batch_page(self, *, after: str | None = None, limit: int = 20, owner: str | None = None) -> BatchPage:
        """List batches, the newest first, from the one that follows `after`.

        Raises:
            InvalidParameter: no batch has the id `after`.
        """
        query = sa.select(batches).order_by(batches.c.number.desc()).limit(limit + 1)
        if owner is not None:
            query = query.where(batches.c.key_id == owner)
        with self._database.read() as connection:
            if after is not None:
                try:
                    query = query.where(batches.c.number < _one(connection, after, owner).number)
                except BatchNotFound:
                    raise InvalidParameter("after", after, "no batch has this id") from None
            rows = connection.execute(query).all()
        return BatchPage(tuple(_batch_of(row) for row in rows[:limit]), has_more=len(rows) > limit)

    def cancel_batch(self, batch_id: str, owner: str | None = None) -> Batch:
        """Wish that a batch ends: none of its requests becomes a job from now on. A second wish changes nothing.

        Raises:
            BatchNotFound: there is none of that id.
            BatchConflict: it has ended otherwise, or nothing is left to cancel.
        """
        with self._database.write() as connection:
            row = _one(connection, batch_id, owner, lock=True)
            if row.status in (BatchStatus.VALIDATING, BatchStatus.RUNNING) and row.stop is None:
                values = {"stop": BatchStatus.CANCELLED.value, "stopped_at": self._now()}
                due = {
                    "due_at": self._lease_time(connection)
                }  # who has it now loses it, and writes nothing more
                row = _changed(connection, row, **values, **due)
            elif row.stop != BatchStatus.CANCELLED:
                raise BatchConflict("the batch has ended, or its results are being written")
            return _batch_of(row)

    # feeders

    def has_due_batches(self) -> bool:
        """Whether a batch waits to be taken further."""
        with self._database.read() as connection:
            is_due = batches.c.due_at <= self._lease_time(connection)
            return connection.execute(sa.select(batches.c.number).where(is_due).limit(1)).first() is not None

    def claim_batch(self) -> BatchLease | None:
        """Take the batch that has waited longest; None if none waits. One whose window is over shall end from now on."""
        with self._database.write() as connection:
            lease_now, now = self._lease_time(connection), self._now()
            is_due = batches.c.due_at <= lease_now
            query = sa.select(batches).where(is_due).order_by(batches.c.due_at, batches.c.number).limit(1)
            row = connection.execute(query.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            values: dict[str, Any] = {"token": row.token + 1, "due_at": lease_now + _lease()}
            if row.status != BatchStatus.FINISHING and row.stop is None and row.expires_at <= now:
                values |= {"stop": BatchStatus.EXPIRED.value, "stopped_at": now}
            row = _changed(connection, row, **values)
        return BatchLease(_batch_of(row), row.number, row.token)

    def keep_batch(self, lease: BatchLease) -> None:
        """Say that the feeder is alive. Raises LeaseLost."""
        with self._database.write_soon() as connection:
            self._held(connection, lease)

    def release_batch(self, lease: BatchLease, pause_seconds: float) -> None:
        """Give a batch back, for anybody to take after a while; one that is not the feeder's any more is left alone."""
        is_it = (batches.c.number == lease.number) & (batches.c.token == lease.token) & _is_open
        with self._database.write_soon() as connection:
            due_at = self._lease_time(connection) + timedelta(seconds=pause_seconds)
            connection.execute(sa.update(batches).where(is_it).values(due_at=due_at))

    def clear_lines(self, lease: BatchLease) -> None:
        """Forget the lines that another feeder has begun to add. Raises LeaseLost."""
        with self._database.write() as connection:
            _must_be(self._held(connection, lease), BatchStatus.VALIDATING)
            connection.execute(sa.delete(batch_lines).where(batch_lines.c.batch_number == lease.number))

    def add_lines(self, lease: BatchLease, lines: Sequence[NewLine]) -> None:
        """Add some lines of a batch that is validated. Raises LeaseLost."""
        values = [
            {"batch_number": lease.number, "number": line.number, "custom_id": storable(line.custom_id), "body": line.body}
            for line in lines
        ]  # fmt: skip
        with self._database.write() as connection:
            _must_be(self._held(connection, lease), BatchStatus.VALIDATING)
            connection.execute(sa.insert(batch_lines), values)

    def begin_batch(self, lease: BatchLease, model: str | None) -> Batch:
        """Let the requests of a batch become jobs: all its lines are there. Raises LeaseLost."""
        is_its = batch_lines.c.batch_number == lease.number
        with self._database.write() as connection:
            row = _must_be(self._held(connection, lease), BatchStatus.VALIDATING)
            num_lines = connection.scalars(sa.select(sa.func.count()).where(is_its)).one()
            values = {"num_lines": num_lines, "model": model and storable(model), "running_at": self._now()}
            return _batch_of(_changed(connection, row, status=BatchStatus.RUNNING.value, **values))

    def fail_batch(self, lease: BatchLease, errors: Sequence[LineError]) -> Batch:
        """End a batch whose file is not one of requests. Raises LeaseLost."""
        told = [{**asdict(error), "message": storable(error.message)} for error in errors]
        with self._database.write() as connection:
            row = _must_be(self._held(connection, lease), BatchStatus.VALIDATING)
            values = {"finished_at": self._now(), "due_at": None, "errors": told}
            return _batch_of(_changed(connection, row, status=BatchStatus.FAILED.value, **values))

    def stop_lines(self, lease: BatchLease) -> Batch:
        """Carry out that a batch shall end: what is no job yet becomes none, and all its jobs are cancelled. Raises LeaseLost."""
        now = self._now()
        with self._database.write() as connection:
            row = self._held(connection, lease)
            assert row.stop is not None, "somebody has wished it"
            is_its = batch_lines.c.batch_number == row.number
            if row.status == BatchStatus.VALIDATING:  # perhaps some of its lines are there
                connection.execute(sa.delete(batch_lines).where(is_its))
                return _batch_of(
                    _changed(connection, row, status=BatchStatus.FINISHING.value, finishing_at=now)
                )
            update = sa.update(batch_lines).where(is_its, _is_waiting).values(outcome=row.stop, body="")
            num_left = connection.execute(update).rowcount
            for job in connection.execute(_jobs_of(row.number).with_for_update()).all():
                if job.deleted_at is None:
                    changes.wish_to_cancel(connection, job, now)
            return _batch_of(_changed(connection, row, num_failed=row.num_failed + num_left))

    def settle_lines(self, lease: BatchLease) -> Batch:
        """Count the requests whose jobs have ended; when all have, the results can be written. Raises LeaseLost."""
        with self._database.write() as connection:
            row = _must_be(self._held(connection, lease), BatchStatus.RUNNING)
            outcomes: dict[Outcome, list[int]] = {}
            for job in connection.execute(_ended_jobs_of(row.number)):
                outcomes.setdefault(_outcome(job, row.stop), []).append(job.line_number)
            for outcome, numbers in outcomes.items():
                is_it = (batch_lines.c.batch_number == row.number) & batch_lines.c.number.in_(numbers)
                connection.execute(sa.update(batch_lines).where(is_it).values(outcome=outcome.value))
            num_succeeded = len(outcomes.pop(Outcome.SUCCEEDED, ()))
            return _batch_of(self._counted(connection, row, num_succeeded, sum(map(len, outcomes.values()))))

    def next_line(self, lease: BatchLease) -> Line | None:
        """Return the first request that is no job yet; None if there is none."""
        is_its = (batch_lines.c.batch_number == lease.number) & _is_waiting
        with self._database.read() as connection:
            query = sa.select(batch_lines).where(is_its).order_by(batch_lines.c.number).limit(1)
            row = connection.execute(query).one_or_none()
        return None if row is None else _line_of(row)

    def check_feed_room(
        self, lease: BatchLease, max_queued: int, max_queued_per_key: int | None = None
    ) -> None:
        """Find out quickly whether there is room for one more job of a batch; `feed_line` looks again.

        Raises:
            QueueFull: as many wait as may.
        """
        with self._database.read() as connection:
            _check_feed_room(connection, lease, max_queued, max_queued_per_key)

    def feed_line(
        self,
        lease: BatchLease,
        line_number: int,
        job_id: str,
        request: GenerationRequest,
        plan: Plan,
        *,
        max_queued: int,
        max_queued_per_key: int | None = None,
        max_storage_bytes: int | None = None,
        charge: Charge | None = None,
    ) -> Job:
        """Make a request of a batch a job, once: the job and that it is this line's are one transaction.

        Args:
            lease: of the batch.
            line_number: of the request, which is no job yet.
            job_id: of the new job.
            request: what was asked for.
            plan: how it is made.
            max_queued: jobs that may wait when a batch adds one.
            max_queued_per_key: the same, of its key.
            max_storage_bytes: bytes of the key's videos and files above which it makes none.
            charge: what it costs, if its key is counted.

        Raises:
            InsufficientCredits: the key has not enough credits; there is no job.
            LeaseLost: the batch is another feeder's, or shall end; there is no job.
            QueueFull: as many wait as may; there is no job.
            StorageLimitReached: the key has no room for it; there is no job.
        """
        key_id = lease.batch.key_id
        is_it = (batch_lines.c.batch_number == lease.number) & (batch_lines.c.number == line_number)
        with self._database.write() as connection:
            self._database.lock_queue(connection)  # first, as whoever adds a job does
            row = _must_be(self._held(connection, lease), BatchStatus.RUNNING)
            if row.stop is not None:
                raise LeaseLost
            _check_feed_room(connection, lease, max_queued, max_queued_per_key)
            if max_storage_bytes is not None:
                check_storage(connection, key_id, max_storage_bytes)
            job = insert_job(connection, job_id, request, plan, key_id, self._now(), charge=charge)
            fed = sa.update(batch_lines).where(is_it, _is_waiting).values(job_number=job.number, body="")
            if connection.execute(fed).rowcount != 1:
                raise LeaseLost  # undoes the job: the line has become another, or has ended
        return job_of(job)

    def refuse_line(self, lease: BatchLease, line_number: int, refusal: dict[str, Any]) -> Batch:
        """Write down what was answered to a request that cannot be carried out. Raises LeaseLost."""
        is_it = (batch_lines.c.batch_number == lease.number) & (batch_lines.c.number == line_number)
        values = {"outcome": Outcome.REFUSED.value, "refusal": refusal, "body": ""}
        with self._database.write() as connection:
            row = _must_be(self._held(connection, lease), BatchStatus.RUNNING)
            refused = connection.execute(sa.update(batch_lines).where(is_it, _is_waiting).values(values))
            return _batch_of(self._counted(connection, row, 0, refused.rowcount))

    def line_results(self, lease: BatchLease, after: int, limit: int) -> list[tuple[Line, Job | None]]:
        """Return the lines that follow one, each with its job if it became one, deleted or not."""
        is_its = (batch_lines.c.batch_number == lease.number) & (batch_lines.c.number > after)
        query = sa.select(batch_lines).where(is_its).order_by(batch_lines.c.number).limit(limit)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            numbers = [row.job_number for row in rows if row.job_number is not None]
            found = connection.execute(sa.select(jobs).where(jobs.c.number.in_(numbers))) if numbers else ()
            by_number = {row.number: job_of(row) for row in found}
        return [(_line_of(row), by_number.get(row.job_number)) for row in rows]

    def end_batch(self, lease: BatchLease, output: File | None, errors: File | None) -> Batch:
        """End a batch: its files, which the storage has, are its key's from now on. Raises LeaseLost."""
        with self._database.write() as connection:
            row = _must_be(self._held(connection, lease), BatchStatus.FINISHING)
            for file in (output, errors):
                if file is not None:
                    insert_file(connection, file)
            values = {
                "status": row.stop or BatchStatus.SUCCEEDED.value,
                "output_file_id": output and output.id,
                "error_file_id": errors and errors.id,
                "finished_at": self._now(),
                "due_at": None,
            }
            return _batch_of(_changed(connection, row, **values))

    def prune_lines(self) -> bool:
        """Remove some lines of batches that have ended. Returns whether there may be more."""
        is_unpruned = batches.c.finished_at.is_not(None) & batches.c.pruned_at.is_(None)
        query = sa.select(batches.c.number).where(is_unpruned).order_by(batches.c.number).limit(1)
        with self._database.read() as connection:
            number = connection.scalar(query)
        if number is None:
            return False
        is_its = batch_lines.c.batch_number == number
        some = sa.select(batch_lines.c.number).where(is_its).order_by(batch_lines.c.number)
        with self._database.write() as connection:
            numbers = connection.scalars(some.limit(LINES_PRUNED_AT_ONCE)).all()
            connection.execute(sa.delete(batch_lines).where(is_its, batch_lines.c.number.in_(numbers)))
            if len(numbers) < LINES_PRUNED_AT_ONCE:
                done = sa.update(batches).where(batches.c.number == number)
                connection.execute(done.values(pruned_at=self._now()))
        return True

    def _held(self, connection: sa.Connection, lease: BatchLease) -> Row:
        """Return the row of the batch that a feeder has, locked, with its time made longer.

        Raises:
            LeaseLost: it has it no more.
        """
        is_it = (batches.c.number == lease.number) & (batches.c.token == lease.token) & _is_open
        update = sa.update(batches).where(is_it).values(due_at=self._lease_time(connection) + _lease())
        row = connection.execute(update.returning(batches)).one_or_none()
        if row is None:
            raise LeaseLost
        return row

    def _counted(self, connection: sa.Connection, row: Row, num_succeeded: int, num_failed: int) -> Row:
        values: dict[str, Any] = {
            "num_succeeded": row.num_succeeded + num_succeeded,
            "num_failed": row.num_failed + num_failed,
        }
        if values["num_succeeded"] + values["num_failed"] == row.num_lines:
            values |= {"status": BatchStatus.FINISHING.value, "finishing_at": self._now()}
        elif not num_succeeded and not num_failed:
            return row
        return _changed(connection, row, **values)


def _lease() -> timedelta:
    return timedelta(seconds=LEASE_SECONDS)


def _must_be(row: Row, status: BatchStatus) -> Row:
    if row.status != status:
        raise LeaseLost
    return row


def _changed(connection: sa.Connection, row: Row, **values: Any) -> Row:
    update = sa.update(batches).where(batches.c.number == row.number).values(**values)
    return connection.execute(update.returning(batches)).one()


def _one(connection: sa.Connection, batch_id: str, owner: str | None, *, lock: bool = False) -> Row:
    query = sa.select(batches).where(batches.c.id == batch_id)
    if owner is not None:
        query = query.where(batches.c.key_id == owner)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise BatchNotFound
    return row


def _first(connection: sa.Connection, key_id: str, once: Once, now: datetime) -> Row | None:
    """Return the batch that a request made when it was first sent; None if it is new. As `once.find_first` for jobs."""
    query = sa.select(batches).where(batches.c.key_id == key_id).order_by(batches.c.number.desc()).limit(1)
    if once.name is not None:
        is_recent = batches.c.created_at >= now - ONCE_KEPT
        query = query.where(batches.c.once_name == digest_of(once.name), is_recent)
        row = connection.execute(query).one_or_none()
        if row is not None and row.fingerprint != once.fingerprint:
            raise IdempotencyConflict(hint="use a new key for a new request")
        return row
    if not once.is_retry:
        return None
    is_recent = batches.c.created_at >= now - RETRY_WINDOW
    is_same = (batches.c.fingerprint == once.fingerprint) & batches.c.read_at.is_(None)
    return connection.execute(query.where(is_same, is_recent)).one_or_none()


def _jobs_of(batch_number: int) -> sa.Select[Any]:
    """Jobs of a batch that have not ended, as far as it knows, in the order in which all lock several."""
    query = sa.select(jobs).join(batch_lines, batch_lines.c.job_number == jobs.c.number)
    return query.where(batch_lines.c.batch_number == batch_number, _is_making).order_by(jobs.c.number)


def _ended_jobs_of(batch_number: int) -> sa.Select[Any]:
    columns = (batch_lines.c.number.label("line_number"), jobs.c.status, jobs.c.deleted_at)
    has_ended = jobs.c.status.in_([status.value for status in TERMINAL]) | jobs.c.deleted_at.is_not(None)
    query = sa.select(*columns).join(jobs, batch_lines.c.job_number == jobs.c.number)
    return query.where(batch_lines.c.batch_number == batch_number, _is_making, has_ended)


def _outcome(job: Row, stop: str | None) -> Outcome:
    if job.deleted_at is not None:
        return Outcome.DELETED
    if stop is not None and job.status == JobStatus.CANCELLED:
        return Outcome(stop)
    return _OUTCOMES[JobStatus(job.status)]


def _check_feed_room(
    connection: sa.Connection, lease: BatchLease, max_queued: int, max_queued_per_key: int | None
) -> None:
    waiting = _jobs_of(lease.number).where(queue.is_queued).order_by(None).subquery()
    if connection.scalars(sa.select(sa.func.count()).select_from(waiting)).one() >= QUEUED_AT_ONCE:
        raise QueueFull(f"as many jobs of this batch are waiting as may: {QUEUED_AT_ONCE}")
    check_room(connection, lease.batch.key_id, max_queued, max_queued_per_key)


def _line_of(row: Row) -> Line:
    return Line(
        row.number,
        row.custom_id,
        row.body,
        None if row.outcome is None else Outcome(row.outcome),
        row.refusal,
    )


def _batch_of(row: Row) -> Batch:
    return Batch(
        id=row.id,
        key_id=row.key_id,
        status=BatchStatus(row.status),
        endpoint=row.endpoint,
        input_file_id=row.input_file_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        metadata=row.metadata,
        output_seconds=row.output_seconds,
        base_url=row.base_url,
        model=row.model,
        num_lines=row.num_lines,
        num_succeeded=row.num_succeeded,
        num_failed=row.num_failed,
        stop=None if row.stop is None else BatchStatus(row.stop),
        stopped_at=row.stopped_at,
        errors=tuple(LineError(**error) for error in row.errors),
        running_at=row.running_at,
        finishing_at=row.finishing_at,
        finished_at=row.finished_at,
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
        is_read=row.read_at is not None,
    )

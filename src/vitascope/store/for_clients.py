"""What the web side asks of the store: create, read, follow, cancel, delete."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from vitascope.domain.access import Use
from vitascope.domain.cost import effort_of
from vitascope.domain.errors import InvalidParameter, JobNotFound, QueueFull, StorageLimitReached
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.once import Once
from vitascope.domain.plan import Plan
from vitascope.domain.request import GenerationRequest

from . import changes, history, ledger, queue
from .base import Base
from .ledger import Charge
from .once import find_first, remember
from .rows import Event, Page, Row, job_of, storage_keys
from .tables import batches, characters, files, jobs, storable

Order = Literal["asc", "desc"]

MANY_EVENTS = 1000
"""Events of one answer: all of most jobs, and a few hundred kilobytes."""

#: Made once: every poll reads a job, and making the statement anew takes as long as running it.
#: Request and plan come as the text that is stored: see `rows.job_of`.
_ANY: sa.Select[Any] = sa.select(
    *(column for column in jobs.c if column.name not in ("request", "plan")),
    sa.cast(jobs.c.request, sa.Text).label("request"),
    sa.cast(jobs.c.plan, sa.Text).label("plan"),
).where(jobs.c.deleted_at.is_(None))

_ONE = _ANY.where(jobs.c.id == sa.bindparam("job_id"))
_OWN = _ONE.where(jobs.c.key_id == sa.bindparam("owner"))
_NUMBERED = _ANY.where(jobs.c.number == sa.bindparam("number"))

MAX_NUMBER = 2**63 - 1
"""What the databases' integers hold."""


class ForClients(Base):
    """Jobs as their clients see them."""

    def create(
        self,
        job_id: str,
        request: GenerationRequest,
        plan: Plan,
        max_queued: int,
        *,
        key_id: str = "",
        max_queued_per_key: int | None = None,
        max_storage_bytes: int | None = None,
        once: Once | None = None,
        charge: Charge | None = None,
    ) -> Job:
        """Add a queued job; when this returns, nothing but its deletion takes it away.

        Args:
            job_id: of the new job.
            request: what was asked for.
            plan: how it is made.
            max_queued: jobs that may wait.
            key_id: whose job it is.
            max_queued_per_key: jobs that may wait of one key; None is no limit beside the other.
            max_storage_bytes: bytes of the key's videos above which it makes none.
            once: by what a repetition of the request is known.
            charge: what it costs, if its key is counted.

        Returns:
            The new job; or the first one, whose id is another, if the request was sent again.

        Raises:
            QueueFull: as many as allowed wait already.
            StorageLimitReached: the key's videos take as much space as they may.
            IdempotencyConflict: the request's name was another request's.
            InsufficientCredits: the key has not enough credits; there is no job.
        """
        now = self._now()
        with self._database.write() as connection:
            self._database.lock_queue(connection)
            first = None if once is None else find_first(connection, key_id, once, now)
            if first is not None:
                return job_of(first)
            check_room(connection, key_id, max_queued, max_queued_per_key)
            if max_storage_bytes is not None:
                check_storage(connection, key_id, max_storage_bytes)
            fingerprint = None if once is None else once.fingerprint
            row = insert_job(connection, job_id, request, plan, key_id, now, fingerprint, charge)
            if once is not None:
                remember(connection, row, once, now)
        return job_of(row)

    def made_before(self, once: Once, *, key_id: str = "") -> Job | None:
        """Return the job that the request has made before; None if it is new. `create` looks again.

        Raises:
            IdempotencyConflict: the request's name was another request's.
        """
        with self._database.write() as connection:  # a name that has expired is forgotten here
            first = find_first(connection, key_id, once, self._now())
        return None if first is None else job_of(first)

    def use_of(self, key_id: str) -> Use:
        """Tell what a key has of the server now."""
        is_open = jobs.c.status.in_([JobStatus.QUEUED.value, JobStatus.RUNNING.value])
        count = sa.select(jobs.c.status, sa.func.count()).where(is_open, jobs.c.key_id == key_id)
        with self._database.read() as connection:
            counts = {row[0]: row[1] for row in connection.execute(count.group_by(jobs.c.status))}
            used = stored_bytes(connection, key_id)
        return Use(counts.get(JobStatus.QUEUED.value, 0), counts.get(JobStatus.RUNNING.value, 0), used)

    def check_room(self, key_id: str, max_queued: int, max_queued_per_key: int | None) -> None:
        """Find out quickly whether the queue is full; `create` looks again.

        Raises:
            QueueFull: as many as allowed wait already.
        """
        with self._database.read() as connection:
            check_room(connection, key_id, max_queued, max_queued_per_key)

    def mark_read(self, job_id: str) -> None:
        """Note that the job's client knows its id."""
        with self._database.write_soon() as connection:
            changes.mark_read(connection, job_id, self._now())

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """Return the job.

        Args:
            job_id: of the job.
            owner: id of the key whose job it must be; None for anybody's.

        Raises:
            JobNotFound: there is none of that id, it has been deleted, or it is another's.
        """
        query, values = (
            (_ONE, {"job_id": job_id}) if owner is None else (_OWN, {"job_id": job_id, "owner": owner})
        )
        with self._database.read() as connection:
            row = connection.execute(query, values).one_or_none()
        if row is None:
            raise JobNotFound
        return job_of(row)

    def numbered(self, number: int, owner: str | None = None) -> Job:
        """Return the job of a number; else as `get`.

        Raises:
            JobNotFound: there is none of that number, it has been deleted, or it is another's.
        """
        if not 0 < number <= MAX_NUMBER:
            raise JobNotFound
        query = _NUMBERED if owner is None else _NUMBERED.where(jobs.c.key_id == owner)
        with self._database.read() as connection:
            row = connection.execute(query, {"number": number}).one_or_none()
        if row is None:
            raise JobNotFound
        return job_of(row)

    def page(
        self,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Order = "desc",
        statuses: Collection[JobStatus] = (),
        owner: str | None = None,
        user: str | None = None,
    ) -> Page:
        """List jobs by arrival, from the one that follows `after`. A deleted job still marks its place.

        Args:
            after: a job's id.
            limit: how many.
            order: oldest or newest first.
            statuses: only jobs of these; empty means all.
            owner: id of the key whose jobs are listed; None for everybody's.
            user: only jobs that were made for this end user; None for all.

        Raises:
            InvalidParameter: no job has the id `after`.
        """
        query = sa.select(jobs).where(jobs.c.deleted_at.is_(None))
        anchor = sa.select(jobs.c.number).where(jobs.c.id == after)
        if owner is not None:
            query, anchor = query.where(jobs.c.key_id == owner), anchor.where(jobs.c.key_id == owner)
        if user is not None:
            query = query.where(jobs.c.user == storable(user))
        if statuses:
            query = query.where(jobs.c.status.in_([status.value for status in statuses]))
        with self._database.read() as connection:
            if after is not None:
                number = connection.scalar(anchor)
                if number is None:
                    raise InvalidParameter("after", after, "no job has this id")
                query = query.where(jobs.c.number < number if order == "desc" else jobs.c.number > number)
            query = query.order_by(jobs.c.number.desc() if order == "desc" else jobs.c.number)
            rows = connection.execute(query.limit(limit + 1)).all()
        return Page(tuple(job_of(row) for row in rows[:limit]), has_more=len(rows) > limit)

    def events(self, job_id: str, after: int = 0, limit: int = MANY_EVENTS) -> list[Event]:
        """Return what happened to a job, deleted or not, since the event with the number `after`.

        Progress is left out some minutes after the job's end: see `prune`.
        """
        return self.events_after({job_id: after}, limit)

    def events_after(self, cursors: Mapping[str, int], limit: int = MANY_EVENTS) -> list[Event]:
        """Return what happened to several jobs since the event that was last seen of each.

        Made for one reader per web process, which serves all its streams: it calls this again and again with the jobs
        that are watched, and puts `event.sequence` where the cursor of `event.job_id` was. Nothing is missed or given
        twice, whichever process wrote it; `history` says why. As many as `limit` means that there may be more.

        Args:
            cursors: number of the newest event seen, by job; 0 for none. Unknown jobs have no events.
            limit: of all jobs together.
        """
        with self._database.read() as connection:
            return history.events_after(connection, cursors, limit)

    def request_cancel(self, job_id: str, owner: str | None = None) -> Job:
        """Cancel a queued job at once, ask the worker of a running one to stop, leave an ended one as it is.

        Raises:
            JobNotFound: there is none of that id, or it has been deleted.
        """
        now = self._now()
        with self._database.write() as connection:
            row = changes.wish_to_cancel(connection, changes.locked(connection, job_id, owner), now)
        return job_of(row)

    def delete(self, job_id: str, owner: str | None = None) -> list[str]:
        """Hide a job for good, and cancel it if it has not ended.

        Returns:
            Storage keys that nobody needs any more. Those of a running job are given to its worker at its end.

        Raises:
            JobNotFound: there is none of that id, or it has been deleted already.
        """
        now = self._now()
        with self._database.write() as connection:
            row = changes.wish_to_cancel(connection, changes.locked(connection, job_id, owner), now)
            changes.note(connection, row, "deleted", now, deleted_at=now)
        return [] if row.status == JobStatus.RUNNING else storage_keys(row)


#: Run for each new job: put together once, which takes longer than running them.
_NEW_JOB = sa.insert(jobs).returning(jobs)
_NUM_QUEUED = sa.select(sa.func.count()).select_from(jobs).where(queue.is_queued)
_NUM_QUEUED_OF = _NUM_QUEUED.where(jobs.c.key_id == sa.bindparam("of_key"))


def insert_job(
    connection: sa.Connection,
    job_id: str,
    request: GenerationRequest,
    plan: Plan,
    key_id: str,
    now: datetime,
    fingerprint: str | None = None,
    charge: Charge | None = None,
) -> Row:
    """Add a queued job with its first event and its hold, in a transaction that holds the queue's lock.

    Raises:
        InsufficientCredits: its key has not enough credits.
    """
    effort = effort_of(plan)
    values = {
        "id": job_id,
        "status": JobStatus.QUEUED.value,
        "created_at": now,
        "request": request.to_dict(),
        "plan": plan.to_dict(),
        **asdict(effort),
        "total_work": effort.work * effort.num_steps,
        "key_id": key_id,
        "user": request.user and storable(request.user),
        "precedence": -request.priority,
        "may_hand_over": request.may_hand_over,
        "is_public": request.is_public,
        "fingerprint": fingerprint,
        "last_event": 1,
        "price": None if charge is None else ledger.hold(connection, key_id, charge),
    }
    row = connection.execute(_NEW_JOB, values).one()
    ledger.write_hold(connection, row, now)
    changes.add_event(connection, row, JobStatus.QUEUED.value, now)
    return row


def check_room(
    connection: sa.Connection, key_id: str, max_queued: int, max_queued_per_key: int | None
) -> None:
    """Refuse what would make more jobs wait than may.

    Raises:
        QueueFull: as many as allowed wait already.
    """
    if connection.scalars(_NUM_QUEUED).one() >= max_queued:
        raise QueueFull(f"the queue is full: {max_queued} jobs are waiting")
    if max_queued_per_key is None:
        return
    if connection.scalars(_NUM_QUEUED_OF, {"of_key": key_id}).one() >= max_queued_per_key:
        raise QueueFull(f"as many jobs of this key are waiting as may: {max_queued_per_key}")


def check_storage(
    connection: sa.Connection, key_id: str, max_bytes: int, more_bytes: int | None = None
) -> None:
    """Refuse what would take more space than a key has; what has no size yet, where nothing is left.

    Raises:
        StorageLimitReached: there is no room for it.
    """
    used = stored_bytes(connection, key_id)
    if used + (more_bytes or 0) > max_bytes or (more_bytes is None and used >= max_bytes):
        more = "" if more_bytes is None else f", this one {more_bytes}"
        message = f"the videos, files, characters and open batches of this API key take {used} bytes{more}, and {max_bytes} are allowed"
        raise StorageLimitReached(message, hint="delete some of them")


def stored_bytes(connection: sa.Connection, key_id: str) -> int:
    """Sum what is kept of a key: finished videos, uploaded files, characters, open batches."""
    is_kept = (jobs.c.key_id == key_id) & jobs.c.deleted_at.is_(None) & jobs.c.expired_at.is_(None)
    used = int(connection.scalar(sa.select(sa.func.sum(jobs.c.num_bytes)).where(is_kept)) or 0)
    is_kept = (files.c.key_id == key_id) & files.c.deleted_at.is_(None)
    used += int(connection.scalar(sa.select(sa.func.sum(files.c.num_bytes)).where(is_kept)) or 0)
    of_key = characters.c.key_id == key_id
    used += int(connection.scalar(sa.select(sa.func.sum(characters.c.num_bytes)).where(of_key)) or 0)
    # the requests of an open batch are in the database, whatever has become of its file
    open_batches = sa.select(sa.func.sum(files.c.num_bytes)).join(
        batches, batches.c.input_file_id == files.c.id
    )
    is_open = (batches.c.key_id == key_id) & batches.c.due_at.is_not(None)
    used += int(connection.scalar(open_batches.where(is_open)) or 0)
    return used

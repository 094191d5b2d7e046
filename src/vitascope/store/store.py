"""The store: every method is one transaction, safe to call from any thread and any process."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from vitascope.domain.errors import InvalidParameter, JobNotFound, QueueFull
from vitascope.domain.job import Job, JobError, JobStatus, Lease
from vitascope.domain.plan import Plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.video import Video

from . import changes
from .database import Database, connect
from .rows import Event, Page, QueueStats, job_of, storage_keys, video_values
from .tables import events, jobs, workers
from .upgrade import upgrade

Order = Literal["asc", "desc"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Store:
    """Jobs, their events, and the workers that make them.

    The methods of workers take the lease that `claim` gave and raise LeaseLost, having written nothing, once the job
    is another's. All methods raise StoreUnavailable when the database does not answer.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = _utc_now) -> None:
        self._database = database
        self._now = clock

    @classmethod
    def open(cls, url: str, clock: Callable[[], datetime] = _utc_now) -> Store:
        """Open the database at a SQLAlchemy URL and bring it to the newest schema.

        Raises:
            SettingsError: the URL, the folder or the file cannot be used, or the database is a newer version's.
        """
        database = connect(url)
        try:
            upgrade(database)
        except BaseException:
            database.close()
            raise
        return cls(database, clock)

    def close(self) -> None:
        self._database.close()

    @property
    def has_quick_reads(self) -> bool:
        """Whether an event loop may call `get` and `page` itself."""
        return self._database.has_quick_reads

    def ping(self) -> None:
        """Return if the database answers."""
        with self._database.read() as connection:
            connection.execute(sa.select(1))

    # clients

    def create(self, job_id: str, request: GenerationRequest, plan: Plan, max_queued: int) -> Job:
        """Add a queued job; when this returns, nothing but its deletion takes it away.

        Raises:
            QueueFull: as many as `max_queued` wait already.
        """
        now = self._now()
        values = {"id": job_id, "status": JobStatus.QUEUED.value, "model": plan.model, "created_at": now}
        with self._database.write() as connection:
            queued = sa.select(sa.func.count()).where(jobs.c.status == JobStatus.QUEUED.value)
            if connection.scalars(queued).one() >= max_queued:
                raise QueueFull(f"the queue is full: {max_queued} jobs are waiting")
            insert = sa.insert(jobs).values(request=request.to_dict(), plan=plan.to_dict(), **values)
            connection.execute(insert)
            changes.note(connection, changes.locked(connection, job_id), JobStatus.QUEUED.value, now)
            return job_of(changes.locked(connection, job_id))

    def get(self, job_id: str) -> Job:
        """Return the job.

        Raises:
            JobNotFound: there is none of that id, or it has been deleted.
        """
        query = sa.select(jobs).where(jobs.c.id == job_id, jobs.c.deleted_at.is_(None))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise JobNotFound
        return job_of(row)

    def page(self, *, after: str | None = None, limit: int = 20, order: Order = "desc") -> Page:
        """List jobs by arrival, from the one that follows `after`. A deleted job still marks its place.

        Raises:
            InvalidParameter: no job has the id `after`.
        """
        query = sa.select(jobs).where(jobs.c.deleted_at.is_(None))
        with self._database.read() as connection:
            if after is not None:
                number = connection.scalar(sa.select(jobs.c.number).where(jobs.c.id == after))
                if number is None:
                    raise InvalidParameter("after", after, "no job has this id")
                query = query.where(jobs.c.number < number if order == "desc" else jobs.c.number > number)
            query = query.order_by(jobs.c.number.desc() if order == "desc" else jobs.c.number)
            rows = connection.execute(query.limit(limit + 1)).all()
        return Page(tuple(job_of(row) for row in rows[:limit]), has_more=len(rows) > limit)

    def events(self, job_id: str, after: int = 0) -> list[Event]:
        """Return what happened to a job, deleted or not, since the event with the number `after`."""
        query = (
            sa.select(events)
            .join(jobs, jobs.c.number == events.c.job_number)
            .where(jobs.c.id == job_id, events.c.sequence > after)
            .order_by(events.c.sequence)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [Event(row.sequence, row.kind, row.attempt, row.created_at) for row in rows]

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a queued job at once, ask the worker of a running one to stop, leave an ended one as it is.

        Raises:
            JobNotFound: there is none of that id, or it has been deleted.
        """
        with self._database.write() as connection:
            changes.wish_to_cancel(connection, changes.locked(connection, job_id), self._now())
            return job_of(changes.locked(connection, job_id))

    def delete(self, job_id: str) -> list[str]:
        """Hide a job for good, and cancel it if it has not ended.

        Returns:
            Storage keys that nobody needs any more. Those of a running job are given to its worker at its end.

        Raises:
            JobNotFound: there is none of that id, or it has been deleted already.
        """
        now = self._now()
        with self._database.write() as connection:
            row = changes.locked(connection, job_id)
            changes.wish_to_cancel(connection, row, now)
            changes.note(connection, row, "deleted", now, deleted_at=now)
        return [] if row.status == JobStatus.RUNNING else storage_keys(row)

    # workers

    def claim(self, worker_id: str, lease_seconds: float) -> Lease | None:
        """Take the job that has waited longest; None if none waits."""
        waiting = (
            sa.select(jobs).where(jobs.c.status == JobStatus.QUEUED.value).order_by(jobs.c.number).limit(1)
        )
        with (
            self._database.read() as connection
        ):  # an idle worker asks often: do not make writers wait for it
            if connection.execute(waiting.with_only_columns(jobs.c.number)).first() is None:
                return None
        now = self._now()
        expires_at = now + timedelta(seconds=lease_seconds)
        with self._database.write() as connection:
            row = connection.execute(waiting.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            values = {
                "worker_id": worker_id,
                "lease_expires_at": expires_at,
                "started_at": row.started_at or now,
            }
            counts = {"attempt": row.attempt + 1, "token": row.token + 1}
            changes.move(connection, row, JobStatus.RUNNING, now, **values, **counts)
            job = job_of(changes.locked(connection, row.id))
        return Lease(job=job, token=row.token + 1, expires_at=expires_at)

    def renew(self, lease: Lease, lease_seconds: float) -> bool:
        """Keep the job for `lease_seconds` from now, and be seen as a worker.

        Returns:
            Whether the job shall stop.
        """
        now = self._now()
        with self._database.write_soon() as connection:
            row = changes.touch(connection, lease, lease_expires_at=now + timedelta(seconds=lease_seconds))
            changes.see_worker(connection, row.worker_id, now)
        return bool(row.cancel_requested)

    def report(self, lease: Lease, percent: int, stage: str) -> bool:
        """Write progress down. It never falls within an attempt, and only `succeed` makes it 100.

        Returns:
            Whether the job shall stop.
        """
        percent = max(0, min(percent, 99))
        risen = sa.case((jobs.c.progress < percent, percent), else_=jobs.c.progress)
        with self._database.write_soon() as connection:
            row = changes.touch(connection, lease, progress=risen, stage=stage)
        return bool(row.cancel_requested)

    def succeed(self, lease: Lease, video: Video, details: dict[str, Any]) -> list[str]:
        """End the job with its video, which the storage must have by now.

        Returns:
            Storage keys that nobody needs any more: all of them, if the job was deleted while it ran.
        """
        values = {"video": video_values(video), "details": details, "progress": 100, "stage": ""}
        with self._database.write() as connection:
            row = changes.held(connection, lease)
            if row.deleted_at is not None:
                changes.move(connection, row, JobStatus.CANCELLED, self._now())
                return [*storage_keys(row), video.key]
            changes.move(connection, row, JobStatus.SUCCEEDED, self._now(), **values)
        return []

    def fail(self, lease: Lease, error: JobError) -> list[str]:
        """End the job without a video, and say why. Returns storage keys, as `succeed` does."""
        return self._end(lease, JobStatus.FAILED, **changes.error_values(error))

    def finish_cancelled(self, lease: Lease) -> list[str]:
        """End the job because it was asked to stop. Returns storage keys, as `succeed` does."""
        return self._end(lease, JobStatus.CANCELLED)

    def _end(self, lease: Lease, status: JobStatus, **values: Any) -> list[str]:
        with self._database.write() as connection:
            row = changes.held(connection, lease)
            changes.move(connection, row, status, self._now(), **values)
        return [] if row.deleted_at is None else storage_keys(row)

    def release(self, lease: Lease, *, count_attempt: bool, max_attempts: int = 3) -> list[str]:
        """Hand the job back: it waits again, unless it shall stop. Returns storage keys, as `succeed` does.

        Args:
            lease: the worker's right to it.
            count_attempt: False if the job is not to blame, as when the worker is told to stop.
            max_attempts: a job that was tried so often fails as `worker_lost`, if the attempt counts.
        """
        limit = max_attempts if count_attempt else None
        with self._database.write() as connection:
            row = changes.held(connection, lease)
            changes.give_back(connection, row, self._now(), max_attempts=limit)
        return [] if row.deleted_at is None else storage_keys(row)

    def requeue_lapsed(self, max_attempts: int) -> int:
        """Take running jobs from workers whose lease ran out, as `release` does. Returns how many."""
        now = self._now()
        lapsed = sa.select(jobs).where(
            jobs.c.status == JobStatus.RUNNING.value, jobs.c.lease_expires_at < now
        )
        with self._database.read() as connection:
            if connection.execute(lapsed.with_only_columns(jobs.c.number).limit(1)).first() is None:
                return 0
        with self._database.write() as connection:
            rows = connection.execute(lapsed.with_for_update(skip_locked=True)).all()
            for row in rows:
                changes.give_back(connection, row, now, max_attempts=max_attempts)
        return len(rows)

    def worker_seen(self, worker_id: str) -> None:
        """Note that a worker is alive; the first time makes it known."""
        with self._database.write_soon() as connection:
            changes.see_worker(connection, worker_id, self._now())

    def worker_stopped(self, worker_id: str) -> None:
        """Note that a worker has ended on purpose."""
        with self._database.write_soon() as connection:
            connection.execute(
                sa.update(workers).where(workers.c.id == worker_id).values(stopped_at=self._now())
            )

    # operators

    def live_workers(self, within_seconds: float) -> int:
        """Count the workers that were seen so recently and have not ended."""
        since = self._now() - timedelta(seconds=within_seconds)
        query = sa.select(sa.func.count()).where(workers.c.seen_at >= since, workers.c.stopped_at.is_(None))
        with self._database.read() as connection:
            return connection.scalars(query).one()

    def queue_stats(self) -> QueueStats:
        """Count jobs by status and model."""
        active = sa.select(jobs.c.status, jobs.c.model, sa.func.count(), sa.func.min(jobs.c.created_at))
        active = active.where(jobs.c.status.in_([JobStatus.QUEUED.value, JobStatus.RUNNING.value]))
        total = sa.select(jobs.c.status, sa.func.count()).group_by(jobs.c.status)
        with self._database.read() as connection:
            rows = connection.execute(active.group_by(jobs.c.status, jobs.c.model)).all()
            totals = {JobStatus(status): count for status, count in connection.execute(total)}
        queued = {model: count for status, model, count, _ in rows if status == JobStatus.QUEUED}
        running = {model: count for status, model, count, _ in rows if status == JobStatus.RUNNING}
        now = self._now()
        oldest = min((since for status, _, _, since in rows if status == JobStatus.QUEUED), default=now)
        waited = max(0.0, (now - oldest).total_seconds())
        return QueueStats(queued=queued, running=running, oldest_queued_seconds=waited, total=totals)

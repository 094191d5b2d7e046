"""What operators ask of the store: does it answer, who works, how long is the queue."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from vitascope.domain.cost import effort_of
from vitascope.domain.job import JobStatus
from vitascope.domain.plan import Plan

from . import changes, queue
from .base import Base
from .rows import QueueStats, Situation
from .tables import jobs, workers

MANY_WAITING = 10_000


class ForOperators(Base):
    """The deployment as a whole."""

    def ping(self) -> None:
        """Return if the database answers."""
        with self._database.read() as connection:
            connection.execute(sa.select(1))

    def live_workers(self, within_seconds: float) -> int:
        """Count the workers with a device of their own that were seen so recently and have not ended."""
        with self._database.read() as connection:
            is_alive = _works_here(self._lease_time(connection), within_seconds)
            return connection.scalars(sa.select(sa.func.count()).where(is_alive)).one()

    def situation(self, within_seconds: float) -> Situation:
        """Look at all that waiting times depend on; of an enormous queue, at its MANY_WAITING oldest jobs.

        Args:
            within_seconds: workers that were seen so recently count as alive.
        """
        with self._database.read() as connection:
            lease_now = self._lease_time(connection)
            query = sa.select(workers.c.id, workers.c.device, workers.c.peer)
            alive = connection.execute(query.where(_is_alive(lease_now, within_seconds))).all()
            devices = {row.id: row.device for row in alive if row.peer is None}
            estimate = queue.estimate_on(connection, set(devices.values()))
            at_work = queue.running(connection, lease_now, estimate)
            return Situation(
                waiting=queue.waiting(connection, self._now(), estimate, MANY_WAITING),
                running=[job for _, job in at_work],
                workers=frozenset(devices),
                peers=frozenset(row.id for row in alive if row.peer is not None),
                served_seconds=queue.served_seconds(connection, lease_now, at_work),
            )

    def expected_seconds(self, plan: Plan, within_seconds: float) -> float | None:
        """Estimate how long a plan would take once it runs, on the devices that are there; None if nobody knows."""
        with self._database.read() as connection:
            alive = _works_here(self._lease_time(connection), within_seconds)
            devices = set(connection.scalars(sa.select(workers.c.device).where(alive)))
            return queue.estimate_on(connection, devices)(effort_of(plan))

    def newest_waiting(self) -> int:
        """Return the number of the job that came last of those that wait; 0 if none does."""
        with self._database.read() as connection:
            return connection.scalar(sa.select(sa.func.max(jobs.c.number)).where(queue.is_queued)) or 0

    def cancel_waiting(self, newest: int, max_jobs: int = 100) -> int:
        """Cancel some of the jobs that wait, the oldest first, with all that follows from it for each.

        Args:
            newest: number of the last one; what has come later goes on waiting.
            max_jobs: at once, so that others' writes do not wait for long.

        Returns:
            How many. Where it is 0, no more wait.
        """
        waiting = sa.select(jobs).where(queue.is_queued, jobs.c.number <= newest)
        query = waiting.order_by(jobs.c.number).limit(max_jobs).with_for_update()
        now = self._now()
        with self._database.write() as connection:
            rows = connection.execute(query).all()
            for row in rows:
                changes.move(connection, row, JobStatus.CANCELLED, now, cancel_requested=True)
        return len(rows)

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


def _is_alive(lease_now: datetime, within_seconds: float) -> sa.ColumnElement[bool]:
    return (workers.c.seen_at >= lease_now - timedelta(seconds=within_seconds)) & workers.c.stopped_at.is_(
        None
    )


def _works_here(lease_now: datetime, within_seconds: float) -> sa.ColumnElement[bool]:
    """Without those that hand jobs over: who asks for a job that stays here waits for the others."""
    return _is_alive(lease_now, within_seconds) & workers.c.peer.is_(None)

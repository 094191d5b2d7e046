"""What operators ask of the store: does it answer, who works, how long is the queue."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from vitascope.domain.job import JobStatus

from .base import Base
from .rows import QueueStats
from .tables import jobs, workers


class ForOperators(Base):
    """The deployment as a whole."""

    def ping(self) -> None:
        """Return if the database answers."""
        with self._database.read() as connection:
            connection.execute(sa.select(1))

    def live_workers(self, within_seconds: float) -> int:
        """Count the workers that were seen so recently and have not ended."""
        with self._database.read() as connection:
            since = self._lease_time(connection) - timedelta(seconds=within_seconds)
            is_alive = (workers.c.seen_at >= since) & workers.c.stopped_at.is_(None)
            return connection.scalars(sa.select(sa.func.count()).where(is_alive)).one()

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

"""What the gallery asks of the store: finished videos whose clients let others see them."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from vitascope.domain.errors import InvalidParameter
from vitascope.domain.job import JobStatus

from .base import Base
from .rows import Page, job_of
from .tables import jobs

#: In the words of the index `ix_jobs_public`: in others SQLite does not take it.
_IS_SHOWN = sa.and_(
    jobs.c.is_public == sa.true(),
    jobs.c.status == sa.literal_column(f"'{JobStatus.SUCCEEDED.value}'"),
    jobs.c.deleted_at.is_(None),
    jobs.c.expired_at.is_(None),
)


class ForGallery(Base):
    """Public videos, whosever they are."""

    def gallery(self, *, now: datetime, after: str | None = None, limit: int = 20) -> Page:
        """List jobs whose videos are public and can be fetched, the newest first.

        Args:
            now: what expires before it is left out.
            after: id of the job that the page before ended with; it still marks its place when it is shown no more.
            limit: how many.

        Raises:
            InvalidParameter: no public job has the id `after`.
        """
        is_kept = sa.or_(jobs.c.expires_at.is_(None), jobs.c.expires_at > now)
        query = sa.select(jobs).where(_IS_SHOWN, is_kept, jobs.c.removal_tried_at.is_(None))
        with self._database.read() as connection:
            if after is not None:
                number = connection.scalar(
                    sa.select(jobs.c.number).where(jobs.c.id == after, jobs.c.is_public)
                )
                if number is None:
                    raise InvalidParameter("after", after, "no public video has this id")
                query = query.where(jobs.c.number < number)
            rows = connection.execute(query.order_by(jobs.c.number.desc()).limit(limit + 1)).all()
        return Page(tuple(job_of(row) for row in rows[:limit]), has_more=len(rows) > limit)

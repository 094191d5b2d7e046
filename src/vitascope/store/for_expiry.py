"""What the removal of expired files asks of the store.

Files go first and the row says so afterwards, so that `expired_at` is never there beside a file. Before both, the row is marked: from
then on the job's files are given out no more, even if a clock is set back, because some may be gone.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from .base import Base
from .rows import Removal, storage_keys
from .tables import jobs

GRACE = timedelta(seconds=60)
"""Files go so long after they are given out no more: who was let in just before has opened them by then, and the clocks of several machines
differ a little."""

TRY_AGAIN = timedelta(seconds=60)
"""A removal that was begun belongs to whoever began it for so long. That one may have been killed, or the storage be away."""

#: The words of the two indexes, without which SQLite would not use them. A deleted job is no exception: what a crash left of its files goes
#: here too, and SQLite, asked for `deleted_at IS NULL` as well, would read all jobs that ever were instead.
_HAS_FILES = jobs.c.expired_at.is_(None)


class ForExpiry(Base):
    """Jobs whose files are kept for a while only."""

    def begin_removal(self, max_jobs: int) -> list[Removal]:
        """Choose jobs whose files have expired a while ago. Nobody else gets them for a minute.

        Call `finish_removal` with those of them whose files are all gone. The others, and all of them if the caller dies, come again.
        """
        now = self._now()
        begun, expired = _begun(now).limit(max_jobs), _expired(now).limit(max_jobs)
        with self._database.read() as connection:  # mostly there are none: do not make writers wait
            if all(connection.execute(query).first() is None for query in (begun, expired)):
                return []
        with self._database.write() as connection:
            rows = [
                row
                for query in (begun, expired)
                for row in connection.execute(query.with_for_update(skip_locked=True)).all()
            ][:max_jobs]
            chosen = jobs.c.number.in_([row.number for row in rows])
            connection.execute(sa.update(jobs).where(chosen).values(removal_tried_at=now))
        return [Removal(row.id, tuple(storage_keys(row))) for row in rows]

    def finish_removal(self, job_ids: Collection[str]) -> int:
        """Write down that all files of these jobs are gone. Returns of how many that was news."""
        is_news = jobs.c.id.in_(job_ids) & jobs.c.removal_tried_at.is_not(None) & jobs.c.expired_at.is_(None)
        with self._database.write() as connection:
            return connection.execute(sa.update(jobs).where(is_news).values(expired_at=self._now())).rowcount

    def count_overdue(self) -> int:
        """Count jobs whose files should be gone and are not known to be."""
        is_overdue = _HAS_FILES & (jobs.c.expires_at <= self._now() - GRACE)
        with self._database.read() as connection:
            return connection.scalars(sa.select(sa.func.count()).select_from(jobs).where(is_overdue)).one()


_ROW = sa.select(jobs.c.number, jobs.c.id, jobs.c.request, jobs.c.videos)


def _begun(now: datetime) -> sa.Select[Any]:
    """Find removals that were begun and not finished in time, whatever the clock says of the expiry."""
    tried = jobs.c.removal_tried_at
    is_abandoned = (tried <= now - TRY_AGAIN) | (tried > now)  # later than now: the clock was set back since
    return _ROW.where(tried.is_not(None), _HAS_FILES, is_abandoned).order_by(tried, jobs.c.number)


def _expired(now: datetime) -> sa.Select[Any]:
    """Find those that nobody has begun with, the longest expired first."""
    is_new = jobs.c.removal_tried_at.is_(None)
    return _ROW.where(jobs.c.expires_at <= now - GRACE, _HAS_FILES, is_new).order_by(
        jobs.c.expires_at, jobs.c.number
    )

"""The clock of leases where the database has none of its own: one that nobody can set.

A lease must not lapse, nor last an hour longer, because the machine's clock was set. All processes of a SQLite store are
on one machine (network file systems are refused), and its monotonic clock is one for all of them and never jumps. It
counts from some moment of the boot; the first process of a boot writes down which instant that was by the wall clock,
and everybody adds to it. So instants of leases look like instants, but only the counter moves them. While the machine
sleeps it stands still, and so does the worker.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from vitascope.domain.job import JobStatus

from .tables import clock, jobs, workers

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

GRACE = timedelta(seconds=15)
"""After a boot, running jobs are taken from their workers so late. None can have lived through it; should the boot's name
be wrong for once, their next heartbeat keeps what is theirs."""


def read_boot_id() -> str | None:
    """Return what the kernel calls this boot; None where it has no name for it."""
    with contextlib.suppress(OSError):
        return BOOT_ID.read_text("ascii").strip() or None
    return None


def utc_now() -> datetime:
    """Return the wall clock's instant."""
    return datetime.now(UTC)


class MachineClock:
    """Counts from an instant that all processes since this machine's boot agreed on.

    Without a name for the boot it is the wall clock: nothing would tell a counter before the boot from one after it.
    """

    def __init__(
        self,
        boot_id: Callable[[], str | None] = read_boot_id,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = utc_now,
    ) -> None:
        self.boot_id = boot_id()
        self._monotonic = monotonic
        self._wall = wall
        #: What the wall clock would have said when the counter was 0.
        self._zero: datetime | None = None

    def now(self) -> datetime:
        if self._zero is None:
            return self._wall()
        return self._zero + timedelta(seconds=self._monotonic())

    def join(self, connection: sa.Connection) -> bool:
        """Take up this boot's instant from the database. Returns False if nobody has written it down yet."""
        if self.boot_id is None:
            return True
        self._zero = connection.scalar(sa.select(clock.c.zero).where(clock.c.boot_id == self.boot_id))
        return self._zero is not None

    def found(self, connection: sa.Connection) -> None:
        """Write down this boot's instant, and end what was left of the boots before."""
        if self.join(connection):
            return
        self._zero = self._wall() - timedelta(seconds=self._monotonic())
        connection.execute(sa.delete(clock))
        connection.execute(sa.insert(clock).values(boot_id=self.boot_id, zero=self._zero))
        is_running = jobs.c.status == JobStatus.RUNNING.value
        connection.execute(sa.update(jobs).where(is_running).values(lease_expires_at=self.now() + GRACE))
        connection.execute(sa.update(workers).values(stopped_at=self.now()))

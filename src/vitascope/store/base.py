"""What the parts of the store share: the database and two clocks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from .cipher import Cipher
from .clock import utc_now
from .database import Database


class Base:
    """A database with its clocks: history is told by this process's clock, leases by the database's.

    Args:
        database: where everything is.
        clock: stands for both clocks, in tests.
        cipher: for secrets; without one there can be none.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], datetime] | None = None,
        cipher: Cipher | None = None,
    ) -> None:
        self._database = database
        self._cipher = cipher or Cipher()
        self._clock = clock
        self._now = clock or utc_now

    def _lease_time(self, connection: sa.Connection) -> datetime:
        return self._database.lease_time(connection) if self._clock is None else self._clock()

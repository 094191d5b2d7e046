"""What keeps a job a worker's while something takes long: its lease is renewed, its progress told, a wish to cancel heard."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from vitascope.domain.errors import StoreUnavailable
from vitascope.domain.job import Lease
from vitascope.store import Store

logger = logging.getLogger(__name__)

CANCEL_POLL_SECONDS = 0.5
"""How often a running job looks whether it shall stop."""

STORE_RETRY_SECONDS = 1.0
"""Pause before a store that did not answer is asked again."""


class Heartbeat:
    """The life of one job at this worker.

    While the store is away the work goes on: the job is this worker's as long as its lease can be, by this process's own
    clock, which starts before the store's.

    Args:
        lease: the worker's right to the job.
        leased_at: when it was asked for, on the monotonic clock.
        lease_seconds: its length, from then and from each renewal.
        store: where the heartbeat goes.
    """

    def __init__(self, lease: Lease, leased_at: float, lease_seconds: float, store: Store) -> None:
        self.lease = lease
        #: Whether the job shall stop.
        self.is_cancelled = False
        #: Tells for how long others had the device so far.
        self.stood: Callable[[], float] = lambda: 0.0
        self.is_store_away = False
        #: What is to be kept for another try, by name, and has not been written down yet.
        self._unkept: dict[str, Callable[[], None]] = {}
        self._lease_seconds = lease_seconds
        self._store = store
        self._ours_until = leased_at + lease_seconds
        self._renew_at = leased_at + self.pause_seconds

    @property
    def pause_seconds(self) -> float:
        """How long to wait for something before `beat` is due."""
        return min(CANCEL_POLL_SECONDS, self._lease_seconds / 3)

    def beat(self) -> None:
        """Renew the lease if it is time to.

        Raises:
            LeaseLost: the job is another worker's.
            StoreUnavailable: the store was away for so long that the job may be another worker's.
        """
        asked_at = time.monotonic()
        if asked_at < self._renew_at:
            return
        try:
            is_cancelled = self._store.renew(self.lease, self._lease_seconds, stood_seconds=self.stood())
        except StoreUnavailable as error:
            self._away(error)
            return
        self.is_store_away = False
        self._ours_until = asked_at + self._lease_seconds
        self._renew_at = asked_at + self.pause_seconds
        self.is_cancelled = self.is_cancelled or is_cancelled
        self._catch_up()

    def report(self, percent: int, stage: str) -> None:
        """Write progress down, if the store is there; raises what `beat` raises."""
        self._tell(lambda: self._store.report(self.lease, percent, stage))

    def show(self, percent: int, stage: str, preview: str) -> None:
        """Let the job's followers see a small picture of it; else as `report`."""
        self._tell(lambda: self._store.show(self.lease, percent, stage, preview))

    def keep_prompts(self, texts: Sequence[str]) -> None:
        """Keep what a language model has written, so that another try does not ask it again; later, while the store is away.

        Raises what `beat` raises.
        """
        self._keep("prompts", lambda: self._store.keep_prompts(self.lease, texts))

    def keep_settled(self, settled: Mapping[str, str]) -> None:
        """Keep what the engine has chosen, so that another try makes the same; else as `keep_prompts`."""
        self._keep("settled", lambda: self._store.keep_settled(self.lease, settled))

    def _keep(self, name: str, write: Callable[[], None]) -> None:
        """Write it down, now or with the first beat that the store hears again: it is said only once."""
        self._unkept[name] = write
        self._catch_up()

    def _catch_up(self) -> None:
        for name, write in tuple(self._unkept.items()):
            self._tell(write)
            if self.is_store_away:
                return
            del self._unkept[name]

    def _tell(self, write: Callable[[], object]) -> None:
        if self.is_store_away:
            return
        try:
            write()
        except StoreUnavailable as error:
            self._away(error)

    def _away(self, error: StoreUnavailable) -> None:
        now = time.monotonic()
        if now >= self._ours_until:
            raise error
        if not self.is_store_away:
            logger.warning("%s: the work goes on", error.message, extra={"job_id": self.lease.job.id})
        self.is_store_away = True
        self._renew_at = min(now + STORE_RETRY_SECONDS, self._ours_until)

"""A worker whose jobs a peer server makes: it claims those that may be handed over, while they would wait longer here than there.

All the rest is the ordinary worker's: lease, fencing, progress, cancel, and how a job ends.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from vitascope import catalog
from vitascope.domain.arbiter import forecast
from vitascope.domain.command import SILENCE_LEASES
from vitascope.domain.errors import UnknownModel
from vitascope.domain.job import Job, Lease
from vitascope.outbound.peer import Peer, PeerAway, PeerRefused, PeerState
from vitascope.store import Store

from .errands import Models
from .messages import Message
from .parent import Files, Worker, WorkerConfig
from .peer_body import PLACEHOLDER, body_of, differences, why_stays
from .peer_engine import PeerEngine

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often a job that waits is looked at, and the peer asked: what it answers is up to a second old."""

GAIN = 0.8
"""A job is handed over if it waits at most this share of the time there: both times are guesses, and the way costs some too."""

AWAY_SECONDS = 5.0
"""How long a peer is left alone that does not answer, or refuses whatever is asked."""

RETURNED_SECONDS = 60.0
"""How long a job that came back stays here at least, if the peer may make it later."""

MAX_LEFT = 500
"""Jobs of which it is remembered that they stay here; the oldest are asked about again."""


class PeerWorker(Worker):
    """Works as `Worker` does, through a peer.

    Args:
        store: where jobs are.
        files: where finished videos go and inputs are.
        start_engine: makes what speaks with the peer.
        config: limits and folders.
        models: the catalog.
        peer: where it is.
        connect: opens a connection to it.
    """

    counts_attempts = False  # whoever ended it, that was not the job
    makes_several = False

    def __init__(
        self,
        store: Store,
        files: Files,
        start_engine: Callable[[], PeerEngine],
        config: WorkerConfig,
        models: Models,
        *,
        peer: str,
        connect: Callable[[], Peer],
    ) -> None:
        super().__init__(store, files, start_engine, config, models)
        self.peer = peer
        self._models = models
        self._connection = connect()
        self._version = ""
        self._look_at = float("-inf")
        #: Jobs that the peer does not make, and until when it is not asked again.
        self._left: dict[str, float] = {}
        #: What was last wrong with the peer: told once.
        self._problem: str | None = None

    def _claim(self, job_id: str | None = None) -> Lease | None:
        """Take the next job that may be handed over, if the peer would begin with it sooner than a worker here."""
        assert job_id is None
        if time.monotonic() < self._look_at:
            return None
        job = self._store.next_to_hand_over(device=self._device, without=self._left_now())
        if job is None:
            return None
        self._look_at = time.monotonic() + LOOK_SECONDS
        try:
            if not self._is_better_there(job):
                return None
        except PeerAway as error:
            self._rest(error.reason, AWAY_SECONDS)
            return None
        except PeerRefused as error:
            if error.is_for_now:
                self._rest(str(error), error.retry_after_seconds or AWAY_SECONDS)
            else:
                self._leave(job.id, str(error))
            return None
        lease_seconds = self._config.lease_seconds
        lease = self._store.claim(self._config.worker_id, lease_seconds, device=self._device, job_id=job.id)
        if lease is not None:
            logger.info("job handed over", extra={"job_id": job.id, "peer": self.peer})
        return lease

    def _is_better_there(self, job: Job) -> bool:
        """Whether the peer makes the same of it, and begins with it sooner.

        Raises:
            PeerAway: it does not answer.
            PeerRefused: it does not make this.
        """
        if (reason := why_stays(job.request, job.plan)) is not None:
            self._leave(job.id, reason)
            return False
        wait_here = self._wait_here(job)
        if wait_here <= 0:
            return False
        state = self._connection.state()
        if state.deployment == self._store.deployment_id():
            raise PeerAway("is this server itself")
        self._well(state)
        if state.wait_seconds is None or state.wait_seconds > GAIN * wait_here:
            return False
        if (reason := self._why_not_with(job.plan.model)) is not None:
            self._leave(job.id, reason)
            return False
        theirs = self._connection.plan(body_of(job.request, job.plan, lambda _file: PLACEHOLDER))
        if different := differences(job.plan, theirs):
            self._leave(job.id, f"would make it with another {', '.join(different)}")
            return False
        return True

    def _why_not_with(self, model: str) -> str | None:
        """Say why the peer cannot make videos with the model that is meant here; None if it can."""
        try:
            spec = self._models.resolve(model)
        except UnknownModel:
            return "is not asked for a model that is not here any more"
        theirs = self._connection.model(model)
        if theirs is None:
            return "has not this model"
        ours, is_folder = catalog.weights_of(spec), spec.source.startswith("folder:")
        known: dict[str, str | int | None] = {"source": "folder" if is_folder else spec.source}
        known["revision"] = ours.revision if ours.is_downloaded else spec.revision
        if is_folder and ours.is_downloaded:  # whose path says nothing, and which has no revision
            known["num_bytes_on_disk"] = ours.num_bytes
        differ = [name for name, value in known.items() if value is not None and theirs.get(name) != value]
        return f"has this model with another {', '.join(differ)}" if differ else None

    def _wait_here(self, job: Job) -> float:
        """Seconds until a worker here would begin with it, as things stand; endless where there is none."""
        situation = self._store.situation(SILENCE_LEASES * self._config.lease_seconds)
        turns = forecast(situation.waiting, situation.served_seconds, situation.free_in)
        turn = turns.get(job.id)
        return math.inf if turn is None or turn.starts_in is None else turn.starts_in

    def _well(self, state: PeerState) -> None:
        self._version = state.version
        if self._problem is not None:
            self._problem = None
            logger.info("the peer answers again", extra={"peer": self.peer})

    def _rest(self, problem: str, seconds: float) -> None:
        """Leave the peer alone for a while."""
        self._look_at = time.monotonic() + seconds
        if problem != self._problem:
            self._problem = problem
            logger.warning("the peer cannot be used now", extra={"peer": self.peer, "reason": problem})

    def _leave(self, job_id: str, reason: str, seconds: float = math.inf) -> None:
        """Note that a job stays here; the next one is looked at soon."""
        self._look_at = float("-inf")
        self._left.pop(job_id, None)
        self._left[job_id] = time.monotonic() + seconds
        while len(self._left) > MAX_LEFT:
            self._left.pop(next(iter(self._left)))
        logger.info("job stays here", extra={"job_id": job_id, "peer": self.peer, "reason": reason})

    def _left_now(self) -> list[str]:
        now = time.monotonic()
        self._left = {job_id: until for job_id, until in self._left.items() if until > now}
        return list(self._left)

    def _more_of_order(self, lease: Lease) -> Message:
        more = {"request": lease.job.request.to_dict(), "token": lease.token, "peer_version": self._version}
        return {**super()._more_of_order(lease), **more}

    def _came_back(self, job_id: str, *, for_now: bool) -> None:
        if not for_now:
            self._leave(job_id, "it came back")
        elif self._left.get(job_id) != math.inf:
            self._leave(job_id, "it came back", RETURNED_SECONDS)
        self._look_at = time.monotonic() + AWAY_SECONDS  # whatever it was, the next job may meet it too

    def _sweep_some(self) -> None:
        """Leave the storage to the workers that have a device."""

"""Waiting times: where each job is in the queue and when it will be ready, as things stand."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vitascope.domain.arbiter import Turn, forecast, newcomer_waits
from vitascope.domain.job import Job, JobStatus
from vitascope.store import Situation

FRESH_SECONDS = 1.0
"""How long a look at the queue is good for; answers count the seconds since."""

OUTDATED_SECONDS = 5.0
"""After so much longer a look is good for nothing: answers wait for the next one."""

SHARE_OF_TIME = 0.05
"""Looking at a long queue may take at most this share of a process's time: then it is looked at less often."""

UNKNOWN_RETRY_SECONDS, MAX_RETRY_SECONDS = 10, 120
"""When to come back to a full queue: where nothing was measured, and at most."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is expected of a job that has not ended."""

    #: Of a waiting job; 1 goes next.
    queue_position: int | None = None
    #: Until its video is ready; None if that is unknown: its model was never measured, or no worker lives.
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _View:
    """The queue at one moment."""

    seen_at: float = float("-inf")
    good_until: float = float("-inf")
    turns: Mapping[str, Turn] = field(default_factory=dict)
    #: Seconds from `seen_at` until running jobs end; those of unknown models are left out.
    ends_in: Mapping[str, float] = field(default_factory=dict)
    #: Jobs before which, in the queue or at work, everything is measured.
    known: frozenset[str] = frozenset()
    #: Seconds that who comes now waits, behind all others; None if no worker lives.
    newcomer_waits: float | None = None


class Outlook:
    """Answers from a look at the queue that is at most a second old, or somewhat older if the queue is very long.

    Safe to use from several threads.

    Args:
        look: reads all that waiting times depend on.
        clock: monotonic seconds.
    """

    def __init__(self, look: Callable[[], Situation], clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._view = _View()
        self._lock = threading.Lock()

    @property
    def is_stale(self) -> bool:
        """Whether `refresh` would look again."""
        return self._clock() > self._view.good_until

    @property
    def is_outdated(self) -> bool:
        """Whether the last look is too old to answer from while there is a new one."""
        return self._clock() > self._view.good_until + OUTDATED_SECONDS

    def refresh(self) -> None:
        """Look at the queue, if the last look is too old. Another thread that looks already is waited for.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with self._lock:
            if self.is_stale:
                started_at = self._clock()
                situation = self._look()
                self._view = _view(situation, started_at, self._clock())

    def of(self, job: Job) -> Expectation:
        """Tell what is expected of a job, as of the last look."""
        view = self._view
        age = self._clock() - view.seen_at
        if job.status is JobStatus.RUNNING:
            ends_in = view.ends_in.get(job.id)
            return Expectation(eta_seconds=None if ends_in is None else max(0.0, ends_in - age))
        turn = view.turns.get(job.id)
        if job.status is not JobStatus.QUEUED:
            return Expectation()
        if turn is None:  # it came after the last look
            return Expectation(len(view.turns) + 1)
        is_known = job.id in view.known and turn.ends_in is not None
        eta_seconds = max(0.0, turn.ends_in - age) if is_known and turn.ends_in is not None else None
        return Expectation(turn.position, eta_seconds)

    @property
    def newcomer_waits(self) -> float | None:
        """Seconds until a job that came now would begin, behind all others; None if no worker lives."""
        waits = self._view.newcomer_waits
        return None if waits is None else max(0.0, waits - (self._clock() - self._view.seen_at))

    def retry_seconds(self) -> int:
        """Tell when a place in a full queue should be free: when the next running job ends."""
        ends = list(self._view.ends_in.values())
        if not ends:
            return UNKNOWN_RETRY_SECONDS
        age = self._clock() - self._view.seen_at
        return min(max(1, math.ceil(min(ends) - age)), MAX_RETRY_SECONDS)


def _view(situation: Situation, started_at: float, now: float) -> _View:
    lost = situation.lost
    remaining = {
        job.job_id: None if job.job_id in lost else job.remaining_seconds for job in situation.running
    }
    free_in = situation.free_in
    turns = forecast(situation.waiting, situation.served_seconds, free_in)
    is_known = all(remaining[job.job_id] is not None for job in situation.running if job.job_id not in lost)
    known: set[str] = set()
    for candidate in sorted(situation.waiting, key=lambda candidate: turns[candidate.job_id].position):
        is_known = is_known and candidate.seconds is not None
        if is_known:
            known.add(candidate.job_id)
    return _View(
        seen_at=now,
        good_until=now + max(FRESH_SECONDS, (now - started_at) / SHARE_OF_TIME),
        turns=turns,
        ends_in={job_id: seconds for job_id, seconds in remaining.items() if seconds is not None},
        known=frozenset(known),
        newcomer_waits=newcomer_waits(turns, free_in),
    )

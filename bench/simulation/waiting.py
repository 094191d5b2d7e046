"""Who waits, and the bounded window of them that a claim looks at."""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Mapping

from vitascope.domain.arbiter import Candidate
from vitascope.store.queue import JOBS_PER_LINE, KEYS_PER_CLAIM

from .trace import Job


class Waiting:
    """Jobs that wait, by key: as the store keeps them."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._by_key: defaultdict[str, dict[int, Job]] = defaultdict(dict)  # oldest first
        self._by_length: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        self._jobs[job.number] = self._by_key[job.key][job.number] = job
        bisect.insort(self._by_length[job.key], (job.expected_seconds, job.number))

    def take(self, number: int) -> Job:
        job = self._jobs.pop(number)
        del self._by_key[job.key][number]
        lengths = self._by_length[job.key]
        del lengths[bisect.bisect_left(lengths, (job.expected_seconds, number))]
        return job

    def window(self, served: Mapping[str, float], now: float) -> list[Candidate]:
        """The oldest and the shortest jobs of the keys that are due."""
        keys = [key for key, jobs in self._by_key.items() if jobs]
        due = sorted(keys, key=lambda key: served.get(key, 0.0))[:KEYS_PER_CLAIM]
        found = {job.number: job for key in due for job in (*self._oldest(key), *self._some_short(key))}
        return [_candidate(found[number], now) for number in sorted(found)]

    def candidate(self, number: int, now: float) -> Candidate | None:
        job = self._jobs.get(number)
        return None if job is None else _candidate(job, now)

    def _oldest(self, key: str) -> list[Job]:
        return list(itertools.islice(self._by_key[key].values(), JOBS_PER_LINE))

    def _some_short(self, key: str) -> list[Job]:
        return [self._jobs[number] for _, number in self._by_length[key][:JOBS_PER_LINE]]


def _candidate(job: Job, now: float) -> Candidate:
    waited = max(0.0, now - job.arrived_at)
    return Candidate(str(job.number), job.key, job.kind.model, job.expected_seconds, waited)

"""Who waits, and the bounded window of them that a claim looks at."""

from __future__ import annotations

import heapq
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
        self._shortest: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        self._jobs[job.number] = self._by_key[job.key][job.number] = job
        heapq.heappush(self._shortest[job.key], (job.expected_seconds, job.number))

    def take(self, number: int) -> Job:
        job = self._jobs.pop(number)
        del self._by_key[job.key][number]
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
        return [job for job, _ in zip(self._by_key[key].values(), range(JOBS_PER_LINE), strict=False)]

    def _some_short(self, key: str) -> list[Job]:
        heap = self._shortest[key]
        found: list[tuple[float, int]] = []
        while heap and len(found) < JOBS_PER_LINE:
            entry = heapq.heappop(heap)
            if entry[1] in self._jobs:
                found.append(entry)
        for entry in found:
            heapq.heappush(heap, entry)
        return [self._jobs[number] for _, number in found]


def _candidate(job: Job, now: float) -> Candidate:
    waited = max(0.0, now - job.arrived_at)
    return Candidate(str(job.number), job.key, job.kind.model, job.expected_seconds, waited)

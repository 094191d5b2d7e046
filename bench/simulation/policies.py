"""What becomes of a trace, and what open servers do with it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .residents import Residents
from .trace import Job

MEMORY_GIGABYTES = 110.0
"""Of an H200 for weights: what is left beside the work of four generations. All models that are here fit."""


@dataclass(slots=True)
class Outcome:
    """What became of a trace."""

    jobs: Sequence[Job]
    num_devices: int
    #: In which devices worked or loaded.
    busy_seconds: float
    #: From the first arrival until the last job is done.
    seconds: float
    num_loads: int = 0
    num_switches: int = 0
    most_open: int = 1

    @property
    def utilisation(self) -> float:
        return self.busy_seconds / (self.num_devices * self.seconds)


class Clock:
    """Instants to come, and what happens then."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what))

    def run(self) -> None:
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()


def first_come(jobs: Sequence[Job], num_devices: int, memory_gigabytes: float = MEMORY_GIGABYTES) -> Outcome:
    """First come, first served, to completion: what open servers do. Writing goes on beside the next job here too."""
    residents = [Residents(memory_gigabytes) for _ in range(num_devices)]
    free = [(0.0, number) for number in range(num_devices)]
    busy = end = 0.0
    for job in jobs:
        free_at, number = free[0]
        begun = max(job.arrived_at, free_at)
        seconds = job.kind.device_seconds + (residents[number].bring(job.kind.model, begun) or 0.0)
        heapq.heapreplace(free, (begun + seconds, number))
        busy += seconds
        job.done_at = begun + seconds + job.kind.write_seconds
        end = max(end, job.done_at)
    num_loads = sum(each.num_loads for each in residents)
    return Outcome(jobs, num_devices, busy, end - jobs[0].arrived_at, num_loads)

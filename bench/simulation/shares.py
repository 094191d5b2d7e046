"""What each job would take if the devices were shared evenly between the keys at every instant, as a fluid.

No server can do that: it is the measure of what is fair. A key that needs less than its share leaves the rest to the others; a key's
own share serves its shortest jobs first, each on at most one device.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from .trace import Job

LEAST_SECONDS = 1e-9
"""So little is nothing."""


def own_slices(jobs: Sequence[Job], num_devices: int) -> list[float]:
    """Tell how long each job takes where each key has its even part of the devices for itself, used or not."""
    keys = sorted({job.key for job in jobs})
    took = [math.nan] * len(jobs)
    for key in keys:
        own = [job for job in jobs if job.key == key]
        for job, seconds in zip(own, evenly_shared(own, num_devices / len(keys)), strict=True):
            took[job.number] = seconds
    return took


def evenly_shared(jobs: Sequence[Job], num_devices: float) -> list[float]:
    """Tell for each job how long it takes from its arrival. Costs little more for many devices than for one."""
    lines: dict[str, _Line] = {job.key: _Line() for job in jobs}
    took = [math.nan] * len(jobs)
    now, index = 0.0, 0
    while index < len(jobs) or any(lines.values()):
        shares = _shares({key: len(line) for key, line in lines.items() if line}, num_devices)
        until = jobs[index].arrived_at - now if index < len(jobs) else math.inf
        for key, share in shares.items():
            lines[key].divide(share)
            until = min(until, lines[key].next_done_in)
        now += until
        for key in shares:
            for number in lines[key].advance(until):
                took[number] = now - jobs[number].arrived_at + jobs[number].kind.write_seconds
        while index < len(jobs) and jobs[index].arrived_at <= now + 1e-12:
            lines[jobs[index].key].add(jobs[index].kind.device_seconds, index)
            index += 1
    return took


class _Line:
    """A key's jobs, the shortest of which have a device each, and the next what is over of its share.

    Those that have a whole device all fall by the same: what is kept of them is what would be left of each if it had fallen
    since the beginning, so that time passing changes none of them.
    """

    def __init__(self) -> None:
        self._fallen = 0.0
        self._whole: list[tuple[float, int]] = []
        self._rest: list[tuple[float, int]] = []
        self._over = 0.0

    def __len__(self) -> int:
        return len(self._whole) + len(self._rest)

    def add(self, seconds: float, number: int) -> None:
        bisect.insort(self._rest, (seconds, number))

    def divide(self, share: float) -> None:
        """Give so many devices to its jobs from now on."""
        num_whole = int(share + 1e-12)
        self._over = max(0.0, share - num_whole)
        while len(self._whole) > num_whole:
            self._stop_longest()
        while self._rest and len(self._whole) < num_whole:
            self._begin_shortest()
        while self._whole and self._rest and self._rest[0][0] < self._whole[-1][0] - self._fallen:
            self._stop_longest()
            self._begin_shortest()

    def _begin_shortest(self) -> None:
        seconds, number = self._rest.pop(0)
        bisect.insort(self._whole, (seconds + self._fallen, number))

    def _stop_longest(self) -> None:
        seconds, number = self._whole.pop()
        bisect.insort(self._rest, (seconds - self._fallen, number))

    @property
    def next_done_in(self) -> float:
        whole = self._whole[0][0] - self._fallen if self._whole else math.inf
        return min(whole, self._rest[0][0] / self._over if self._rest and self._over else math.inf)

    def advance(self, seconds: float) -> list[int]:
        """Let time pass; returns the numbers of the jobs that are done then."""
        done = []
        self._fallen += seconds
        while self._whole and self._whole[0][0] - self._fallen <= LEAST_SECONDS:
            done.append(self._whole.pop(0)[1])
        if self._rest and self._over:
            left, number = self._rest[0]
            left -= self._over * seconds
            if left <= LEAST_SECONDS:
                del self._rest[0]
                done.append(number)
            else:
                self._rest[0] = (left, number)
        return done


def _shares(counts: dict[str, int], num_devices: float) -> dict[str, float]:
    """Share devices evenly among keys, none of which can use more than one for each of its jobs."""
    shares: dict[str, float] = {}
    free = num_devices
    for number, (key, count) in enumerate(sorted(counts.items(), key=lambda item: item[1])):
        shares[key] = min(float(count), free / (len(counts) - number))
        free -= shares[key]
    return shares

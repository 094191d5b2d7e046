"""What each job would take if the devices were shared evenly between the keys at every instant, as a fluid.

No server can do that: it is the measure of what is fair. A key that needs less than its share leaves the rest to the others; a key's
own share serves its shortest jobs first, each on at most one device.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from .trace import Job


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
    """Tell for each job how long it takes from its arrival."""
    left: dict[str, list[tuple[float, int]]] = {}  # by key, what is left of its jobs, the shortest first
    took = [math.nan] * len(jobs)
    now, index = 0.0, 0
    while index < len(jobs) or left:
        counts = {key: len(these) for key, these in left.items()}
        shares = _shares(counts, num_devices)
        until = jobs[index].arrived_at - now if index < len(jobs) else math.inf
        for key, these in left.items():
            for (seconds, _), rate in zip(these, _rates(shares[key]), strict=False):
                until = min(until, seconds / rate)
        now += until
        for key, these in list(left.items()):
            rates = _rates(shares[key])
            served = [(s - rate * until, n) for (s, n), rate in zip(these, rates, strict=False)]
            rest = these[len(served) :]
            for seconds, number in served:
                if seconds <= 1e-9:
                    took[number] = now - jobs[number].arrived_at + jobs[number].kind.write_seconds
            kept = [entry for entry in served if entry[0] > 1e-9]
            left[key] = (
                sorted(kept) + rest if not rest or not kept or max(kept) <= rest[0] else sorted(kept + rest)
            )
            if not left[key]:
                del left[key]
        while index < len(jobs) and jobs[index].arrived_at <= now + 1e-12:
            bisect.insort(left.setdefault(jobs[index].key, []), (jobs[index].kind.device_seconds, index))
            index += 1
    return took


def _rates(share: float) -> list[float]:
    """A whole device for each of the first jobs, and what is over for one more."""
    whole = int(share + 1e-12)
    over = share - whole
    return [1.0] * whole + ([over] if over > 1e-12 else [])


def _shares(counts: dict[str, int], num_devices: float) -> dict[str, float]:
    """Share devices evenly among keys, none of which can use more than one for each of its jobs."""
    shares: dict[str, float] = {}
    free = num_devices
    for number, (key, count) in enumerate(sorted(counts.items(), key=lambda item: item[1])):
        shares[key] = min(float(count), free / (len(counts) - number))
        free -= shares[key]
    return shares

"""Devices under one rule or another, driven by a heap of events."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vitascope.domain import arbiter
from vitascope.domain.arbiter import Candidate

from .trace import Job
from .waiting import Waiting

SWITCH_SECONDS = 0.01
"""What it costs to go on with another open job."""

PAUSE_SECONDS = 0.5
"""A longer step stands still between its blocks too (`engine.generation`); blocks take up to so long here."""

OFFERS = 32
"""Of many busy devices so many look at a job that comes; later the others do, when a job of theirs is done."""

SERVED_FOR_SECONDS = 1.0
"""On many devices what keys have had is added up anew so often only: the store does it at each claim."""

SLOTS = 4
"""`engine.slots`."""


@dataclass(slots=True)
class Outcome:
    """What became of a trace."""

    jobs: Sequence[Job]
    num_devices: int
    busy_seconds: float
    #: From the first arrival until the last job is done.
    seconds: float
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


def first_come(jobs: Sequence[Job], num_devices: int) -> Outcome:
    """First come, first served, to completion: what open servers do. Writing goes on beside the next job here too."""
    free = [0.0] * num_devices
    busy = end = 0.0
    for job in jobs:
        begun = max(job.arrived_at, free[0])
        left = begun + job.kind.device_seconds
        heapq.heapreplace(free, left)
        busy += job.kind.device_seconds
        job.done_at = left + job.kind.write_seconds
        end = max(end, job.done_at)
    return Outcome(jobs, num_devices, busy, end - jobs[0].arrived_at)


@dataclass(slots=True, eq=False)
class Open:
    """A job that is open on a device."""

    job: Job
    opened_at: float
    done_steps: int = 0
    worked_seconds: float = 0.0

    @property
    def left_seconds(self) -> float:
        return self.job.kind.device_seconds - self.worked_seconds

    def candidate(self, now: float) -> Candidate:
        """As the engine sees it: what is left is known well once a few steps are done."""
        waited = max(0.0, now - self.opened_at - self.worked_seconds)
        return Candidate(str(self.job.number), self.job.key, self.job.kind.model, self.left_seconds, waited)


@dataclass(slots=True, eq=False)
class Device:
    number: int
    open: list[Open] = field(default_factory=list)
    working: Open | None = None
    #: Since when it works without a look at who else is open.
    since: float = 0.0
    last: Open | None = None
    #: Grows when the plan changes: events of older plans are void.
    plan: int = 0
    time: arbiter.DeviceTime = field(default_factory=arbiter.DeviceTime)


class Fleet:
    """Devices that ask the arbiter.

    Args:
        num_devices: of one kind.
        with_turns: jobs may be begun beside others and take turns by steps; else only the order of claims is the arbiter's.
    """

    def __init__(self, num_devices: int, *, with_turns: bool = True, seed: int = 0) -> None:
        self._clock = Clock()
        self._devices = [Device(number) for number in range(num_devices)]
        self._idle = deque(self._devices)
        self._waiting = Waiting()
        self._with_turns = with_turns
        self._rng = random.Random(seed)
        self._ended: dict[str, float] = {}
        self._ended_at = 0.0
        self._running: dict[int, Open] = {}
        self._served_then: dict[str, float] = {}
        self._added_up_at = -math.inf
        self._busy = self._end = 0.0
        self._num_switches = 0
        self._most_open = 1

    def run(self, jobs: Sequence[Job]) -> Outcome:
        for job in jobs:
            self._clock.at(job.arrived_at, lambda job=job: self._arrive(job))  # type: ignore[misc]
        self._clock.run()
        seconds = self._end - jobs[0].arrived_at
        return Outcome(jobs, len(self._devices), self._busy, seconds, self._num_switches, self._most_open)

    # the store

    def _arrive(self, job: Job) -> None:
        self._waiting.add(job)
        if self._idle:
            self._claim(self._idle.popleft())
        elif self._with_turns:
            when = job.arrived_at + arbiter.beside_after(job.expected_seconds) + 1e-6
            self._clock.at(when, lambda: self._offer(job.number))

    def _served(self) -> dict[str, float]:
        """What `store.queue.served_seconds` tells."""
        is_many = len(self._devices) > 100
        if is_many and self._clock.now < self._added_up_at + SERVED_FOR_SECONDS:
            return self._served_then
        self._added_up_at = self._clock.now
        factor = arbiter.faded(1.0, self._clock.now - self._ended_at)
        self._ended = {key: seconds * factor for key, seconds in self._ended.items()}
        self._ended_at = self._clock.now
        served = dict(self._ended)
        for open_ in self._running.values():
            counts = arbiter.counted(open_.worked_seconds, open_.left_seconds)
            served[open_.job.key] = served.get(open_.job.key, 0.0) + counts
        self._served_then = served
        return served

    def _claim(self, device: Device) -> None:
        """Let a device that nobody needs begin whose turn it is."""
        served = self._served()
        chosen = arbiter.next_of(self._waiting.window(served, self._clock.now), served)
        if chosen is None:
            self._idle.append(device)
        else:
            self._begin(device, int(chosen.job_id))

    def _begin(self, device: Device, number: int) -> None:
        job = self._waiting.take(number)
        device.time.begin(job.key, {open_.job.key for open_ in device.open})
        opened = Open(job, self._clock.now)
        self._running[job.number] = opened
        then = self._served_then
        then[job.key] = then.get(job.key, 0.0) + arbiter.counted(0.0, job.expected_seconds)
        device.open.append(opened)
        self._most_open = max(self._most_open, len(device.open))
        self._replan(device)

    def _offer(self, number: int) -> None:
        """A job found no idle device: some busy one may begin it beside."""
        candidate = self._waiting.candidate(number, self._clock.now)
        if candidate is None:
            return
        served, first = self._served(), self._rng.randrange(len(self._devices))
        for device in (self._devices[first:] + self._devices[:first])[:OFFERS]:
            if self._is_worth(candidate, device, served):
                self._begin(device, number)
                return

    def _look_beside(self, device: Device) -> None:
        """A device has a place again."""
        served = self._served()
        window = self._waiting.window(served, self._clock.now)
        worth = [candidate for candidate in window if self._is_worth(candidate, device, served)]
        chosen = arbiter.next_of(worth, served)
        if chosen is not None:
            self._begin(device, int(chosen.job_id))

    def _is_worth(self, candidate: Candidate, device: Device, served: dict[str, float]) -> bool:
        if not len(device.open) < SLOTS:
            return False
        self._catch_up(device)
        running = [open_.candidate(self._clock.now) for open_ in device.open]
        return arbiter.worth_beside(candidate, running, served)

    # the engine

    def _catch_up(self, device: Device) -> None:
        """Count the work since the last look; what is left of the step at hand goes on."""
        working = device.working
        if working is None or self._clock.now <= device.since:
            return
        seconds = self._clock.now - device.since
        device.since = self._clock.now
        working.worked_seconds += seconds
        self._busy += seconds
        device.time.work(working.job.key, seconds)

    def _replan(self, device: Device) -> None:
        """Someone has come or gone: choose at the end of the step at hand."""
        self._catch_up(device)
        device.plan += 1
        plan, working = device.plan, device.working
        if working is None:
            self._choose(device, plan)
            return
        step = min(working.job.kind.step_seconds, PAUSE_SECONDS)
        into = math.fmod(working.worked_seconds, step)
        boundary = min(step - into, working.left_seconds)
        self._clock.at(self._clock.now + boundary, lambda: self._choose(device, plan))

    def _choose(self, device: Device, plan: int) -> None:
        """At a step's end: end who is done, and let who is next work."""
        if plan != device.plan:
            return
        self._catch_up(device)
        working = device.working
        if working is not None and working.left_seconds <= 1e-9:
            self._finish(device, working)
            if not device.open:
                self._claim(device)
                return
            if self._with_turns and len(self._waiting):
                self._look_beside(device)
                if plan != device.plan:
                    return
        last = None if device.last is None else str(device.last.job.number)
        if len(device.open) == 1:
            chosen = device.open[0]
        else:
            by_id = {str(open_.job.number): open_ for open_ in device.open}
            candidates = [open_.candidate(self._clock.now) for open_ in device.open]
            chosen = by_id[arbiter.next_step(candidates, device.time.served_seconds, last).job_id]
        self._work(device, chosen)

    def _work(self, device: Device, chosen: Open) -> None:
        pause = 0.0
        if device.last is not None and device.last is not chosen and device.last in device.open:
            self._num_switches += 1
            pause = SWITCH_SECONDS
        device.working = device.last = chosen
        device.since = self._clock.now + pause
        device.plan += 1
        plan, length = device.plan, chosen.left_seconds
        if len(device.open) > 1:
            length = min(length, max(chosen.job.kind.step_seconds, PAUSE_SECONDS))
        self._clock.at(device.since + length, lambda: self._choose(device, plan))

    def _finish(self, device: Device, done: Open) -> None:
        job = done.job
        device.open.remove(done)
        device.working = device.last = None
        job.done_at = self._clock.now + job.kind.write_seconds
        self._end = max(self._end, job.done_at)
        del self._running[job.number]
        self._served()
        self._ended[job.key] = self._ended.get(job.key, 0.0) + arbiter.counted(done.worked_seconds)

"""Devices that ask the arbiter, driven by a heap of events."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from vitascope.domain import arbiter
from vitascope.domain.arbiter import Candidate

from .policies import MEMORY_GIGABYTES, Clock, Outcome
from .residents import Residents
from .trace import Job
from .waiting import Waiting

SWITCH_SECONDS = 0.01
"""What it costs to go on with another open job."""

PAUSE_SECONDS = 0.5
"""A longer step stands still between its blocks too (`engine.generation`); blocks take up to so long here."""

TURN_SECONDS = 2.0
"""Where nobody comes or goes, those that are open are looked at so often: as they age, the order changes slowly."""

AHEAD_SECONDS = 2.0
"""So often a worker looks whether the next job's model is to be loaded beside what runs (`worker.ahead`)."""

OFFERS = 32
"""Of many busy devices so many look at a job that comes; later the others do, when a job of theirs is done."""

SERVED_FOR_SECONDS = 4.0
"""On many devices what keys have had is added up anew so often only: the store does it at each claim."""

SLOTS = 4
"""`engine.slots`."""

SHARE_SECONDS = 120.0
"""Jobs that share forwards for so long let others have their turn (`worker.parent`)."""

SHARED_COST = 0.49
"""Of a forward for several, for each more than one, as a share of a forward for one: of two, four and eight samples one takes
1.45, 2.4 and 4.4 times as long (`python -m bench.company`, pocket in bfloat16)."""


@dataclass(slots=True, eq=False)
class Open:
    """A job that is open on a device."""

    job: Job
    opened_at: float
    #: For which its model is loaded first.
    load_seconds: float = 0.0
    #: What it has got, as if it had been alone.
    worked_seconds: float = 0.0
    #: What it had of the device: less, where forwards were for several.
    had_seconds: float = 0.0

    @property
    def left_seconds(self) -> float:
        return self.load_seconds + self.job.kind.device_seconds - self.worked_seconds

    @property
    def left_in_steps(self) -> float:
        """Of what several can have in common; nothing, where that is not where it stands."""
        if not self.job.kind.is_shared or self.worked_seconds < self.load_seconds - 1e-9:
            return 0.0
        return max(0.0, self.load_seconds + self.job.kind.steps_seconds - self.worked_seconds)

    def candidate(self, now: float) -> Candidate:
        """As the engine sees it: what is left is known well once a few steps are done."""
        waited = max(0.0, now - self.opened_at - self.had_seconds)
        return Candidate(str(self.job.number), self.job.key, self.job.kind.model, self.left_seconds, waited)


@dataclass(slots=True, eq=False)
class Device:
    residents: Residents
    open: list[Open] = field(default_factory=list)
    #: Who works; several, where they have their forwards in common.
    working: list[Open] = field(default_factory=list)
    #: Since when it works without a look at who else is open.
    since: float = 0.0
    last: Open | None = None
    #: Grows when the plan changes: events of older plans are void.
    plan: int = 0
    time: arbiter.DeviceTime = field(default_factory=arbiter.DeviceTime)
    looks_ahead: bool = False
    #: When a job was begun on it that nobody else was beside.
    alone_at: float = 0.0

    @property
    def cost(self) -> float:
        """Seconds in which each of those that work gets one."""
        return 1.0 + SHARED_COST * (len(self.working) - 1)

    def has_room_for(self, model: str, now: float) -> bool:
        return len(self.open) < SLOTS and model in self.residents.loaded(now)


class Fleet:
    """Devices that ask the arbiter.

    Args:
        num_devices: of one kind.
        with_turns: jobs may be begun beside others and take turns by steps; else only the order of claims is the arbiter's.
        memory_gigabytes: of each device, for weights.
        seed: of which devices see a job first.
    """

    def __init__(
        self,
        num_devices: int,
        *,
        with_turns: bool = True,
        memory_gigabytes: float = MEMORY_GIGABYTES,
        seed: int = 0,
    ) -> None:
        self._clock = Clock()
        self._devices = [Device(Residents(memory_gigabytes)) for _ in range(num_devices)]
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
        num_loads = sum(device.residents.num_loads for device in self._devices)
        counts = {"num_loads": num_loads, "num_switches": self._num_switches, "most_open": self._most_open}
        return Outcome(jobs, len(self._devices), self._busy, seconds, **counts)

    # the store

    def _arrive(self, job: Job) -> None:
        self._waiting.add(job)
        if self._idle:
            self._claim(self._idle.popleft())
        elif self._with_turns:
            self._offer_at(job, arbiter.BESIDE_AFTER_SECONDS if job.kind.is_shared else self._after(job))

    def _after(self, job: Job) -> float:
        return arbiter.beside_after(job.expected_seconds)

    def _offer_at(self, job: Job, seconds: float) -> None:
        self._clock.at(job.arrived_at + seconds + 1e-6, lambda: self._offer(job))

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
            counts = arbiter.counted(open_.had_seconds, open_.left_seconds)
            served[open_.job.key] = served.get(open_.job.key, 0.0) + counts
        self._served_then = served
        return served

    def _next(self, device: Device) -> Candidate | None:
        served, now = self._served(), self._clock.now
        return arbiter.next_of(self._waiting.window(served, now), served, device.residents.loaded(now))

    def _claim(self, device: Device) -> None:
        """Let a device that nobody needs begin whose turn it is."""
        chosen = self._next(device)
        if chosen is None:
            self._idle.append(device)
        else:
            self._begin(device, int(chosen.job_id))

    def _begin(self, device: Device, number: int) -> None:
        now = self._clock.now
        job = self._waiting.take(number)
        device.time.begin(job.key, {open_.job.key for open_ in device.open})
        if not device.open:
            device.alone_at = now
        load_seconds = device.residents.bring(job.kind.model, now)
        assert load_seconds is not None, "only who has nothing open takes what is not loaded"
        opened = Open(job, now, load_seconds)
        self._running[job.number] = opened
        then = self._served_then
        then[job.key] = then.get(job.key, 0.0) + arbiter.counted(0.0, job.expected_seconds)
        device.open.append(opened)
        self._most_open = max(self._most_open, len(device.open))
        if self._with_turns and not device.looks_ahead and not device.residents.has_all:
            device.looks_ahead = True
            self._clock.at(now + AHEAD_SECONDS, lambda: self._look_ahead(device))
        self._replan(device)

    def _look_ahead(self, device: Device) -> None:
        """Load the next job's model beside what runs, if there is room."""
        now, residents = self._clock.now, device.residents
        device.looks_ahead = bool(device.open) and not residents.has_all
        if not device.looks_ahead:
            return
        if len(self._waiting) and not residents.is_coming(now) and (chosen := self._next(device)) is not None:
            seconds = residents.bring(chosen.model, now, {open_.job.kind.model for open_ in device.open})
            if seconds:
                self._clock.at(now + seconds + 1e-6, lambda: self._look_again(device))
        self._clock.at(now + AHEAD_SECONDS, lambda: self._look_ahead(device))

    def _offer(self, job: Job) -> None:
        """A job found no idle device: some busy one may begin it beside."""
        candidate = self._waiting.candidate(job.number, self._clock.now)
        if candidate is None:
            return
        served, first = self._served(), self._rng.randrange(len(self._devices))
        for device in (self._devices[first:] + self._devices[:first])[:OFFERS]:
            if self._is_worth(candidate, device, served):
                self._begin(device, job.number)
                return

    def _look_again(self, device: Device) -> None:
        """A model has come."""
        if device.open and len(self._waiting):
            self._look_beside(device)

    def _look_beside(self, device: Device) -> None:
        """A device has a place again, or another model."""
        served = self._served()
        window = self._waiting.window(served, self._clock.now)
        worth = [candidate for candidate in window if self._is_worth(candidate, device, served)]
        chosen = arbiter.next_of(worth, served)
        if chosen is not None:
            self._begin(device, int(chosen.job_id))

    def _is_worth(self, candidate: Candidate, device: Device, served: dict[str, float]) -> bool:
        if not device.has_room_for(candidate.model, self._clock.now):
            return False
        self._catch_up(device)
        running = [open_.candidate(self._clock.now) for open_ in device.open]
        may_share = self._may_share(candidate, device, served)
        return arbiter.worth_beside(candidate, running, served, may_share=may_share)

    def _may_share(self, candidate: Candidate, device: Device, served: dict[str, float]) -> bool:
        if not any(open_.job.kind.model == candidate.model and open_.left_in_steps for open_ in device.open):
            return False
        if self._clock.now - device.alone_at < SHARE_SECONDS:
            return True
        chosen = arbiter.next_of(self._waiting.window(served, self._clock.now), served)
        return chosen is not None and chosen.job_id == candidate.job_id

    # the engine

    def _catch_up(self, device: Device) -> None:
        """Count the work since the last look; what is left of the step at hand goes on."""
        if not device.working or self._clock.now <= device.since:
            return
        seconds = self._clock.now - device.since
        device.since = self._clock.now
        self._busy += seconds
        for open_ in device.working:
            open_.worked_seconds += seconds / device.cost
            open_.had_seconds += seconds / len(device.working)
            device.time.work(open_.job.key, seconds / len(device.working))

    def _replan(self, device: Device) -> None:
        """Someone has come or gone: choose at the end of the step at hand."""
        self._catch_up(device)
        device.plan += 1
        plan = device.plan
        if not device.working:
            self._choose(device, plan)
            return
        first = device.working[0]
        step = min(first.job.kind.step_seconds, PAUSE_SECONDS)
        into = math.fmod(first.worked_seconds, step)
        boundary = min(step - into, *(open_.left_seconds for open_ in device.working)) * device.cost
        self._clock.at(self._clock.now + boundary, lambda: self._choose(device, plan))

    def _choose(self, device: Device, plan: int) -> None:
        """At a step's end: end who is done, and let who is next work."""
        if plan != device.plan:
            return
        self._catch_up(device)
        done = [open_ for open_ in device.working if open_.left_seconds <= 1e-9]
        for open_ in done:
            self._finish(device, open_)
        if done:
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
        device.working, device.last = [chosen, *_sharing(device, chosen)], chosen
        device.since = self._clock.now + pause
        device.plan += 1
        plan, length = device.plan, chosen.left_seconds
        if len(device.working) > 1:
            length = min(open_.left_in_steps for open_ in device.working) * device.cost
        elif chosen.left_in_steps > 1e-9:
            length = chosen.left_in_steps
        if len(device.open) > 1:
            length = min(length, TURN_SECONDS)
        self._clock.at(device.since + length, lambda: self._choose(device, plan))

    def _finish(self, device: Device, done: Open) -> None:
        job = done.job
        device.open.remove(done)
        device.working, device.last = [], None
        job.done_at = self._clock.now + job.kind.write_seconds
        self._end = max(self._end, job.done_at)
        del self._running[job.number]
        self._served()
        self._ended[job.key] = self._ended.get(job.key, 0.0) + arbiter.counted(done.had_seconds)


def _sharing(device: Device, chosen: Open) -> list[Open]:
    """Those that have the chosen one's forwards in common with it."""
    if chosen.left_in_steps <= 1e-9:
        return []
    return [
        open_
        for open_ in device.open
        if open_ is not chosen and open_.job.kind is chosen.job.kind and open_.left_in_steps > 1e-9
    ]

"""Who goes next: a pure function of who waits and of what each has had.

Three rules, in this order. A higher priority goes first; waiting raises it, never above the highest one that waits. Among equals,
the key that has had the least of the device goes first: a key with a thousand jobs delays another key's single job by at most the
job that runs now. Within a key, the shortest job goes first, but waiting makes a job shorter, so that none starves. A job whose
model is loaded may overtake one whose model is not, as long as that one has not waited too long.

Where several jobs are open on one device, they take turns by steps (`next_step`). Not in rotation, which would make all of them
late: next works who would be done first if the device were shared evenly between the keys. So nobody is done later than
under even shares, and most much sooner. (Friedman and Henderson, "Fairness and efficiency in web server protocols", 2003; the
order is that of the finish tags of fair queueing, which running does not change: what a key has had rises by what is left falls.)
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

UNKNOWN_SECONDS = 60.0
"""Taken for a job whose model was never measured."""

AGEING = 0.5
"""Seconds that a job counts as shorter for each second that it has waited."""

WARM_PATIENCE_SECONDS = 120.0
"""A job that has waited so long is not overtaken because its model would have to be loaded."""

PRIORITY_PATIENCE_SECONDS = 600.0
"""A job that has waited so long counts as one priority higher, so that urgent work cannot hold it off for ever."""

HALF_LIFE_SECONDS = 300.0
"""What a key has had of the device counts half after so long."""

STAY_SECONDS = 0.5
"""Who works goes on until another one would be done sooner by so much, and by STAY_SHARE: a turn costs caches, and estimates err."""

STAY_SHARE = 0.1
"""See STAY_SECONDS; of what is left of who works."""

BESIDE_SHARE = 0.5
"""A job is begun beside others if it is at most so long as what is left of each. So at most a few are open, halving from each to the
next, and there is room left for the shortest."""

BESIDE_AFTER_SECONDS = 0.5
"""A job that has waited so long finds no idle device any more, and may be begun beside others."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that waits for a device, or, where several are open on one, for its next step."""

    job_id: str
    #: Whose job it is.
    key: str
    model: str
    #: Estimated seconds that it takes, or of an open job those that are left; None if its model was never measured.
    seconds: float | None
    #: Since it was made; of an open job only those for which it stood still.
    waited_seconds: float
    #: Larger goes first.
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """When a waiting job is expected to have its turn, as things stand."""

    #: 1 goes next.
    position: int
    #: Seconds from now; None if no device is there to make it.
    starts_in: float | None
    ends_in: float | None


def next_of(
    candidates: Sequence[Candidate],
    served_seconds: Mapping[str, float],
    warm_models: frozenset[str] = frozenset(),
    top: int | None = None,
) -> Candidate | None:
    """Choose the job that goes next; None only if there is none.

    Args:
        candidates: who waits, in order of arrival, which decides where nothing else does. For each key at least its
            longest-waiting and its shortest jobs.
        served_seconds: device seconds that each key has had lately, running jobs included.
        warm_models: models that the asking worker has loaded.
        top: highest priority of all that wait, where `candidates` are only some of them.
    """
    if not candidates:
        return None
    if top is None:
        top = max(candidate.priority for candidate in candidates)
    highest = max(_priority(candidate, top) for candidate in candidates)
    urgent = [candidate for candidate in candidates if _priority(candidate, top) == highest]
    least = min(served_seconds.get(candidate.key, 0.0) for candidate in urgent)
    due = [candidate for candidate in urgent if served_seconds.get(candidate.key, 0.0) <= least]
    first = min(due, key=_rank)
    if first.model in warm_models or first.waited_seconds >= WARM_PATIENCE_SECONDS:
        return first
    return min((c for c in due if c.model in warm_models), key=_rank, default=first)


def next_step(
    running: Sequence[Candidate], served_seconds: Mapping[str, float], last: str | None = None
) -> Candidate:
    """Choose the open job that works next, of at least one.

    The order barely changes while jobs work: two equal jobs are made one after the other and not side by side.

    Args:
        running: what is open on the device and could work now.
        served_seconds: of this device, what each key has had lately by now, without what its open jobs have left.
        last: id of the job that worked last.
    """
    highest = max(candidate.priority for candidate in running)
    urgent = [candidate for candidate in running if candidate.priority == highest]
    first = min(
        urgent, key=lambda candidate: (_done_at(candidate, served_seconds), -candidate.waited_seconds)
    )
    worked = next((candidate for candidate in urgent if candidate.job_id == last), first)
    sooner = _done_at(worked, served_seconds) - _done_at(first, served_seconds)
    return first if sooner > max(STAY_SECONDS, STAY_SHARE * expected_seconds(worked)) else worked


def worth_beside(
    candidate: Candidate,
    running: Sequence[Candidate],
    served_seconds: Mapping[str, float],
    *,
    may_share: bool = False,
    num_devices: int = 1,
) -> bool:
    """Tell whether a waiting job should be begun on a device beside what is open there.

    Where nobody needs the device, always. Else only if `next_step` would then let it pass all the others, and not before
    another device has had the chance to take it.

    Args:
        candidate: who waits.
        running: what is open there and needs the device yet, with the seconds that are left.
        served_seconds: as for `next_of`: of all devices, with all that running jobs will take.
        may_share: it can be computed in the same forwards as one of them, which makes both cheaper.
        num_devices: of all devices how many there are.
    """
    if not running:
        return True
    if candidate.waited_seconds < BESIDE_AFTER_SECONDS:
        return False
    highest = max(other.priority for other in running)
    if candidate.priority != highest:
        return candidate.priority > highest
    if may_share:
        return True
    had = dict(served_seconds)
    for other in running:
        had[other.key] = had.get(other.key, 0.0) - expected_seconds(other)
    had = {key: max(0.0, seconds) / max(1, num_devices) for key, seconds in had.items()}
    young = replace(candidate, waited_seconds=0.0)  # its age counts among those that wait
    seconds = expected_seconds(candidate)
    return all(
        seconds <= BESIDE_SHARE * expected_seconds(other)
        and next_step([other, young], had, other.job_id) is young
        for other in running
    )


def forecast(
    candidates: Sequence[Candidate], served_seconds: Mapping[str, float], free_in: Sequence[float]
) -> dict[str, Turn]:
    """Tell in which order and when all that wait will have their turn, if nobody else comes.

    The order is that of calling `next_of` again and again, warm models and the rise of priorities from now on aside; in
    n log n steps instead of n².

    Args:
        candidates: everybody who waits, in order of arrival.
        served_seconds: as for `next_of`.
        free_in: for each device, the seconds until it is free.
    """
    served = defaultdict(float, served_seconds)
    devices = sorted(free_in)
    turns: dict[str, Turn] = {}
    for candidate in _in_order(candidates, served):
        starts_in = ends_in = None
        if devices:
            starts_in = devices[0]
            ends_in = starts_in + expected_seconds(candidate)
            heapq.heapreplace(devices, ends_in)
        turns[candidate.job_id] = Turn(len(turns) + 1, starts_in, ends_in)
    return turns


def newcomer_waits(turns: Mapping[str, Turn], free_in: Sequence[float]) -> float | None:
    """Tell how long who comes now would wait behind all others; None where no device is there.

    Each turn begins when the first device is free and ends no sooner: so the last ends are when the devices are free for good.
    """
    if not free_in:
        return None
    ends = sorted([*free_in, *(turn.ends_in for turn in turns.values() if turn.ends_in is not None)])
    return ends[-len(free_in)]


def _in_order(candidates: Sequence[Candidate], served: defaultdict[str, float]) -> list[Candidate]:
    """Order candidates as `next_of` would take them. Ranks all fall by the same while time passes: they keep their order."""
    if not candidates:
        return []
    top = max(candidate.priority for candidate in candidates)
    queues: dict[int, dict[str, list[Candidate]]] = defaultdict(lambda: defaultdict(list))
    for candidate in reversed(sorted(candidates, key=_rank)):
        queues[_priority(candidate, top)][candidate.key].append(candidate)  # the first is at the end
    ordered: list[Candidate] = []
    for _, by_key in sorted(queues.items(), reverse=True):
        heads = [(served[key], _rank(queue[-1]), key) for key, queue in by_key.items()]
        heapq.heapify(heads)
        while heads:
            _, _, key = heads[0]
            chosen = by_key[key].pop()
            ordered.append(chosen)
            served[key] += expected_seconds(chosen)
            if by_key[key]:
                heapq.heapreplace(heads, (served[key], _rank(by_key[key][-1]), key))
            else:
                heapq.heappop(heads)
    return ordered


def faded(served_seconds: float, elapsed_seconds: float) -> float:
    """What device seconds count for, so long after they were had."""
    return served_seconds * math.pow(0.5, max(0.0, elapsed_seconds) / HALF_LIFE_SECONDS)


def expected_seconds(candidate: Candidate) -> float:
    """Estimated seconds of a job, known or not."""
    return UNKNOWN_SECONDS if candidate.seconds is None else candidate.seconds


def raised(priority: int, waited_seconds: float, top: int) -> int:
    """What a priority counts as after so long a wait; never more than `top`, the highest that waits."""
    return min(top, priority + int(waited_seconds / PRIORITY_PATIENCE_SECONDS))


def _priority(candidate: Candidate, top: int) -> int:
    return raised(candidate.priority, candidate.waited_seconds, top)


def _done_at(candidate: Candidate, served_seconds: Mapping[str, float]) -> float:
    """What its key will have had when it is done: with even shares, who has the least here is done first.

    Who stood still for longer than what is left ages: not sooner, or equal jobs would pass each other in turn. From then on
    working changes the order as little as before: what is left falls as fast as others wait.
    """
    left = expected_seconds(candidate)
    age = max(0.0, candidate.waited_seconds - left)
    return served_seconds.get(candidate.key, 0.0) + left - AGEING * age


def _rank(candidate: Candidate) -> tuple[float, float]:
    seconds = expected_seconds(candidate)
    return (seconds - AGEING * candidate.waited_seconds, -candidate.waited_seconds)

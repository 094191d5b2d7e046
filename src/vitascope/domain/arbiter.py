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
from collections.abc import Callable, Collection, Mapping, Sequence
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

AHEAD_SECONDS = 60.0
"""Of what a running job has yet to get, so much counts as had."""

STAY_SECONDS = 0.5
"""Who works goes on until another one would be done sooner by so much, and by STAY_SHARE: a turn costs caches, and estimates err."""

STAY_SHARE = 0.1
"""See STAY_SECONDS; of what is left of who works."""

BESIDE_SHARE = 0.5
"""A job is begun beside others if it is at most so long as what is left of each. So at most a few are open, halving from each to the
next, and there is room left for the shortest."""

BESIDE_AFTER_SECONDS = 0.5
"""A job that has waited so long finds no idle device any more, and may be begun beside others."""

BESIDE_AFTER_SHARE = 0.3
"""So does one that has waited for so much of its own length: a little longer matters little to it, another device may become idle
meanwhile, and whom it is begun beside cannot catch up on one device what it lends there."""


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


class DeviceTime:
    """What each key has had of one device, among those that want it.

    A key that comes anew begins where the one stands that has had the least: what others had while it wanted nothing is no
    debt to it. So nothing needs to fade, and who lends others the device for as long as its job takes gets it back.
    """

    def __init__(self) -> None:
        self.served_seconds: dict[str, float] = {}

    def begin(self, key: str, others: Collection[str]) -> None:
        """A job is opened; `others` are the keys of those that are open already."""
        if key not in others:
            known = [self.served_seconds[other] for other in others if other in self.served_seconds]
            least = min(known, default=max(self.served_seconds.values(), default=0.0))
            self.served_seconds[key] = max(self.served_seconds.get(key, 0.0), least)

    def work(self, key: str, seconds: float) -> None:
        self.served_seconds[key] = self.served_seconds.get(key, 0.0) + seconds


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
        served_seconds: device seconds that each key has had lately, each job as `counted`.
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

    The order barely changes while jobs work: two equal jobs are made one after the other and not side by side. Standing
    still raises a priority as waiting does: else urgent work that never ends would hold a job off which cannot be given back.

    Args:
        running: what is open on the device and could work now.
        served_seconds: what each key has had of this device; see `DeviceTime`.
        last: id of the job that worked last.
    """
    top = max(candidate.priority for candidate in running)
    urgent = [candidate for candidate in running if _priority(candidate, top) == top]
    worked = next((candidate for candidate in urgent if candidate.job_id == last), None)
    by_key: dict[str, Candidate] = {}
    for candidate in sorted(urgent, key=lambda candidate: candidate is not worked):
        head = by_key.setdefault(candidate.key, candidate)
        if _passes(candidate, head, _of_one_key, is_working=head is worked):
            by_key[candidate.key] = candidate

    def done_at(candidate: Candidate) -> float:
        return served_seconds.get(candidate.key, 0.0) + expected_seconds(candidate)

    first, *others = sorted(by_key.values(), key=lambda candidate: candidate is not worked)
    for candidate in others:
        if _passes(candidate, first, done_at, is_working=first is worked):
            first = candidate
    return first


def worth_beside(
    candidate: Candidate,
    running: Sequence[Candidate],
    served_seconds: Mapping[str, float],
    *,
    may_share: bool = False,
) -> bool:
    """Tell whether a waiting job should be begun on a device beside what is open there.

    Where nobody needs the device, always. Else only if `next_step` would then let it pass all the others, and not before
    another device has had the chance to take it.

    Args:
        candidate: who waits.
        running: what is open there and needs the device yet, with the seconds that are left.
        served_seconds: as for `next_of`.
        may_share: it can be computed in the same forwards as one of them, which makes both cheaper.
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
    seconds, least = expected_seconds(candidate), min(expected_seconds(other) for other in running)
    if candidate.waited_seconds < beside_after(seconds) or seconds > BESIDE_SHARE * least:
        return False
    young = replace(candidate, waited_seconds=0.0)  # its age counts among those that wait
    return all(next_step([other, young], served_seconds, other.job_id) is young for other in running)


def beside_after(seconds: float) -> float:
    """Tell how long a job of so many seconds waits for an idle device before it may be begun beside others."""
    return max(BESIDE_AFTER_SECONDS, BESIDE_AFTER_SHARE * seconds)


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


def counted(elapsed_seconds: float, left_seconds: float = 0.0) -> float:
    """What a job counts for that has had a device for so long until now, and will for so much longer.

    What it had faded meanwhile, as if it had been many short jobs: else who makes long ones would get less than others. Of what it
    has yet to get only the next seconds count: enough for several workers that ask at once not to serve one key only.
    """
    lasting = HALF_LIFE_SECONDS / math.log(2)
    return lasting * -math.expm1(-max(0.0, elapsed_seconds) / lasting) + min(
        max(0.0, left_seconds), AHEAD_SECONDS
    )


def expected_seconds(candidate: Candidate) -> float:
    """Estimated seconds of a job, known or not."""
    return UNKNOWN_SECONDS if candidate.seconds is None else candidate.seconds


def raised(priority: int, waited_seconds: float, top: int) -> int:
    """What a priority counts as after so long a wait; never more than `top`, the highest that waits."""
    return min(top, priority + int(waited_seconds / PRIORITY_PATIENCE_SECONDS))


def _priority(candidate: Candidate, top: int) -> int:
    return raised(candidate.priority, candidate.waited_seconds, top)


def _passes(
    candidate: Candidate, other: Candidate, order: Callable[[Candidate], float], *, is_working: bool
) -> bool:
    """Whether one goes before another, which keeps its place if it works and little is gained."""
    sooner = order(other) - order(candidate)
    return sooner > (max(STAY_SECONDS, STAY_SHARE * expected_seconds(other)) if is_working else 0.0)


def _of_one_key(candidate: Candidate) -> float:
    """The order of a key's open jobs: the shortest first.

    Who stood still for longer than what is left ages: not sooner, or equal jobs would pass each other in turn. From then on
    working changes the order no more than before: what is left falls as fast as others wait.
    """
    left = expected_seconds(candidate)
    return left - AGEING * max(0.0, candidate.waited_seconds - left)


def _rank(candidate: Candidate) -> tuple[float, float]:
    seconds = expected_seconds(candidate)
    return (seconds - AGEING * candidate.waited_seconds, -candidate.waited_seconds)

"""Who goes next: a pure function of who waits and of what each has had.

Three rules, in this order. A higher priority goes first. Among equals, the key that has had the least of the device goes
first: a key with a thousand jobs delays another key's single job by at most the job that runs now. Within a key, the shortest
job goes first, but waiting makes a job shorter, so that none starves. A job whose model is loaded may overtake one whose model
is not, as long as that one has not waited too long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

UNKNOWN_SECONDS = 60.0
"""Taken for a job whose model was never measured."""

AGEING = 0.5
"""Seconds that a job counts as shorter for each second that it has waited."""

WARM_PATIENCE_SECONDS = 120.0
"""A job that has waited so long is not overtaken because its model would have to be loaded."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that waits."""

    job_id: str
    #: Whose job it is.
    key: str
    model: str
    #: Estimated seconds that it takes, or that it still takes.
    seconds: float | None
    waited_seconds: float
    #: Larger goes first.
    priority: int = 0


def next_of(
    candidates: Sequence[Candidate],
    served_seconds: Mapping[str, float],
    warm_models: frozenset[str] = frozenset(),
) -> Candidate | None:
    """Choose the job that goes next; None only if there is none.

    Args:
        candidates: who waits. For each key at least its longest-waiting and its shortest jobs.
        served_seconds: device seconds that each key has had lately, running jobs included.
        warm_models: models that the asking worker has loaded.
    """
    if not candidates:
        return None
    top = max(candidate.priority for candidate in candidates)
    urgent = [candidate for candidate in candidates if candidate.priority == top]
    least = min(served_seconds.get(candidate.key, 0.0) for candidate in urgent)
    due = [candidate for candidate in urgent if served_seconds.get(candidate.key, 0.0) <= least]
    first = min(due, key=_rank)
    if first.model in warm_models or first.waited_seconds >= WARM_PATIENCE_SECONDS:
        return first
    return min((c for c in due if c.model in warm_models), key=_rank, default=first)


def _rank(candidate: Candidate) -> tuple[float, float, str]:
    seconds = UNKNOWN_SECONDS if candidate.seconds is None else candidate.seconds
    return (seconds - AGEING * candidate.waited_seconds, -candidate.waited_seconds, candidate.job_id)

"""What became of a trace, in figures: how long jobs take, and whether keys had their share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from .policies import Outcome


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds from a job's arrival until its file is there."""

    mean: float
    median: float
    p95: float
    p99: float
    #: Share of the devices' seconds in which they worked.
    utilisation: float
    #: Of models.
    num_loads: int
    #: By key, the mean.
    by_key: dict[str, float]
    #: By kind of job, the mean.
    by_kind: dict[str, float]


def figures_of(outcome: Outcome) -> Figures:
    return _figures(
        [job.took for job in outcome.jobs],
        outcome,
        utilisation=outcome.utilisation,
        num_loads=outcome.num_loads,
    )


def ideal_of(took: Sequence[float], outcome: Outcome) -> Figures:
    """The same of another way to make the same jobs."""
    return _figures(took, outcome, utilisation=outcome.utilisation, num_loads=0)


def _figures(took: Sequence[float], outcome: Outcome, *, utilisation: float, num_loads: int) -> Figures:
    by_key: dict[str, list[float]] = defaultdict(list)
    by_kind: dict[str, list[float]] = defaultdict(list)
    for job, seconds in zip(outcome.jobs, took, strict=True):
        by_key[job.key].append(seconds)
        by_kind[job.kind.name].append(seconds)
    ranked = sorted(took)
    return Figures(
        fmean(took),
        _at(ranked, 0.5),
        _at(ranked, 0.95),
        _at(ranked, 0.99),
        utilisation,
        num_loads,
        {key: fmean(seconds) for key, seconds in sorted(by_key.items())},
        {kind: fmean(seconds) for kind, seconds in sorted(by_kind.items())},
    )


def _at(ranked: Sequence[float], share: float) -> float:
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]

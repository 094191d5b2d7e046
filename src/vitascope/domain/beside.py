"""What is open on a worker's device, as whoever chooses a job to be begun beside it has to know."""

from __future__ import annotations

from dataclasses import dataclass

from .arbiter import Candidate


@dataclass(frozen=True, slots=True)
class Beside:
    """The jobs of one engine, and what it has room for."""

    #: Those that need the device yet, with the seconds that they have left.
    running: tuple[Candidate, ...]
    #: Models that are loaded and of which one more generation could be begun.
    models: frozenset[str]
    #: Model and work (`domain.cost.work_of`) of those that could share forwards with another one.
    shared: frozenset[tuple[str, int]] = frozenset()
    #: Ids of jobs that are to be made alone.
    without: frozenset[str] = frozenset()
    #: Whether another one comes to share only if it is its turn among all that wait: these had the device for long.
    shares_in_turn: bool = False

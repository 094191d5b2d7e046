"""Driving several generations of one engine that may share forwards."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from vitascope.domain.step import Step
from vitascope.engine import Clip, Sharing

Generation = Generator[Step | Clip, None, None]
Start = Callable[[Sharing], Generation]


class Together:
    """Advances generations: who was answered first, then who stands before no forward, then whoever came first.

    Args:
        allowed: who may have forwards with others.
    """

    def __init__(self, allowed: Callable[[str], bool] = lambda _name: True) -> None:
        self._allowed = allowed
        self.sharings: dict[str, Sharing] = {}
        self.running: dict[str, Generation] = {}
        #: The frames of those that ended.
        self.made: dict[str, Any] = {}

    def begin(self, start: Mapping[str, Start]) -> None:
        for name, begin in start.items():
            self.sharings[name] = Sharing(is_allowed=self._allowed(name))
            self.running[name] = begin(self.sharings[name])

    def cancel(self, name: str) -> None:
        self.running.pop(name).close()

    def steps(self) -> Iterator[tuple[str, Step]]:
        """Advance them to their ends, telling each step; meanwhile others may be begun and cancelled."""
        while self.running:
            name = next(
                (each for each in self.running if self.sharings[each].is_answered),
                next(
                    (each for each in self.running if self.sharings[each].group is None),
                    next(iter(self.running)),
                ),
            )
            event = next(self.running[name], None)
            if isinstance(event, Clip):
                self.made[name] = event.frames
            elif event is None:
                del self.running[name]
            else:
                yield name, event


def in_company(
    start: Mapping[str, Start], allowed: Callable[[str], bool] = lambda _name: True
) -> dict[str, Any]:
    """Make all at the same time; the frames."""
    together = Together(allowed)
    together.begin(start)
    for _ in together.steps():
        pass
    return together.made

"""What the making of one job and whoever drives it beside others know of each other. Knows nothing of jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from vitascope.engine import Sharing

LOOK_SECONDS = 0.1
"""How often what needs no device says how far it is, and can be cancelled."""

STOOD_STILL = "stand_still"
"""Where a video's seconds tell how long it could have gone on, and others had the device."""


@dataclass(slots=True, kw_only=True)
class Reins:
    """By which a making is driven beside others.

    Without `wake` nobody drives it: where there is nothing to do but to wait, the making does that itself. With it, it says
    so by a step that `is_waiting`, and wants to be looked at again soon, or as soon as `wake` was called.
    """

    #: Called from any thread when there is something to do again.
    wake: Callable[[], None] | None = None
    #: Told by who drives: seconds for which it could have gone on, and others had the device.
    stood_seconds: float = 0.0
    #: Of the generation that is open, with those of others.
    sharing: Sharing | None = None
    #: Whether it has a place in the engine now.
    is_generating: bool = False
    #: Asks what is done aside to come to its end, and tells whether a making that is closed now need not wait for that. None
    #: where nothing is done aside.
    halt: Callable[[], bool] | None = None

    def now(self) -> float:
        """Seconds on a clock that stands still with the making."""
        return time.monotonic() - self.stood_seconds

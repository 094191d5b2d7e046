"""Drives what is open in the engine process: who is advanced next, and what time each has had. Knows nothing of pipes."""

from __future__ import annotations

import time
from collections.abc import Callable

from vitascope.domain.arbiter import DeviceTime, next_step

from .making import Making
from .messages import Message
from .reins import LOOK_SECONDS

ENDINGS = frozenset({"made", "failed", "cancelled", "returned"})


class Driver:
    """Open jobs, advanced one at a time.

    Args:
        tell: takes what is to be said of them.
    """

    def __init__(self, tell: Callable[[Message], None]) -> None:
        self._tell = tell
        self._open: dict[str, Making] = {}
        self._last: str | None = None
        #: Who the parent knows to have the device.
        self._told_turn: str | None = None
        self._time = DeviceTime()

    @property
    def is_idle(self) -> bool:
        return not self._open

    @property
    def pause_seconds(self) -> float | None:
        """How long nothing is to be done, if nobody says otherwise; None for ever."""
        if not self._open:
            return None
        waits = all(making.is_waiting and not making.is_due for making in self._open.values())
        return LOOK_SECONDS if waits else 0.0

    def open(self, making: Making) -> None:
        self._time.begin(making.key, {other.key for other in self._open.values()})
        self._open[making.name] = making

    def cancel(self, name: str) -> None:
        """End a job where it stands, or as soon as it can; one that has ended has been told so."""
        making = self._open.get(name)
        if making is not None and (message := making.cancel()) is not None:
            del self._open[name]
            self._tell(message)

    def step(self) -> None:
        """Do the next piece of work of the job whose turn it is, if there is any to do."""
        if (making := self._choose()) is None:
            return
        self._tell_turn(making.name)
        was_begun = making.is_begun
        message = self._advance(making)
        if message is not None and message["is"] in ENDINGS:
            del self._open[making.name]
        if making.is_begun and not was_begun:
            self._tell({"is": "begun", "making": making.name})
        if message is not None:
            self._tell(message)
        if all(other.is_waiting for other in self._open.values()):
            self._tell_turn(None)

    def _choose(self) -> Making | None:
        """Those that only want to be looked at cost nothing, nor do those whose forward another one has run: they go first.

        Who stands before a forward waits for those that can have it too and are not far from it: it costs less for all.
        """
        for making in self._open.values():
            if making.is_due or (making.is_answered and not making.is_waiting):
                return making
        able = {making.name: making for making in self._open.values() if not making.is_waiting}
        if not able:
            return None
        if len(able) == 1:
            (chosen,) = able.values()
        else:
            candidates = [making.candidate for making in able.values()]
            chosen = able[next_step(candidates, self._time.served_seconds, self._last).job_id]
        self._last = chosen.name
        return next((other for other in able.values() if other.may_join(chosen)), chosen)

    def _advance(self, making: Making) -> Message | None:
        """Advance one, and note what that cost whom: a forward for several is shared by all that have it."""
        others = [other for other in self._open.values() if other is not making]
        beside = [other for other in others if other.reins.is_generating]
        making.had_company = making.had_company or bool(beside)
        unanswered = [other for other in others if not other.is_answered]
        begun_at = time.monotonic()
        message = making.advance()
        spent = time.monotonic() - begun_at
        having = [making, *(other for other in unanswered if other.is_answered)]
        for one in having:
            one.reins.stood_seconds += spent - spent / len(having)
            one.used_seconds += spent / len(having)
            self._time.work(one.key, spent / len(having))
            if one is not making:
                one.answered_seconds += spent
        for other in others:
            if other not in having and not other.is_waiting:
                other.reins.stood_seconds += spent
        if making.reins.is_generating:
            for other in beside:
                other.had_company = True
        if message is not None and message["is"] == "step":
            message["seconds_left"] = making.candidate.seconds  # what this step took is known now
        return message

    def _tell_turn(self, name: str | None) -> None:
        """Let the parent know whose silence is to be noticed."""
        if name != self._told_turn:
            self._told_turn = name
            self._tell({"is": "turn", "making": name})

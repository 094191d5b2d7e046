"""Forwards in company: generations that stand before a forward of the same weights and shapes have one together.

A generation's flow stays its pipeline's own, in its slot and thread. It stands still before a forward of its denoiser, which is
told (`contract.Sharing.group`); whoever is advanced next runs one for itself and for those of its group that stand there too,
as far as the tokens go. These find their answer when they are advanced (`Sharing.is_answered`). Who comes or goes between two
steps is in the next forward or not: nothing else ties generations to each other.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch

from .calls import Call
from .contract import Sharing
from .generation import pause, undivided

logger = logging.getLogger(__name__)

Forward = Callable[[Sequence[Call]], list[torch.Tensor]]
"""Answers several calls of one kind at once."""

MOST_TOKENS = {"cpu": 1_500}
"""Of a shared forward, by kind of device: beyond, a device is busy with one alone and the others would only wait for each other
(docs/experiments.md)."""

MOST_TOKENS_ELSEWHERE = 10_000


def most_tokens(device: torch.device) -> int:
    """Tell up to how many tokens a forward for several takes less time than one for each."""
    return MOST_TOKENS.get(device.type, MOST_TOKENS_ELSEWHERE)


@dataclass(slots=True, eq=False)
class _Standing:
    """A generation that stands before a forward."""

    calls: Sequence[Call]
    num_tokens: int
    sharing: Sharing
    answers: list[torch.Tensor] | None = None


class Company:
    """Who stands before which forward, in one engine.

    Args:
        most_tokens: of a shared forward.
    """

    def __init__(self, most_tokens: int) -> None:
        self.most_tokens = most_tokens
        self._standing: dict[Hashable, list[_Standing]] = {}
        #: Groups whose shared forwards failed, with the tokens that they may have since.
        self._less: dict[Hashable, int] = {}
        #: Forwards that were run for several generations, and for how many in sum.
        self.num_shared = self.num_served = 0

    def answer(
        self, calls: Sequence[Call], num_tokens: int, group: Hashable, sharing: Sharing, forward: Forward
    ) -> list[torch.Tensor]:
        """Answer calls of one generation, which stands still before: by another one's forward, or by one for it and others.

        Args:
            calls: of one kind.
            num_tokens: of all of them.
            group: same weights, same kind of calls.
            sharing: of the generation; it is told what is going on.
            forward: of its own modules.
        """
        if num_tokens * 2 > self.most_tokens:
            return forward(calls)
        own = _Standing(calls, num_tokens, sharing)
        with self._stands(own, group):
            pause(None)
        if own.answers is not None:
            return own.answers
        others = self._others(group, own)
        return (self._for_all(own, others, group, forward) if others else None) or forward(calls)

    @contextlib.contextmanager
    def _stands(self, own: _Standing, group: Hashable) -> Iterator[None]:
        self._standing.setdefault(group, []).append(own)
        own.sharing.group = own.sharing.latest_group = group
        try:
            yield
        finally:
            self._goes(own, group)
            own.sharing.group = None

    def _goes(self, own: _Standing, group: Hashable) -> None:
        standing = self._standing.get(group, [])
        if own in standing:
            standing.remove(own)
        if not standing:
            self._standing.pop(group, None)

    def _others(self, group: Hashable, own: _Standing) -> list[_Standing]:
        """Those who have a forward together with one that goes on: who came first, as far as the tokens go."""
        left = self._less.get(group, self.most_tokens) - own.num_tokens
        found = []
        for each in self._standing.get(group, []):
            if each.num_tokens <= left and each.sharing.is_allowed:
                left -= each.num_tokens
                found.append(each)
        return found

    def _for_all(
        self, own: _Standing, others: list[_Standing], group: Hashable, forward: Forward
    ) -> list[torch.Tensor] | None:
        """Run a forward for several; None if it failed, which then costs nobody more than the time."""
        all_of_them = [own, *others]
        calls = [call for each in all_of_them for call in each.calls]
        try:
            with undivided():
                answers = forward(calls)
        except (RuntimeError, MemoryError) as error:
            self._less[group] = own.num_tokens
            logger.warning("a forward for several failed, from now on each has its own: %s", str(error)[:200])
            return None
        self.num_shared += 1
        self.num_served += len(all_of_them)
        for each in all_of_them:
            each.answers, answers = answers[: len(each.calls)], answers[len(each.calls) :]
        for each in others:
            self._goes(each, group)
            each.sharing.group = None
            each.sharing.is_answered = True
        return own.answers

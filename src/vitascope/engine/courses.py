"""Courses: the row of timesteps that a pipeline walks, where it is not simply its scheduler's.

A pipeline asks its scheduler for timesteps and calls `step` at each of them. So a scheduler that shows it another row than the one
that its own steps see decides where the pipeline begins, and how often it goes all the way: without a second call, which would
read the text and the pictures again, and whatever a pipeline does between its steps stays as it is.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

import torch

Renew = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]
"""Makes what a round begins with, from its number (1 is the second round), what the first one began with, and what the one
before ended with; all as the scheduler steps them."""


def begin_at(scheduler: Any, first_step: int) -> None:
    """Let a pipeline leave out the steps before `first_step`: for latents that have that step's noise level already.

    Args:
        scheduler: changed in place, before its timesteps are set.
        first_step: counted from 0, in inference steps.
    """
    _lead(scheduler, first_step, 1, None)


def in_rounds(scheduler: Any, rounds: int, renew: Renew) -> None:
    """Let a pipeline walk all timesteps several times; only what the last round ends with is its result.

    What steps beside it with a copy of the scheduler (LTX-2's sound) begins each round with what it began with at first.

    Args:
        scheduler: changed in place, before its timesteps are set.
        rounds: how many times.
        renew: called after each round but the last; for one round more than once where a pipeline takes its last step twice.
    """
    _lead(scheduler, 0, rounds, renew)


def _lead(scheduler: Any, first_step: int, rounds: int, renew: Renew | None) -> None:
    own = type(scheduler)
    signature = inspect.signature(own.step)
    original = ref(scheduler)  # weak, since it is kept by the class of what it refers to

    # A subclass and not new methods on the instance: a copy must step itself, not the original.
    class Led(own):  # type: ignore[misc,valid-type]
        @functools.wraps(own.set_timesteps)  # pipelines look at the signature to see which arguments it takes
        def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
            super().set_timesteps(*args, **kwargs)
            self._course = _Course(self, first_step, rounds)

        @functools.wraps(own.step)
        def step(self, *args: Any, **kwargs: Any) -> Any:
            course: _Course = self._course
            given = signature.bind(self, *args, **kwargs)
            with course.own_row(self):
                course.begin_next_if_over(self)
                course.note_start(self, given.arguments)
                result = super().step(*given.args[1:], **given.kwargs)
                course.calls += 1
                if not course.is_over(self) or course.round + 1 == rounds:
                    return result
            assert renew is not None
            latents = course.initial
            if self is original():
                latents = renew(course.round + 1, latents, result[0])
            return _with_sample(result, latents)

        @property
        def step_index(self) -> int | None:
            """Position in the row that the pipeline walks; in the scheduler's own while that steps."""
            position = getattr(self, "_step_index", None)
            course = self.__dict__.get("_course")
            return position if position is None or course is None else position + course.offset

    for name in ("scale_model_input", "add_noise", "scale_noise"):
        if hasattr(own, name):
            setattr(Led, name, _in_own_row(getattr(own, name)))
    Led.__name__, Led.__qualname__ = own.__name__, own.__qualname__
    scheduler.__class__ = Led


def _in_own_row(method: Any) -> Any:
    """Make a method that finds the level of a timestep find it in the scheduler's own row."""

    @functools.wraps(method)
    def in_own_row(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._course.own_row(self):
            self._course.begin_next_if_over(self)
            return method(self, *args, **kwargs)

    return in_own_row


class _Course:
    """Where a scheduler is, and the two rows: its own, and the one that its pipeline walks."""

    def __init__(self, scheduler: Any, first_step: int, rounds: int) -> None:
        first = first_step * scheduler.order
        self.length = len(scheduler.timesteps)
        if first and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        self.round = 0
        #: Of the scheduler in this round.
        self.calls = first
        self.offset = 0
        self._first = first
        self._start: dict[str, Any] = {}
        self._own: dict[str, torch.Tensor] = {}
        rows = {"timesteps": scheduler.timesteps}
        levels: Any = getattr(scheduler, "sigmas", None)
        if isinstance(levels, torch.Tensor) and len(levels) == self.length + 1:
            rows["sigmas"] = levels  # some pipelines read the level of the step that they are at
        for name, own in rows.items():
            row = torch.cat([*[own[: self.length]] * (rounds - 1), own])
            # Parts of one tensor: Cosmos writes into the last level
            self._own[name] = row[-len(own) :]
            setattr(scheduler, name, row[first:])

    @contextlib.contextmanager
    def own_row(self, scheduler: Any) -> Iterator[None]:
        """Put the scheduler's own row in place: it looks its position and its last step up in it."""
        walked = {name: getattr(scheduler, name) for name in self._own}
        for name, row in self._own.items():
            setattr(scheduler, name, row)
        self.offset = 0
        try:
            yield
        finally:
            for name, row in walked.items():
                setattr(scheduler, name, row)
            self.offset = self.round * self.length - self._first

    def note_start(self, scheduler: Any, given: dict[str, Any]) -> None:
        """Remember what the first round begins with."""
        if self._start:
            if self.calls == 0:
                # CogVideoX hands its scheduler what it kept of the step before
                given |= {
                    name: None for name in ("old_pred_original_sample", "timestep_back") if name in given
                }
            return
        self.initial = given["sample"].clone()
        self._start = _state(scheduler)

    def is_over(self, scheduler: Any) -> bool:
        """Whether the round's last step was made. Cosmos makes each twice, and sets the position back in between."""
        position = getattr(scheduler, "_step_index", None)
        return bool((self.calls if position is None else position) >= self.length)

    def begin_next_if_over(self, scheduler: Any) -> None:
        if self.is_over(scheduler):
            self.round += 1
            self.calls = 0
            vars(scheduler).update(_copied(self._start))


def _state(scheduler: Any) -> dict[str, Any]:
    """Everything that a scheduler changes while it steps."""
    return _copied({name: value for name, value in vars(scheduler).items() if name != "_course"})


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    """Copy a state, so that lists in it may change. Tensors are replaced, never changed."""
    return {name: copy.copy(value) if isinstance(value, list) else value for name, value in state.items()}


def _with_sample(result: Any, sample: torch.Tensor) -> Any:
    if isinstance(result, tuple):
        return (sample, *result[1:])
    result.prev_sample = sample
    return result

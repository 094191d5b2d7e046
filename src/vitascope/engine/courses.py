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
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import ref

import torch


@dataclass(frozen=True, slots=True)
class End:
    """The end of a round after which another one comes; latents are as the scheduler steps them."""

    scheduler: Any
    #: Number of the next round: 1 is the second.
    number: int
    #: Place in the scheduler's own row of timesteps at which it begins.
    position: int
    #: What the first round began with.
    first: torch.Tensor
    #: What this round ended with.
    last: torch.Tensor
    #: Whether it is of what steps beside the video with a copy of its scheduler: LTX-2's sound.
    is_of_copy: bool


class Rounds(Protocol):
    """How a pipeline walks its timesteps several times."""

    @property
    def count(self) -> int:
        """How often."""

    def first_step(self, scheduler: Any) -> int:
        """Tell the inference step at which rounds after the first begin; called when the timesteps are set."""

    def renewed(self, end: End) -> torch.Tensor:
        """Make what the next round begins with; asked twice where a pipeline takes its last step twice (Cosmos)."""


BY_STEP = ("timesteps", "sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down", "order_list")
"""What schedulers keep for each step."""


def begin_at(scheduler: Any, first_step: int, after: Callable[[], None] = lambda: None) -> None:
    """Let a pipeline leave out the steps before `first_step`: for latents that have that step's noise level already.

    All that the scheduler keeps by step is cut alike, so that it counts from the first step that runs, whatever pipelines tell it of
    where they begin.

    Args:
        scheduler: changed in place, before its timesteps are set.
        first_step: counted from 0, in inference steps.
        after: called whenever its timesteps were set; not for copies, of LTX-2's sound for instance.
    """
    own = type(scheduler)
    original = ref(scheduler)  # weak, since it is kept by the class of what it refers to

    class Shortened(own):  # type: ignore[misc,valid-type]
        @functools.wraps(own.set_timesteps)  # pipelines look at the signature to see which arguments it takes
        def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
            super().set_timesteps(*args, **kwargs)
            left_out = min(first_step * self.order, len(self.timesteps) - 1)
            for name in BY_STEP:
                if (values := getattr(self, name, None)) is not None:
                    setattr(self, name, values[left_out:])
            if self is original():
                after()

    Shortened.__name__, Shortened.__qualname__ = own.__name__, own.__qualname__
    scheduler.__class__ = Shortened


def in_rounds(scheduler: Any, rounds: Rounds) -> None:
    """Let a pipeline walk its timesteps several times; only what the last round ends with is its result.

    Args:
        scheduler: changed in place, before its timesteps are set.
        rounds: how.
    """
    own = type(scheduler)
    signature = inspect.signature(own.step)
    original = ref(scheduler)  # weak, since it is kept by the class of what it refers to

    # A subclass and not new methods on the instance: a copy must step itself, not the original.
    class Led(own):  # type: ignore[misc,valid-type]
        @functools.wraps(own.set_timesteps)  # pipelines look at the signature to see which arguments it takes
        def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
            super().set_timesteps(*args, **kwargs)
            self._course = _Course(self, rounds)

        @functools.wraps(own.step)
        def step(self, *args: Any, **kwargs: Any) -> Any:
            course: _Course = self._course
            given = signature.bind(self, *args, **kwargs)
            with course.own_row(self):
                course.begin_next_if_over(self)
                course.note_start(self, given.arguments)
                result = super().step(*given.args[1:], **given.kwargs)
                course.calls += 1
                if not course.is_over(self) or course.round + 1 == rounds.count:
                    return result
                if result[0].shape != course.initial.shape:
                    return result  # Cosmos asks for two answers at once first: not what goes on
                end = course.end(self, result[0], is_of_copy=self is not original())
                return _with_sample(result, rounds.renewed(end))

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


def place_of(scheduler: Any, done: int, total: int) -> tuple[int, int]:
    """Tell which step of its round comes next, and how many a whole round has.

    Args:
        scheduler: after a step; what is asked for without rounds is what was counted.
        done: calls of it that were made.
        total: calls of it that there are.
    """
    course: _Course | None = vars(scheduler).get("_course")
    if course is None:
        return done, total
    position = getattr(scheduler, "_step_index", None)
    return (course.calls if position is None else position) % course.length, course.length


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

    def __init__(self, scheduler: Any, rounds: Rounds) -> None:
        self.length = len(scheduler.timesteps)
        self.round = 0
        #: Place in the scheduler's own row at which rounds after the first begin.
        self._again = rounds.first_step(scheduler) * scheduler.order
        #: Of the scheduler in this round, as if none had been left out.
        self.calls = 0
        #: From the place in its own row to that in the one that is walked.
        self.offset = 0
        self._start: dict[str, Any] = {}
        self._own = {"timesteps": scheduler.timesteps}
        levels: Any = getattr(scheduler, "sigmas", None)
        if isinstance(levels, torch.Tensor) and len(levels) == self.length + 1:
            self._own["sigmas"] = levels  # some pipelines read the level of the step that they are at
        for name, own in self._own.items():
            steps = own[: self.length]
            others = [steps[self._again :]] * (rounds.count - 1)
            setattr(scheduler, name, torch.cat([steps, *others, own[self.length :]]))

    @contextlib.contextmanager
    def own_row(self, scheduler: Any) -> Iterator[None]:
        """Put the scheduler's own row in place: it looks its position and its last step up in it."""
        walked = {name: getattr(scheduler, name) for name in self._own}
        if "sigmas" in walked:
            self._own["sigmas"][-1] = walked["sigmas"][-1]  # Cosmos writes into the last level
        for name, row in self._own.items():
            setattr(scheduler, name, row)
        self.offset = 0
        try:
            yield
        finally:
            for name, row in walked.items():
                setattr(scheduler, name, row)
            self.offset = self.round * (self.length - self._again)

    def note_start(self, scheduler: Any, given: dict[str, Any]) -> None:
        """Remember what the first round begins with; let the others begin without what the pipeline kept."""
        if self.round and self.calls == self._again:
            # CogVideoX hands its scheduler what it kept of the step before
            given |= {name: None for name in ("old_pred_original_sample", "timestep_back") if name in given}
        if not self._start:
            self._start = _state(scheduler)
        position = getattr(scheduler, "_step_index", None)
        if self.round == 0 and (self.calls if position is None else position) == 0:
            self.initial = given["sample"].clone()  # of a step that is taken twice, what is stepped at last

    def is_over(self, scheduler: Any) -> bool:
        """Whether the round's last step was made. Cosmos makes each twice, and sets the position back in between."""
        position = getattr(scheduler, "_step_index", None)
        return bool((self.calls if position is None else position) >= self.length)

    def begin_next_if_over(self, scheduler: Any) -> None:
        if self.is_over(scheduler):
            self.round += 1
            self.calls = self._again
            vars(scheduler).update(_copied(self._start))
            if self._again and hasattr(scheduler, "_step_index"):
                scheduler._step_index = self._again

    def end(self, scheduler: Any, last: torch.Tensor, *, is_of_copy: bool) -> End:
        """Tell what the round that is over comes to."""
        return End(scheduler, self.round + 1, self._again, self.initial, last, is_of_copy)


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

"""How long an engine may be silent before it counts as hung. Pure: times go in, a limit comes out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from vitascope.domain.cost import Run, work_of
from vitascope.domain.plan import Plan

STEPS_OF_SILENCE = 10
"""An engine that says nothing for so many times the time of a step will not say anything any more."""

LEAST_SECONDS = 10.0
"""A limit for fast models: one step may well take longer when the machine is short of breath."""


class StepTimes:
    """Seconds of a denoising step, as one engine process has shown them in earlier jobs.

    Only the latest model's are kept: an engine that loads a model again makes a slow first step again.
    """

    def __init__(self) -> None:
        self._model = ""
        self._by_work: dict[int, float] = {}

    def of(self, plan: Plan) -> float | None:
        """Tell what a step of such a plan took; None if there was none."""
        return self._by_work.get(work_of(plan)) if plan.model == self._model else None

    def learn(self, plan: Plan, step_seconds: float | None) -> None:
        """Note what a step of this plan took; None only that its model is the latest."""
        if plan.model != self._model:
            self._model = plan.model
            self._by_work.clear()
        if step_seconds is not None:
            self._by_work[work_of(plan)] = step_seconds


class Patience:
    """The limit of one job: ten times the time of a step while one step follows another, else the given limit.

    The first step of a window is not measured and not limited so tightly, since it comes after other work (reading the
    text, loading, compiling kernels); nor is what follows the last one.

    Args:
        runs: of the plan; see `domain.cost.runs_of`.
        known_step_seconds: what a step took in an earlier job; None if that is not known.
        most_seconds: the limit where nothing is known, and never exceeded.
    """

    def __init__(self, runs: Sequence[Run], known_step_seconds: float | None, most_seconds: float) -> None:
        #: By the steps that are done when a run has ended: whether the next one's steps are as large.
        self._ends = {0: True} | {
            end: after is not None and after.work <= run.work
            for end, run, after in zip(
                accumulate(run.num_steps for run in runs), runs, [*runs[1:], None], strict=True
            )
        }
        self._known = known_step_seconds
        self._most_seconds = most_seconds
        #: When the newest step was heard of, if another one of the same run comes next.
        self._step_at: float | None = None
        #: Longest time from one step to the next.
        self.step_seconds: float | None = None
        #: The same, of steps as large as the next.
        self._of_this_size: float | None = None

    def heard(self, stage: str, index: int, at: float) -> None:
        """Note that the engine has come so far, at `at` on any clock that only rises.

        Args:
            stage: as in `domain.step`.
            index: denoising steps that are done, over all runs, if that is the stage.
            at: seconds.
        """
        is_step = stage == "denoise"
        if is_step and self._step_at is not None:
            self._of_this_size = max(self._of_this_size or 0.0, at - self._step_at)
            self.step_seconds = max(self.step_seconds or 0.0, self._of_this_size)
        self._step_at = at if is_step and index not in self._ends else None
        if is_step and not self._ends.get(index, True):
            self._of_this_size = None

    @property
    def limit_seconds(self) -> float:
        """How long the engine may be silent from now on."""
        shown = [seconds for seconds in (self._of_this_size, self._known) if seconds is not None]
        if self._step_at is None or not shown:
            return self._most_seconds
        return min(self._most_seconds, max(LEAST_SECONDS, STEPS_OF_SILENCE * max(shown)))

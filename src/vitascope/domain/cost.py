"""How long a plan takes, from what was measured before.

A denoising step's time depends on the model, on how much it denoises at once, and on the device. Speeds are kept per model and
per device by whoever stores them; here they are only looked up and stretched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .plan import Plan

LEAST_EXPONENT, MOST_EXPONENT = 0.5, 2.0
"""How step time grows with the amount of work: below a busy device's linear for small work, quadratic for attention alone."""

SMOOTHING = 0.3
"""Weight of the newest measurement. Three jobs after a change of conditions, two thirds of the old value are forgotten."""

CLASSES_PER_DOUBLING = 8
"""Amounts of work within a class share a measurement: 9 % apart, less than jobs of one size differ by on a busy machine."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What of a plan decides how long it takes; small enough to be kept beside each job."""

    model: str
    #: See `work_of`.
    work: int
    #: Denoising steps of all windows of all videos.
    num_steps: int
    #: Of all videos.
    num_windows: int = 1


@dataclass(frozen=True, slots=True)
class Speed:
    """What a model took on some kind of device."""

    model: str
    #: See `work_of`.
    work: int
    #: Seconds of one denoising step.
    step_seconds: float
    #: Seconds of all that is not denoising: text, decoding, writing; of one window.
    other_seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """Denoising steps in a row, all over the same latents."""

    num_steps: int
    #: See `work_of`.
    work: int


def runs_of(plan: Plan) -> tuple[Run, ...]:
    """Take a plan's steps apart: a run for each window, of the first pass and then of the second."""
    first = [Run(plan.steps_per_window, _work_of_pass(plan))] * len(plan.windows)
    second = plan.second
    if second is not None:
        first += [Run(second.steps_per_window, _work_of_pass(second))] * len(second.windows)
    return tuple(first)


def work_of(plan: Plan) -> int:
    """What one step denoises: pixels times frames of the plan's largest window, twice with guidance.

    Of two passes it is the mean over all their steps: jobs with a second pass are measured apart from those without.
    """
    runs = runs_of(plan)
    return round(sum(run.num_steps * run.work for run in runs) / sum(run.num_steps for run in runs))


def _work_of_pass(plan: Plan) -> int:
    """Guidance runs the model once with the prompt and once without, where its scale is above 1: diffusers' own condition."""
    passes = 2 if plan.guidance_scale > 1 else 1
    return passes * plan.native_height * plan.native_width * max(window.num_frames for window in plan.windows)


def effort_of(plan: Plan) -> Effort:
    """Take what decides a plan's time out of it."""
    num_steps, num_windows = plan.total_steps * plan.num_videos, len(plan.windows) * plan.num_videos
    cache = plan.step_cache  # jobs with one are measured apart, as if they denoised less at once
    work = work_of(plan) if cache is None else round(work_of(plan) * cache.expected_share)
    return Effort(plan.model, work, num_steps, num_windows)


def work_class(work: int) -> int:
    """Number of the class that an amount of work is in; see CLASSES_PER_DOUBLING."""
    return round(math.log2(max(work, 1)) * CLASSES_PER_DOUBLING)


def seconds_of(effort: Effort, speeds: Sequence[Speed]) -> float | None:
    """Estimate how long a plan takes; None if its model was never measured, or if nothing is known of the effort.

    Between two measured amounts of work the time is interpolated as a power law, beyond them extended with the slope of the
    nearest two, within what is physically plausible.

    Args:
        effort: of the plan.
        speeds: measured on the device in question; of other models too.
    """
    known = sorted((s for s in speeds if s.model == effort.model and s.work > 0), key=lambda s: s.work)
    if not known or effort.work < 1 or effort.num_steps < 1:
        return None
    step = _along([(s.work, s.step_seconds) for s in known], effort.work)
    other = _along([(s.work, s.other_seconds) for s in known], effort.work)
    return step * effort.num_steps + other * effort.num_windows


def mean_seconds(effort: Effort, devices: Iterable[Sequence[Speed]]) -> float | None:
    """Estimate how long a plan takes on one of several devices, of which nobody knows yet which one; None as `seconds_of`."""
    found = [seconds for speeds in devices if (seconds := seconds_of(effort, speeds)) is not None]
    return sum(found) / len(found) if found else None


def _along(points: Sequence[tuple[int, float]], work: int) -> float:
    """Read a power law through measured points at `work`."""
    at_or_below = [point for point in points if point[0] <= work]
    above = [point for point in points if point[0] > work]
    if at_or_below and at_or_below[-1][0] == work:
        return at_or_below[-1][1]
    near = at_or_below[-1] if at_or_below else above[0]
    others = [point for point in points if point is not near]
    exponent = 1.0
    if others:
        other = min(others, key=lambda point: abs(math.log(point[0] / work)))
        rise = math.log(max(other[1], 1e-9) / max(near[1], 1e-9))
        exponent = min(max(rise / math.log(other[0] / near[0]), LEAST_EXPONENT), MOST_EXPONENT)
    return near[1] * math.pow(work / near[0], exponent)


def measured(effort: Effort, seconds_by_stage: Mapping[str, float]) -> Speed | None:
    """Make a speed of what a job took; None if it did not denoise.

    Loading the model is left out: it is paid once, by whoever comes first. So are a language model that writes
    prompts out, and the time for which the job stood still beside others.
    """
    denoise = seconds_by_stage.get("denoise", 0.0)
    if effort.num_steps < 1 or denoise <= 0:
        return None
    other = sum(seconds for stage, seconds in seconds_by_stage.items() if stage not in _NOT_OTHER)
    return Speed(effort.model, effort.work, denoise / effort.num_steps, other / effort.num_windows)


_NOT_OTHER = ("check_inputs", "enhance_prompt", "load", "denoise", "stand_still")


def learn(old: Speed | None, new: Speed) -> Speed:
    """Blend a new measurement of the same model and class of work into what was known."""
    if old is None:
        return new
    return Speed(
        new.model,
        new.work,
        old.step_seconds + SMOOTHING * (new.step_seconds - old.step_seconds),
        old.other_seconds + SMOOTHING * (new.other_seconds - old.other_seconds),
    )

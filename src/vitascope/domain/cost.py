"""How long a plan takes, from what was measured before.

A denoising step's time depends on the model, on how much it denoises at once, and on the device. Speeds are kept per model and
per worker kind by whoever stores them; here they are only looked up and stretched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .plan import Plan

LEAST_EXPONENT, MOST_EXPONENT = 0.5, 2.0
"""How step time grows with the amount of work: below a busy device's linear for small work, quadratic for attention alone."""

SMOOTHING = 0.3
"""Weight of the newest measurement. Three jobs after a change of conditions, two thirds of the old value are forgotten."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What a model took on some kind of device."""

    model: str
    #: Pixels times frames of one window, as the model makes them.
    work: int
    #: Seconds of one denoising step.
    step_seconds: float
    #: Seconds of all that is not denoising: text, decoding, writing.
    other_seconds: float


def work_of(plan: Plan) -> int:
    """Pixels times frames of the plan's largest window."""
    return plan.native_height * plan.native_width * max(window.num_frames for window in plan.windows)


def seconds_of(plan: Plan, speeds: Sequence[Speed]) -> float | None:
    """Estimate how long the plan takes; None if its model was never measured.

    Between two measured amounts of work the time is interpolated as a power law, beyond them extended with the slope of the
    nearest two, within what is physically plausible.
    """
    known = sorted((s for s in speeds if s.model == plan.model and s.work > 0), key=lambda s: s.work)
    if not known:
        return None
    work = work_of(plan)
    step = _along([(s.work, s.step_seconds) for s in known], work)
    other = _along([(s.work, s.other_seconds) for s in known], work)
    return step * plan.total_steps + other * len(plan.windows)


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


def learn(old: Speed | None, measured: Speed) -> Speed:
    """Blend a new measurement of the same model and work into what was known."""
    if old is None:
        return measured
    return Speed(
        measured.model,
        measured.work,
        old.step_seconds + SMOOTHING * (measured.step_seconds - old.step_seconds),
        old.other_seconds + SMOOTHING * (measured.other_seconds - old.other_seconds),
    )

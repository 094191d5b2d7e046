"""Numbers within the bounds that a card gives."""

from __future__ import annotations

import math

from .errors import InvalidParameter
from .model_spec import Bounds


def within(name: str, value: float | None, bounds: Bounds) -> float:
    """Take what was asked for, or the default.

    Raises:
        InvalidParameter: it is out of bounds, or not a number.
    """
    if value is None:
        return bounds.default
    if not bounds.minimum <= value <= bounds.maximum:  # also catches NaN
        nearest = bounds.maximum if value > bounds.maximum else bounds.minimum
        rule = f"it must be from {bounds.minimum:g} to {bounds.maximum:g}"
        raise InvalidParameter(
            name, value, rule, nearest=int(nearest) if nearest == int(nearest) else nearest
        )
    return value


def steps_that_run(num_inference_steps: int, strength: float) -> int:
    """Count the steps that run over a given video: the last part of them, as diffusers counts it."""
    return max(1, min(int(num_inference_steps * strength), num_inference_steps))


def strength_within(name: str, value: float | None, bounds: Bounds, num_inference_steps: int) -> float:
    """Take a strength of which at least one step runs.

    Raises:
        InvalidParameter: it is out of bounds, or too low for so few steps.
    """
    strength = within(name, value, bounds)
    if int(num_inference_steps * strength) < 1:
        nearest = min(math.ceil(1000 / num_inference_steps) / 1000, bounds.maximum)
        raise InvalidParameter(
            name, strength, f"of {num_inference_steps} steps none would run", nearest=nearest
        )
    return strength

"""The noise schedulers by name.

A scheduler is cheap state over a checkpoint's schedule, and pipelines keep their position in it: each request gets an
instance of its own, made from the checkpoint's configuration.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import diffusers

from vitascope.domain.errors import ModelUnavailable

# Of a flow-matching checkpoint's schedule, the classes below know the shift under another name and need to be told
# that the model predicts a velocity (diffusers 0.42, the constructors of these classes).
_FLOW_BY_SIGMAS = {"UniPCMultistepScheduler", "DPMSolverMultistepScheduler"}


def make_scheduler(checkpoint: Any, name: str | None) -> Any:
    """Make a fresh scheduler of class `name`, or of the checkpoint's own class, over the checkpoint's schedule.

    Raises:
        ModelUnavailable: this diffusers version has no such class, or it needs a library that is not installed.
    """
    if name is None or name == type(checkpoint).__name__:
        return type(checkpoint).from_config(checkpoint.config)
    scheduler_class = getattr(diffusers, name, None)
    if scheduler_class is None or not hasattr(scheduler_class, "from_config"):
        raise ModelUnavailable(f"the noise scheduler `{name}` is not available in this installation")
    try:
        return scheduler_class.from_config(checkpoint.config, **_translated(checkpoint, name))
    except ImportError:
        raise ModelUnavailable(
            f"the noise scheduler `{name}` needs a library that is not installed"
        ) from None


def _translated(checkpoint: Any, name: str) -> dict[str, Any]:
    """Settings that mean the same and are called differently, for flow-matching schedules."""
    config = checkpoint.config
    is_flow = type(checkpoint).__name__.startswith("FlowMatch") or config.get("use_flow_sigmas", False)
    if name == "PNDMScheduler":
        return {
            "skip_prk_steps": True
        }  # its Runge-Kutta start needs four steps; the latent models were run without
    if not is_flow:
        return {}
    shift = config.get("flow_shift", config.get("shift", 1.0))
    if name in _FLOW_BY_SIGMAS:
        return {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    return {"shift": shift}


def on_each_step(scheduler: Any, after: Callable[[int, int], None]) -> None:
    """Call `after(done, total)` after each of the scheduler's steps.

    Second-order schedulers make more calls than there are inference steps: both numbers are counted in calls.
    """
    step = scheduler.step
    done = 0

    @functools.wraps(step)  # pipelines look at the signature to see which arguments it takes
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        result = step(*args, **kwargs)
        done += 1
        after(done, len(scheduler.timesteps))
        return result

    scheduler.step = counted

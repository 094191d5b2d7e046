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


def on_each_step(scheduler: Any, after: Callable[[int, int, Any], None]) -> None:
    """Call `after(done, total, latents)` after each of the scheduler's steps.

    Second-order schedulers make more calls than there are inference steps: both numbers are counted in calls. Some pipelines
    step with copies of the scheduler, for sound or for each latent frame: of those that step side by side, one is counted.
    Cosmos sets the scheduler back and steps a second time: that counts once.
    """
    kind = type(scheduler)
    leader: Any = None
    reached = -1
    done = 0

    @functools.wraps(kind.step)  # pipelines look at the signature to see which arguments it takes
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal leader, reached, done
        result = kind.step(self, *args, **kwargs)
        leader = self if leader is None else leader
        position = getattr(self, "step_index", None)  # not every scheduler keeps one
        if self is leader and (position is None or position > reached):
            reached = reached if position is None else position
            done += 1
            after(done, len(self.timesteps), result[0])
        return result

    # a class and not an attribute of the instance: a copy must step itself, not the original
    scheduler.__class__ = type(kind.__name__, (kind,), {"step": step})

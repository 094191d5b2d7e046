"""The noise schedulers by name.

A scheduler is cheap state over a checkpoint's schedule, and pipelines keep their position in it: each request gets an
instance of its own, made from the checkpoint's configuration. Which names a model takes says `domain.schedulers`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any
from weakref import ref

import diffusers
import torch

from vitascope.domain.errors import ModelUnavailable
from vitascope.domain.model_spec import SchedulerFamily

from .solvers import DISCRETE_SOLVERS, FLOW_SOLVERS, OverFlow

_NEVER_QUITE_ZERO = 2**-24
"""Share of data at the last timestep where a schedule ends in pure noise: diffusers' own way not to divide by zero."""


def make_scheduler(checkpoint: Any, name: str | None, flow_shift: float | None = None) -> Any:
    """Make a fresh scheduler of class `name`, or of the checkpoint's own class, over the checkpoint's schedule.

    Args:
        checkpoint: the scheduler that the model came with.
        name: of the class.
        flow_shift: how far a flow's levels are moved towards noise; None is as the checkpoint says.

    Raises:
        ModelUnavailable: there is no such class for this checkpoint, or its levels have no shift.
    """
    if flow_shift is not None:
        checkpoint = _shifted(checkpoint, flow_shift)
    if name is None or name == type(checkpoint).__name__:
        return type(checkpoint).from_config(checkpoint.config)
    family = family_of(checkpoint)
    if family == "flow" and name in FLOW_SOLVERS:
        return FLOW_SOLVERS[name].over(checkpoint)
    if family == "edm" and name == "EDMDPMSolverMultistepScheduler":
        return _over_levels(checkpoint)
    scheduler_class: Any = DISCRETE_SOLVERS.get(name) or getattr(diffusers, name, None)
    if family in ("discrete", "cogvideox") and _counts_timesteps(scheduler_class):
        config = {key: value for key, value in checkpoint.config.items() if key != "snr_shift_scale"}
        return scheduler_class.from_config(config, **_translated(checkpoint, name, scheduler_class))
    own = type(checkpoint).__name__
    raise ModelUnavailable(
        f"the noise scheduler `{name}` cannot run over the checkpoint's `{own}`",
        hint=f'a card says with scheduler_family = "{family}" of which kind the checkpoint is',
    )


def _shifted(checkpoint: Any, flow_shift: float) -> Any:
    """Make the checkpoint's scheduler with another shift, the same for every size of picture."""
    accepted = inspect.signature(type(checkpoint)).parameters
    name = next((name for name in ("flow_shift", "shift") if name in accepted), None)
    if name is None:
        raise ModelUnavailable(f"the levels of the checkpoint's `{type(checkpoint).__name__}` have no shift")
    settings: dict[str, Any] = {name: flow_shift}
    if name == "shift" and "use_dynamic_shifting" in accepted:
        settings["use_dynamic_shifting"] = False  # it would work out a shift of its own, from the size
    return type(checkpoint).from_config(checkpoint.config, **settings)


def family_of(checkpoint: Any) -> SchedulerFamily:
    """Tell which kind of schedule a checkpoint's scheduler has."""
    name, config = type(checkpoint).__name__, checkpoint.config
    if name.startswith("CogVideoX"):
        return "cogvideox"
    has_levels_above_one = (config.get("sigma_max") or 0) > 1 and not config.get("use_flow_sigmas", False)
    if name.startswith("EDM") or config.get("timestep_type") == "continuous":
        return "edm"
    if name.startswith("FlowMatch"):
        return "edm" if has_levels_above_one else "flow"
    is_flow = config.get("use_flow_sigmas", False) or name == "LTXEulerAncestralRFScheduler"
    return "flow" if is_flow else "discrete"


def levels(scheduler: Any, position: int) -> tuple[float, float]:
    """Tell how much of the clean latents and how much noise of deviation 1 are in those that a step is given.

    Args:
        scheduler: with its timesteps set; the checkpoint's own or one that `make_scheduler` made over it.
        position: of the step in the row of timesteps.
    """
    if is_flow(scheduler):
        level = float(scheduler.sigmas[position])
        level = 1 - level if scheduler.config.get("invert_sigmas", False) else level
        return 1 - level, level
    if not hasattr(scheduler, "alphas_cumprod") or float(getattr(scheduler, "init_noise_sigma", 1)) != 1:
        return 1.0, float(scheduler.sigmas[position])
    share = float(scheduler.alphas_cumprod[int(scheduler.timesteps[position])])
    return share**0.5, (1 - share) ** 0.5


def is_flow(scheduler: Any) -> bool:
    """Tell whether a scheduler steps along straight lines from noise to data: level 1 is noise alone."""
    is_flow_map = type(scheduler).__name__.startswith("FlowMap")  # AnyFlow's, which takes no other solver
    return is_flow_map or isinstance(scheduler, OverFlow) or family_of(scheduler) == "flow"


def _counts_timesteps(scheduler_class: Any) -> bool:
    """Whether a class works over a table of betas, as discrete checkpoints have it."""
    return scheduler_class is not None and "trained_betas" in inspect.signature(scheduler_class).parameters


def _translated(checkpoint: Any, name: str, scheduler_class: Any) -> dict[str, Any]:
    """Settings that `from_config` would not carry over, or not rightly, between classes over discrete timesteps."""
    config = checkpoint.config
    # Most classes clip the clean sample to [-1, 1] if nothing is said, as for pixels; latents are larger.
    settings: dict[str, Any] = {"clip_sample": config.get("clip_sample", False)}
    if config.get("rescale_betas_zero_snr", False) or config.get("snr_shift_scale", 1.0) != 1.0:
        # Half of the classes do not know the first and none but CogVideoX's the second: they get the resulting table.
        settings |= {"trained_betas": _betas(checkpoint.alphas_cumprod), "rescale_betas_zero_snr": False}
    settings |= _SETTINGS.get(name, {})
    accepted = inspect.signature(scheduler_class).parameters
    return {key: value for key, value in settings.items() if key in accepted}


_SETTINGS: dict[str, dict[str, Any]] = {
    # its Runge-Kutta start needs four steps; the latent models were run without
    "PNDMScheduler": {"skip_prk_steps": True},
    # pipelines cut the variance off that such a model predicts beside the noise
    "DDPMScheduler": {"variance_type": "fixed_small"},
    # names of variants that another solver's configuration may hold
    "DPMSolverMultistepScheduler": {
        "variance_type": None,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
    },
    "DPMSolverSinglestepScheduler": {
        "variance_type": None,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": True,
    },
    "DEISMultistepScheduler": {"algorithm_type": "deis", "solver_type": "logrho"},
    "UniPCMultistepScheduler": {"solver_type": "bh2"},
    "SASolverScheduler": {"algorithm_type": "data_prediction", "variance_type": None},
}


def _betas(data_shares: torch.Tensor) -> list[float]:
    shares = data_shares.double().clamp(min=_NEVER_QUITE_ZERO)
    before = torch.cat([torch.ones(1, dtype=shares.dtype), shares[:-1]])
    betas: list[float] = (1 - shares / before).tolist()
    return betas


def _over_levels(checkpoint: Any) -> Any:
    """Make the second-order solver for a checkpoint that is told continuous noise levels (Stable Video Diffusion)."""
    config = checkpoint.config
    return diffusers.EDMDPMSolverMultistepScheduler(
        sigma_min=config.get("sigma_min", 0.002),
        sigma_max=config.get("sigma_max", 80.0),
        sigma_data=config.get("sigma_data", 1.0),  # EulerDiscreteScheduler has the scalings of 1 built in
        prediction_type=config.prediction_type,
    )


def on_each_step(
    scheduler: Any, after: Callable[[int, int, torch.Tensor], None], generator: torch.Generator | None = None
) -> None:
    """Call `after(done, total, latents)` after each of the scheduler's steps.

    Second-order schedulers make more calls than there are inference steps, and a request over a given video makes the
    last of them only: both numbers are counted in the calls of this request. Some pipelines step with copies of the
    scheduler, for sound (LTX-2) or for each latent frame (SkyReels-V2): of those that step side by side, one is counted.

    Args:
        scheduler: changed in place.
        after: called with what is done and what there is to do, both in calls, and with what the step made.
        generator: draws the noise where the pipeline hands none to a scheduler that asks for one: a seed must reproduce.
    """
    own = type(scheduler)
    signature = inspect.signature(own.step)
    leader: _Calls | None = None

    # A subclass and not a new `step` on the instance: a copy must step itself, not the original.
    class Counted(own):  # type: ignore[misc,valid-type]
        @functools.wraps(own.step)  # pipelines look at the signature to see which arguments it takes
        def step(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal leader
            if "generator" in signature.parameters and kwargs.get("generator") is None:
                kwargs["generator"] = generator
            result = super().step(*args, **kwargs)
            if leader is None:
                leader = _Calls(self, signature.bind(self, *args, **kwargs).arguments["timestep"])
            if leader.count(self):
                after(leader.done, leader.total, result[0])
            return result

    Counted.__name__, Counted.__qualname__ = own.__name__, own.__qualname__
    scheduler.__class__ = Counted


class _Calls:
    """How far a scheduler is in its calls, from the timestep of the first one on."""

    def __init__(self, scheduler: Any, first_timestep: Any) -> None:
        # Weak: this is kept by the scheduler's class, and the scheduler keeps latents, which must go with the request.
        self._scheduler = ref(scheduler)
        # Of a timestep that comes twice, a scheduler that knows its position knows which one it began with.
        position = getattr(scheduler, "step_index", None)
        same = (scheduler.timesteps == torch.as_tensor(first_timestep).to(scheduler.timesteps)).nonzero()
        self._start = position - 1 if position is not None else int(same[0]) if len(same) else 0
        self.done = 0
        self.total = max(1, len(scheduler.timesteps) - self._start)

    def count(self, scheduler: Any) -> bool:
        """Tell whether this call brought the one that is counted further: Cosmos steps back once for each step."""
        if self._scheduler() is not scheduler:
            return False
        position = getattr(scheduler, "step_index", None)
        done = min(self.done + 1 if position is None else position - self._start, self.total)
        if done <= self.done:
            return False
        self.done = done
        return True

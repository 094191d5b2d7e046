"""Data of a normal distribution, whose perfect model is a formula: what every solver must end at can be written down."""

from __future__ import annotations

import inspect
import math
from typing import Any

import diffusers
import numpy as np
import torch

MEAN, DEVIATION = 0.7, 0.5
STOCHASTIC = {
    "DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "SASolverScheduler",
    "CogVideoXDPMScheduler", "LTXEulerAncestralRFScheduler",
}  # fmt: skip
CONSISTENCY = {"LCMScheduler", "FlowMatchLCMScheduler"}
"""Not solvers: they need a distilled model, and lose detail with any other."""


def noise() -> torch.Tensor:
    return torch.randn(2, 2048, generator=torch.Generator().manual_seed(0))


def clean_of(x: torch.Tensor, share: float, level: float) -> torch.Tensor:
    """The mean of the data, given `x`, which is `share` times the data plus `level` times noise."""
    variance = share**2 * DEVIATION**2 + level**2
    return MEAN + share * DEVIATION**2 / variance * (x - share * MEAN)


def end_of(x: torch.Tensor, share: float, level: float) -> torch.Tensor:
    """Where an exact solution ends that starts at `x`."""
    return MEAN + DEVIATION * (x - share * MEAN) / math.sqrt(share**2 * DEVIATION**2 + level**2)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).pow(2).mean().sqrt().item()


def run(
    scheduler: Any, model: Any, steps: int | None, start: torch.Tensor | None = None, **levels: Any
) -> torch.Tensor:
    """Make the calls that pipelines make."""
    scheduler.set_timesteps(steps, **levels)
    x = noise() * getattr(scheduler, "init_noise_sigma", 1.0) if start is None else start
    takes = inspect.signature(scheduler.step).parameters
    extra: dict[str, Any] = {"generator": torch.Generator().manual_seed(1)} if "generator" in takes else {}
    old, before = None, None
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = model(scaled, t)
        if "old_pred_original_sample" in takes:
            x, old = scheduler.step(output, old, t, before, x, return_dict=False, **extra)
        else:
            x = scheduler.step(output, t, x, return_dict=False, **extra)[0]
        before = t
    assert x.isfinite().all()
    return x


def velocity(x: torch.Tensor, t: Any) -> torch.Tensor:
    level = float(t) / 1000
    clean = clean_of(x, 1 - level, level)
    return (x - clean) / max(level, 1e-6)


def velocity_backwards(x: torch.Tensor, t: Any) -> torch.Tensor:
    return -velocity(x, 1000 - float(t))


def flow(**config: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def discrete(family: str) -> Any:
    if family == "cogvideox":
        return diffusers.CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=3.0,
            timestep_spacing="trailing", clip_sample=False,
        )  # fmt: skip
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        timestep_spacing="trailing", prediction_type=family,
    )  # fmt: skip


class PerfectDiscrete:
    """The perfect model of a schedule by timesteps, read between them where a solver asks for it."""

    def __init__(self, checkpoint: Any) -> None:
        shares = checkpoint.alphas_cumprod.double().clamp(min=2**-24)
        self.logs = (((1 - shares) / shares) ** 0.5).log().numpy()
        self.prediction_type = checkpoint.config.prediction_type

    def share_and_level(self, t: Any) -> tuple[float, float]:
        ratio = math.exp(np.interp(float(t), np.arange(len(self.logs)), self.logs))
        share = 1 / math.sqrt(1 + ratio**2)
        return share, share * ratio

    def __call__(self, x: torch.Tensor, t: Any) -> torch.Tensor:
        share, level = self.share_and_level(t)
        clean = clean_of(x, share, level)
        epsilon = (x - share * clean) / level
        return epsilon if self.prediction_type == "epsilon" else share * epsilon - level * clean

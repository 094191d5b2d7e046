"""Improved sampling: FreeInit (arXiv 2312.07537), for latents of any layout and any kind of schedule.

A video model learns from latents whose noise never hides the low frequencies of the clip altogether, and then starts from noise
that has none of any clip: its slow, large changes from frame to frame come from there. So the clip is made several times:
each round begins with the low frequencies of what the one before made, under noise, and with high frequencies that are new.

The constants are those of the authors' code: https://github.com/TianxingWu/FreeInit.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from vitascope.engine.previews import pack, token_grid, unpack

STOP_FREQUENCY = 0.25
"""Where the low frequencies end, as a share of the highest one, in time as in space."""

ORDER = 4
"""Of the Butterworth filter: how steeply they end."""

LEAST_CLIP_SHARE = 0.0016
"""Share of a round's first latents that is the clip's, as a variance: what AnimateDiff's schedule leaves at its last timestep.

A schedule of betas has a share of its own, which FreeInit takes. Flow matching, EDM and schedules that end at zero would leave
nothing: those get this one (docs/experiments.md).
"""


class Rounds:
    """Makes what each round after the first begins with: for `courses.in_rounds`.

    Args:
        pipe: the pipeline, with the scheduler of this pass.
        size: frames, height and width of what the pass makes.
        generator: draws the high frequencies.
    """

    def __init__(self, pipe: Any, size: tuple[int, int, int], generator: torch.Generator) -> None:
        self._pipeline = type(pipe).__name__
        self._grid = token_grid(pipe, size)
        self._clip_share = clip_share(pipe.scheduler)
        self._deviation = pipe.scheduler.config.get("sigma_data") or 1.0
        self._generator = generator
        self._drawn: tuple[int, torch.Tensor] | None = None

    def __call__(self, number: int, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Make what the round of this number begins with; see `courses.Renew`."""
        level = first.float().square().mean().sqrt().item()  # EDM's first noise has a deviation of 80 or more
        clip, noise = (unpack(self._pipeline, latents, self._grid).float().cpu() for latents in (last, first))
        share = self._clip_share
        diffused = math.sqrt(share) * clip / self._deviation + math.sqrt(1 - share) * noise / level
        mixed = level * exchange(diffused, self._high(number, clip.shape))
        return pack(self._pipeline, mixed, last)

    def _high(self, number: int, shape: torch.Size) -> torch.Tensor:
        """Draw a round's noise once: it may be asked for twice."""
        if self._drawn is None or self._drawn[0] != number:
            self._drawn = number, torch.randn(shape, generator=self._generator)
        return self._drawn[1]


def exchange(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Put the low frequencies of one row of latent frames (T, H, W, C) under the high ones of another."""
    passed = low_pass(low.shape)[..., None]
    axes = (0, 1, 2)
    mixed = torch.fft.fftn(low, dim=axes) * passed + torch.fft.fftn(high, dim=axes) * (1 - passed)
    return torch.fft.ifftn(mixed, dim=axes).real


def low_pass(shape: tuple[int, ...]) -> torch.Tensor:
    """Tell how much of each frequency of (T, H, W, …) is low: Butterworth's filter around frequency 0, as fftn orders them.

    The authors' grid has frequency 0 off its middle where a side is odd, which passes a part of none exactly; this one does not.
    """
    sides = [2 * torch.fft.fftfreq(side) for side in shape[:3]]
    squares = sum(side.square() for side in torch.meshgrid(*sides, indexing="ij"))
    return 1 / (1 + (squares / STOP_FREQUENCY**2) ** ORDER)


def clip_share(scheduler: Any) -> float:
    """Tell the share of the data's variance in latents at the first timestep, or what stands in for it."""
    shares = getattr(scheduler, "alphas_cumprod", None)
    config = scheduler.config
    is_flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    own = 0.0 if shares is None or is_flow else float(shares[-1])
    return max(own, LEAST_CLIP_SHARE)

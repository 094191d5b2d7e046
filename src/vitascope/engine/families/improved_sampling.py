"""Improved sampling: FreeInit (arXiv 2312.07537), for latents of any layout and any kind of schedule.

A video model learns from latents whose noise never hides the low frequencies of the clip altogether, and then starts from noise
that has none of any clip: its slow, large changes from frame to frame come from there. So the clip is made several times:
each round begins with the low frequencies of what the one before made, under noise, and with high frequencies that are new.

The constants are those of the authors' code: https://github.com/TianxingWu/FreeInit.
"""

from __future__ import annotations

from typing import Any

import torch

from vitascope.engine.courses import End
from vitascope.engine.latents import pack, token_grid, unpack
from vitascope.engine.schedulers import levels

STOP_FREQUENCY = 0.25
"""Where the low frequencies end, as a share of the highest one, in time as in space."""

ORDER = 4
"""Of the Butterworth filter: how steeply they end."""

LEAST_CLIP_SHARE = 0.0016
"""Of the variance of latents with which a round after the first begins, what must be the clip's: as much as AnimateDiff's schedule
leaves at its last timestep, for which FreeInit was made.

Such a schedule never hides the clip altogether, so rounds begin at its first step, as FreeInit's do. Flow matching, EDM and schedules that
end at zero do: there they begin at the first step that leaves so much, at that step's own level of noise, and are shorter.
"""


class FreeInit:
    """The rounds of one pass: for `courses.in_rounds`.

    Args:
        pipe: the pipeline.
        size: frames, height and width of what the pass makes.
        count: rounds in all.
        generator: draws the high frequencies of those after the first.
    """

    def __init__(self, pipe: Any, size: tuple[int, int, int], count: int, generator: torch.Generator) -> None:
        self.count = count
        self._pipeline = type(pipe).__name__
        self._grid = token_grid(pipe, size)
        self._generator = generator
        self._drawn: tuple[int, torch.Tensor] | None = None

    def first_step(self, scheduler: Any) -> int:
        """Find the first step that leaves enough of the clip, or the last one if none does."""
        steps = range(0, len(scheduler.timesteps), scheduler.order)
        deviation = scheduler.config.get("sigma_data") or 1.0
        enough = (
            step for step in steps if clip_share(*levels(scheduler, step), deviation) >= LEAST_CLIP_SHARE
        )
        return next(enough, steps[-1]) // int(scheduler.order)

    def renewed(self, end: End) -> torch.Tensor:
        """Put the clip under the noise of the step, and new noise in the place of their high frequencies."""
        clip_level, noise_level = levels(end.scheduler, end.position)
        noise = end.first.float()
        noise = noise / noise.square().mean().sqrt()  # EDM's first noise has a deviation of 80 or more
        clip = end.last.float()
        if end.is_of_copy:  # sound has no frames
            return (clip_level * clip + noise_level * noise).to(end.last)
        clip, noise = (unpack(self._pipeline, latents, self._grid).cpu() for latents in (clip, noise))
        low = clip_level * clip + noise_level * noise
        mixed = exchange(low, noise_level * self._high(end.number, clip.shape))
        return pack(self._pipeline, mixed, end.last)

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


def clip_share(clip_level: float, noise_level: float, deviation: float = 1.0) -> float:
    """Tell the share of the variance of noisy latents that is of a clip of that standard deviation."""
    signal = (clip_level * deviation) ** 2
    return signal / (signal + noise_level**2)

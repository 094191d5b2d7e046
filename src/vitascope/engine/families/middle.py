"""Denoising that begins in the middle, over a given clip: with any pipeline, also one that makes videos of text only.

The pipeline runs unchanged. Its scheduler leaves the first steps out, and the noise that the pipeline was about to start from
is replaced by the clip's latents, mixed with as much noise as the first of the remaining steps expects.

Source: SDEdit, https://arxiv.org/abs/2108.01073; the steps that run are counted as diffusers' own video-to-video pipelines do.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from vitascope.domain.errors import ModelUnavailable
from vitascope.engine.courses import begin_at
from vitascope.engine.latents import OtherLatents, encode, normalised, place_in

if TYPE_CHECKING:
    from vitascope.engine.contract import Frames

STARTS_WITH_PICTURE = ("SanaImageToVideoPipeline", "Kandinsky5I2VPipeline")
"""Pipeline classes whose first latent frame is the given picture's and is never denoised (diffusers 0.42).

Of LTX's, a mask beside the latents says so; others put the picture over the latents at each step.
"""


@contextlib.contextmanager
def beginning_in(
    pipe: Any, clip: Frames, first_step: int, family: str, generator: torch.Generator
) -> Iterator[None]:
    """Let a pipeline's next call run only the last steps, over a clip.

    Args:
        pipe: with a scheduler of the request's own.
        clip: uint8 (num_frames, height, width, 3), as the call will make them.
        first_step: the first that runs, counted from 0.
        family: of the checkpoint's scheduler; see `schedulers.family_of`.
        generator: draws the noise.

    Raises:
        ModelUnavailable: inside the call, if the autoencoder or the latents are of a kind that is not known.
    """
    start = _Start(pipe, clip, family, generator)
    begin_at(pipe.scheduler, first_step, start.levels_are_known)
    prepare = pipe.prepare_latents

    @functools.wraps(prepare)
    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        prepared = prepare(*args, **kwargs)
        start.noise_is_there(prepared)
        return prepared

    pipe.prepare_latents = prepare_latents
    try:
        yield
    finally:
        del pipe.prepare_latents  # the class's own comes out again
        start.forget()


class _Start:
    """Writes what is started from over the noise, once that is there and the noise levels are known: pipelines differ in order."""

    def __init__(self, pipe: Any, clip: Frames, family: str, generator: torch.Generator) -> None:
        self._given: tuple[Any, Frames, torch.Generator] | None = (pipe, clip, generator)
        self._family = family
        self._prepared: Any = None
        self._are_levels_known = False

    def forget(self) -> None:
        """Let go of everything: the scheduler's class holds this until garbage is collected."""
        self._given = self._prepared = None

    def levels_are_known(self) -> None:
        self._are_levels_known = True
        if self._prepared is not None:
            self._write()

    def noise_is_there(self, prepared: Any) -> None:
        self._prepared = prepared
        if self._are_levels_known:
            self._write()

    def _write(self) -> None:
        prepared, self._prepared = self._prepared, None
        assert self._given is not None
        pipe, frames, generator = self._given
        whole = prepared[0] if isinstance(prepared, tuple) else prepared
        name = type(pipe).__name__
        try:
            clip = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255
            latents = normalised(pipe, encode(pipe.vae, clip))
            part, latents = place_in(name, latents, whole)
        except OtherLatents as error:
            raise ModelUnavailable(f"no second pass can be made with `{name}`: {error}") from None
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        noised = _noised(pipe.scheduler, self._family, latents, noise).to(part)
        part.copy_(torch.where(_given(name, prepared, part), part, noised))


def _given(name: str, prepared: Any, part: torch.Tensor) -> torch.Tensor:
    """Tell which latents are a picture's and stay as they are."""
    mask = prepared[1] if isinstance(prepared, tuple) else None
    if part.ndim == 3 and isinstance(mask, torch.Tensor) and mask.ndim == 2:  # LTX: of each token
        return mask[:, -part.shape[1] :, None] > 0
    given = torch.zeros_like(part, dtype=torch.bool)
    if name == "SanaImageToVideoPipeline":
        given[:, :, :1] = True
    elif name in STARTS_WITH_PICTURE:
        given[:, :1] = True
    return given


def _noised(scheduler: Any, family: str, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Mix noise into clean latents, as much as the scheduler's first step expects."""
    time = scheduler.timesteps[:1]
    if family == "edm":
        return clean + scheduler.sigmas[0].to(clean) * noise
    if scheduler.config.get("invert_sigmas", False):  # Mochi counts from noise to data
        level = 1 - scheduler.sigmas[0].to(clean)
        return level * noise + (1 - level) * clean
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(clean, time, noise)
    if hasattr(scheduler, "add_noise"):
        return scheduler.add_noise(clean, noise, time)
    level = scheduler.sigmas[0].to(clean)
    return level * noise + (1 - level) * clean

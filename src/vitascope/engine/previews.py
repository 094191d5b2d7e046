"""Small pictures of what is being denoised: a linear projection from latents to colours, fitted to each loaded model.

No decoding: that would cost as much as many steps. A latent says much of the mean colour of the pixels that it stands for,
so the autoencoder encodes a few made-up clips once, and least squares find the colours in what comes out.
"""

from __future__ import annotations

import functools
import inspect
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ref

import numpy as np
import torch
from PIL import Image

from vitascope.domain.plan import Plan

from .latents import OtherLatents, encode, is_of_video, normalised, ratios, token_grid, unpack
from .schedulers import is_flow
from .slots import Slot

logger = logging.getLogger(__name__)

MAX_SIDE = 128
"""Longer side of a preview, in pixels."""

MAX_BYTES = 8192
"""It goes through the database and to every client that watches."""

MAX_FRAMES = 5
"""More latent frames than these are left out of a preview."""

QUALITIES = (75, 50, 25)
"""WebP qualities to try, until the picture is small enough."""

SAMPLES_PER_CHANNEL = 32
"""Latents to fit to, for each of their channels (docs/experiments.md)."""

LATENTS_PER_SIDE = 12
"""Size of the made-up clips. Latents at the border are less like others, so it should not be all border."""


@dataclass(frozen=True)
class Projection:
    """An affine map from a latent's channels to the mean colour of its pixels."""

    #: float32, (C + 1, 3); the last row is the constant.
    weights: torch.Tensor

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """Show latents (…, C) as RGB in [0, 1], (…, 3)."""
        if latents.shape[-1] != len(self.weights) - 1:
            raise OtherLatents(
                f"latents of {latents.shape[-1]} channels, {len(self.weights) - 1} were encoded"
            )
        return (latents @ self.weights[:-1] + self.weights[-1]).clamp(0, 1)


class Previews:
    """Makes the previews of one pass of one request; where the plan wants none it does nothing and costs nothing.

    Args:
        slot: where the request runs; its model keeps the projection.
        pipe: the slot's pipeline, with the scheduler of this request.
        plan: what is made.
        size: frames, height and width of what this pass of it makes.
    """

    def __init__(self, slot: Slot, pipe: Any, plan: Plan, size: tuple[int, int, int]) -> None:
        self._slot: Slot | None = slot
        self._pipe: Any = pipe
        self._every = plan.preview_every
        self._size = size
        self._seconds = size[0] / plan.native_fps
        self._shown = 0
        self._latents: torch.Tensor | None = None
        if self._every:
            _on_result(pipe.scheduler, self._keep)

    def after(self, num_steps: int) -> bytes | None:
        """Make the preview that is due after so many inference steps, if one is: an animated WebP.

        What goes wrong costs the preview, of all requests to this model, and never the video.
        """
        latents, self._latents = self._latents, None
        # not only at multiples: where rounds of improved sampling are shorter than planned, the count leaves some out
        if not self._every or num_steps // self._every == self._shown // self._every or latents is None:
            return None
        assert self._slot is not None
        self._shown = num_steps
        kept = self._slot.shared
        try:
            if "projection" not in kept:
                kept["projection"] = None  # in case that it fails
                kept["projection"] = fit(self._pipe)
            if kept["projection"] is None:
                return None
            frames = kept["projection"](self._frames(latents))
        except Exception as error:  # noqa: BLE001  whatever a model's classes raise, the video goes on
            kept["projection"] = None
            logger.warning("no previews of `%s`: %s", type(self._pipe).__name__, error)
            return None
        return to_webp(frames, self._seconds)

    def close(self) -> None:
        """Let go of everything: the scheduler's class holds this until garbage is collected."""
        self._every, self._slot, self._pipe, self._latents = 0, None, None, None

    def _keep(self, latents: torch.Tensor) -> None:
        self._latents = latents

    def _frames(self, latents: torch.Tensor) -> torch.Tensor:
        """Bring some of the latent frames into the order (T, H, W, C), on the CPU.

        The first is left out where there are others: most autoencoders give it one frame and not several, so that it has
        other colours; and some pipelines that start from an image put that over it at the end.
        """
        frames = unpack(type(self._pipe).__name__, latents, token_grid(self._pipe, self._size))
        frames = frames[1:] if len(frames) > 1 else frames
        chosen = np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).round().astype(int)
        return frames[torch.from_numpy(chosen).to(frames.device)].float().cpu()


# From what a scheduler's step was given to what it believes the clean latents to be


def _on_result(scheduler: Any, keep: Callable[[torch.Tensor], None]) -> None:
    """Hand over the latents to show after each step. Copies that a pipeline makes of the scheduler do not."""
    kind = type(scheduler)
    signature = inspect.signature(kind.step)
    original = ref(scheduler)  # weak, since it is kept by the class of what it refers to

    @functools.wraps(kind.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not original():
            return kind.step(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs).arguments
        result = kind.step(self, *args, **kwargs)
        index = (getattr(self, "step_index", None) or 1) - 1  # of this step: it points at the next one by now
        clean = predicted_clean(self, given, index)
        keep(result[0] if clean is None else clean)
        return result

    scheduler.__class__ = type(kind.__name__, (kind,), {"step": step})


def predicted_clean(scheduler: Any, given: dict[str, Any], index: int) -> torch.Tensor | None:
    """Tell the clean latents that the model's output implies; None where that is not simple.

    Args:
        scheduler: of the step.
        given: the step's arguments by name.
        index: of its noise level.
    """
    output, sample = given.get("model_output"), given.get("sample")
    if output is None or sample is None or output.shape != sample.shape:
        return None
    if given.get("per_token_timesteps") is not None:
        return None
    config = scheduler.config
    kind = config.get("prediction_type", "epsilon")
    if is_flow(scheduler) or kind == "flow_prediction":
        end = 1.0 if config.get("invert_sigmas") else 0.0
        return sample + (end - scheduler.sigmas[index].to(sample.device)) * output
    if not hasattr(scheduler, "alphas_cumprod"):
        return None
    if float(scheduler.init_noise_sigma) != 1.0:  # noise is added to a sample that keeps its size (Karras)
        sigma = scheduler.sigmas[index].to(sample.device)
        signal, noise = (sigma**2 + 1) ** -0.5, sigma * (sigma**2 + 1) ** -0.5
        sample = sample * signal
    else:  # the variance stays 1
        square = scheduler.alphas_cumprod[int(given["timestep"])].to(sample.device)
        signal, noise = square**0.5, (1 - square) ** 0.5
    if kind == "epsilon":
        return (sample - noise * output) / signal
    return signal * sample - noise * output if kind == "v_prediction" else output


# The fit


def fit(pipe: Any, seed: int = 0) -> Projection:
    """Fit the projection to made-up clips that the pipeline's own autoencoder encodes.

    Raises:
        OtherLatents: the autoencoder is not of a kind that is known here.
    """
    latents, colours = samples(pipe, seed)
    ones = torch.ones(len(latents), 1, dtype=latents.dtype)
    matrix = torch.cat([latents, ones], dim=1)
    ridge = 1e-3 * len(latents) * torch.eye(matrix.shape[1], dtype=latents.dtype)
    ridge[-1, -1] = 0
    weights = torch.linalg.solve(matrix.T @ matrix + ridge, matrix.T @ colours)
    return Projection(weights.float())


def explained(projection: Projection, latents: torch.Tensor, colours: torch.Tensor) -> float:
    """Share of the colours' variance that the projection explains (R²)."""
    error = (projection(latents.float()) - colours).square().sum()
    return 1.0 - float(error / (colours - colours.mean(0)).square().sum())


def samples(pipe: Any, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode made-up clips: latents as the denoiser knows them (N, C), and the mean colours in [0, 1] (N, 3); float64."""
    vae = pipe.vae
    spatial, temporal = ratios(pipe)
    num_frames = 2 * temporal + 1 if is_of_video(vae) else 3
    numbers = torch.Generator().manual_seed(seed)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    num_wanted = 1
    while sum(len(latents) for latents, _ in found) < num_wanted:
        clip = made_up_clip(num_frames, LATENTS_PER_SIDE * spatial, numbers)
        latents = normalised(pipe, encode(vae, clip)).double().cpu()  # (T, H, W, C)
        colours = _mean_colours(clip, latents.shape[:3])
        found.append(
            (latents[1:].flatten(0, 2), colours[1:].flatten(0, 2))
        )  # without the first frame: see `_frames`
        num_wanted = SAMPLES_PER_CHANNEL * latents.shape[-1]
    return torch.cat([latents for latents, _ in found]), torch.cat([colours for _, colours in found])


def made_up_clip(num_frames: int, side: int, numbers: torch.Generator) -> torch.Tensor:
    """Draw smooth colours that change with time, under a finer texture: (3, T, side, side) in [0, 1]."""

    def field(frames: int, cells: int) -> torch.Tensor:
        drawn = torch.rand((1, 3, frames, cells, cells), generator=numbers)
        shape = (num_frames, side, side)
        return torch.nn.functional.interpolate(drawn, shape, mode="trilinear", align_corners=True)[0]

    colours = field(2, 4) * 1.6 - 0.3
    texture = (field(2, side // 4) - 0.5) * field(1, 3)
    return (colours + texture).clamp(0, 1)


def _mean_colours(clip: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """Mean colour of the pixels that each latent stands for: (3, frames, height, width) to (T, H, W, 3)."""
    (num_frames, height, width), (t, h, w) = clip.shape[1:], grid
    if num_frames % t == 0:
        chunks = clip.split(num_frames // t, dim=1)
    elif (num_frames - 1) % (t - 1) == 0:  # the first frame has a latent of its own
        rest = (num_frames - 1) // (t - 1)
        chunks = clip.split([1, *[rest] * (t - 1)], dim=1)
    else:
        raise OtherLatents(f"{num_frames} frames became {t}")
    pooled = torch.stack([chunk.mean(1) for chunk in chunks])  # (T, 3, height, width)
    return torch.nn.functional.avg_pool2d(pooled, (height // h, width // w)).permute(0, 2, 3, 1).double()


def to_webp(frames: torch.Tensor, seconds: float) -> bytes:
    """Write frames (T, H, W, 3), RGB in [0, 1], as a WebP that plays in about `seconds`, small in both ways."""
    pictures = [_picture(frame) for frame in (frames * 255).round().byte().numpy()]
    duration = max(40, round(1000 * seconds / len(pictures)))
    for quality in QUALITIES:
        if len(written := _write(pictures, quality, duration)) <= MAX_BYTES:
            return written
    return _write(pictures[len(pictures) // 2 :][:1], QUALITIES[-1], duration)


def _picture(frame: np.ndarray[Any, Any]) -> Image.Image:
    height, width = frame.shape[:2]
    scale = MAX_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)


def _write(pictures: list[Image.Image], quality: int, duration: int) -> bytes:
    file = io.BytesIO()
    pictures[0].save(
        file, "WEBP", quality=quality, method=4, save_all=True, append_images=pictures[1:], duration=duration, loop=0
    )  # fmt: skip
    return file.getvalue()

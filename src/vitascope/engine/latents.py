"""Latents as each kind of pipeline has them: how they lie, and how an autoencoder's become a denoiser's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from .offloading import device_of

#: Order of the dimensions of latents as the scheduler steps them, by the beginning of the pipeline's class name.
#: Elsewhere five are (B, C, T, H, W), four are frames as a batch (B T, C, H, W), and three are tokens (B, T H W, C).
LAYOUTS = {
    "AnyFlow": "BTCHW",
    "CogVideoX": "BTCHW",
    "ConsisID": "BTCHW",
    "StableVideoDiffusion": "BTCHW",
    "Kandinsky5": "BTHWC",
}


class OtherLatents(Exception):
    """This pipeline's latents are of a kind that is not known here."""


def token_grid(pipe: Any, size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Tell T, H and W of the latents of frames, height and width, where they are a row of tokens."""
    num_frames, height, width = size
    spatial, temporal = ratios(pipe)
    return (num_frames - 1) // temporal + 1, height // spatial, width // spatial


def unpack(pipeline: str, latents: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Bring a pipeline's latents into the order (T, H, W, C): of the first video, if they are of several.

    Args:
        pipeline: name of its class.
        latents: as its scheduler steps them.
        grid: T, H and W of latents that are a row of tokens.
    """
    if latents.ndim == 4:
        return latents.permute(0, 2, 3, 1)
    if latents.ndim == 3 and latents.shape[1] >= math.prod(grid):
        return latents[0, -math.prod(grid) :].unflatten(
            0, grid
        )  # before them, LTX has tokens of given pictures
    if latents.ndim != 5:
        raise OtherLatents(f"latents of the shape {tuple(latents.shape)}")
    layout = next((order for name, order in LAYOUTS.items() if pipeline.startswith(name)), "BCTHW")
    return latents.permute([layout.index(dimension) for dimension in "BTHWC"])[0]


def pack(pipeline: str, frames: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Bring latents from the order (T, H, W, C) into that in which a pipeline has them: the other way round than `unpack`.

    Args:
        pipeline: name of its class.
        frames: of one video.
        like: what they replace; what is not of the video's frames stays as it is.
    """
    whole = like.clone()
    part, ordered = place_in(pipeline, frames, whole)
    part.copy_(ordered)
    return whole


def ratios(pipe: Any) -> tuple[int, int]:
    """How many pixels and how many frames a latent stands for, as the pipeline calls it."""

    def first(*names: str) -> int:
        return next((int(getattr(pipe, name)) for name in names if getattr(pipe, name, None)), 0)

    spatial = first(
        "vae_scale_factor_spatial",
        "vae_spatial_compression_ratio",
        "vae_spatial_scale_factor",
        "vae_scale_factor",
    )
    temporal = first(
        "vae_scale_factor_temporal", "vae_temporal_compression_ratio", "vae_temporal_scale_factor"
    )
    return spatial or 8, temporal or 1


def place_in(pipeline: str, latents: torch.Tensor, whole: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find where latents (T, H, W, C) belong in those that a pipeline starts from: the inverse of `unpack`.

    Args:
        pipeline: name of its class.
        latents: of one video, as `normalised` gives them.
        whole: what the pipeline starts from; other channels and frames, of pictures that are given, may stand beside.

    Returns:
        that part of `whole` itself, and `latents` in its order.
    """
    if whole.ndim == 4:
        part, ordered = whole, latents.permute(0, 3, 1, 2)
    elif whole.ndim == 3:
        ordered = latents.flatten(0, 2)[None]
        part = whole[:, -ordered.shape[1] :]
    elif whole.ndim == 5:
        layout = next((order for name, order in LAYOUTS.items() if pipeline.startswith(name)), "BCTHW")
        ordered = latents[None].permute(["BTHWC".index(dimension) for dimension in layout])
        time, channels = layout.index("T"), layout.index("C")
        first = whole.shape[time] - ordered.shape[time]
        if first < 0 or ordered.shape[channels] > whole.shape[channels]:
            raise OtherLatents(f"latents of the shape {tuple(whole.shape)}")
        part = whole.narrow(time, first, ordered.shape[time]).narrow(channels, 0, ordered.shape[channels])
    else:
        raise OtherLatents(f"latents of the shape {tuple(whole.shape)}")
    if part.shape != ordered.shape:
        raise OtherLatents(
            f"latents of the shape {tuple(part.shape)}, and {tuple(ordered.shape)} were encoded"
        )
    return part, ordered


def is_of_video(vae: Any) -> bool:
    """Whether an autoencoder reads several frames at once; else each is a picture to it."""
    return any(isinstance(module, torch.nn.Conv3d) for module in vae.encoder.modules())


def encode(vae: Any, clip: torch.Tensor) -> torch.Tensor:
    """Encode a clip (3, T, height, width) in [0, 1]: the latents' mean (T, H, W, C), float32, as the autoencoder scales them."""
    is_one = is_of_video(vae)
    clip = clip if is_one else clip.transpose(0, 1)
    pixels = (clip * 2 - 1).to(device_of(vae), vae.dtype)
    encoded = vae.encode(pixels[None] if is_one else pixels)
    if hasattr(encoded, "latent_dist"):
        encoded = encoded.latent_dist.mode()
    elif hasattr(encoded, "latent"):
        encoded = encoded.latent
    else:
        raise OtherLatents(f"autoencoder `{type(vae).__name__}`")
    encoded = encoded.float()
    return encoded[0].permute(1, 2, 3, 0) if is_one else encoded.permute(0, 2, 3, 1)


def normalised(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """Scale what the autoencoder gave as the pipelines do for the denoiser; (…, C) in and out."""
    vae, config = pipe.vae, pipe.vae.config

    def per_channel(name: str, default: Sequence[float]) -> torch.Tensor:
        value = config.get(name) if name in config else getattr(vae, name, None)  # LTX has them as buffers
        found = torch.as_tensor(default if value is None else value).to(latents)
        num_frames, _, _, channels = latents.shape
        if len(found) <= channels:
            return found
        return found.view(channels, -1).T[:num_frames, None, None]  # Cosmos has them for each latent frame

    mean = per_channel("latents_mean", [config.get("shift_factor") or 0.0])
    std = per_channel("latents_std", [1.0])
    scale = (config.get("scaling_factor") or 1.0) * (pipe.scheduler.config.get("sigma_data") or 1.0)
    return (latents - mean) / std * scale

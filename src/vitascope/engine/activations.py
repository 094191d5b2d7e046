"""How much memory a model's work takes beside its weights, reckoned from its configuration before it is loaded.

The factors were measured with `python -m bench.memory` on fake tensors of the real architectures in bfloat16
(docs/experiments.md). Knows nothing of torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan

from .sizes import Component, Sizes

HALF = 2
"""Bytes of a value in the dtype that the factors were measured in."""

BYTES_PER_PIXEL_OUT = 24
"""Of a decoded frame: float32 twice, as diffusers' video processor turns [-1, 1] into [0, 1]."""


@dataclass(frozen=True, slots=True)
class Extent:
    """The largest clip that one pass makes."""

    num_frames: int
    height: int
    width: int
    #: Branches of guidance of whose blocks a step cache keeps something.
    branches_kept: int = 0

    @property
    def pixels(self) -> int:
        return self.height * self.width

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.num_frames}"


def largest_extent(spec: ModelSpec, plan: Plan | None = None) -> Extent:
    """The clip of a plan's longest window, in the model's last pass; without a plan, of what the model makes by default."""
    if plan is None:
        return Extent(spec.default_num_frames, spec.default_size.height, spec.default_size.width)
    if plan.second is not None and plan.second.model == spec.id:
        plan = plan.second  # which is computed in full
    cache, branches = plan.step_cache, 2 if plan.guidance_scale > 1 else 1
    kept = branches if cache is not None and cache.kind == "first_block" else 0
    num_frames = max(window.num_frames for window in plan.windows)
    return Extent(num_frames, plan.native_height, plan.native_width, kept)


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes that the two parts of the work take at most; they do not run at the same time."""

    denoise_bytes: int
    decode_bytes: int
    #: Decoding in tiles; as `decode_bytes` where the autoencoder has none, or the picture is no larger than one.
    tiled_decode_bytes: int


@dataclass(frozen=True, slots=True)
class _Decoder:
    """What an autoencoder takes to decode, in bytes for each pixel of the finished picture.

    Args:
        per_pixel: however many frames there are: it decodes a few at a time. For a decoder that takes them all at once, 0.
        per_frame: for each frame, too.
        tile: pixels of the tiles that its class makes by default; 0 if it makes none.
    """

    per_pixel: int
    per_frame: int
    tile: int = 0


_DECODERS = {
    "AutoencoderKLWan": _Decoder(10240, 6, 256 * 256),
    "AutoencoderKLLTXVideo": _Decoder(0, 101, 512 * 512),
    "AutoencoderKLLTX2Video": _Decoder(0, 101, 512 * 512),
    "AutoencoderKLCogVideoX": _Decoder(45800, 6, 240 * 360),
    "AutoencoderKLHunyuanVideo": _Decoder(39400, 6, 256 * 256),
    "AutoencoderKLHunyuanVideo15": _Decoder(39400, 6, 256 * 256),
    "AutoencoderKLMochi": _Decoder(0, 2180, 256 * 256),
    "AutoencoderKLAllegro": _Decoder(45800, 6, 256 * 256),
    "AutoencoderKL": _Decoder(1540, 6, 512 * 512),
    "AutoencoderKLTemporalDecoder": _Decoder(1540 * 14, 6),
}
_WAN_RESIDUAL = _Decoder(16900, 6, 256 * 256)
_OTHER_DECODER = _Decoder(40000, 12)

_SMALL_BATCHES = ("Wan", "SkyReels")
"""Denoisers whose pipelines run the two halves of guidance one after the other, not as one batch."""

TRANSFORMER_BYTES = 58
"""For each token and channel: measured 27 (CogVideoX) to 57 (HunyuanVideo)."""

UNET_BYTES = 92
"""For each latent cell and channel of the first level: measured on the text-to-video UNet."""


def work_of(sizes: Sizes, clip: Extent, *, value_bytes: int = HALF) -> Work:
    """Reckon what the largest clip of a model takes.

    Args:
        value_bytes: of a value in the dtype that it runs in.
    """
    share = value_bytes / HALF
    autoencoder = next(iter(sizes.of("autoencoder")), None)
    denoisers = sizes.of("denoiser")
    denoise = round(max((_denoise_bytes(part, autoencoder, clip) for part in denoisers), default=0) * share)
    kept = max((_kept_bytes(part, autoencoder, clip, value_bytes) for part in denoisers), default=0)
    if autoencoder is None:
        return Work(denoise + kept, 0, 0)
    decoder = _decoder_of(autoencoder)
    out = BYTES_PER_PIXEL_OUT * clip.pixels * clip.num_frames
    whole, tiled = (
        round((decoder.per_pixel + decoder.per_frame * clip.num_frames) * pixels * share) + out
        for pixels in (clip.pixels, min(clip.pixels, decoder.tile or clip.pixels))
    )
    return Work(denoise + kept, whole, tiled)


def _decoder_of(autoencoder: Component) -> _Decoder:
    """The measured factors, scaled to how wide this checkpoint's last layers are, and how many pixels one of their cells is."""
    measured = _DECODERS.get(autoencoder.class_name, _OTHER_DECODER)
    if autoencoder.config.get("is_residual"):  # Wan 2.2's, for TI2V
        measured = _WAN_RESIDUAL
    usual_width = 96 if autoencoder.class_name == "AutoencoderKLWan" else 128
    usual_patch = 4 if "LTX" in autoencoder.class_name else 1
    patch = int(autoencoder.config.get("patch_size") or 1)
    share = _last_width(autoencoder.config) / usual_width * (usual_patch / patch) ** 2
    return _Decoder(round(measured.per_pixel * share), round(measured.per_frame * share) or 1, measured.tile)


def _last_width(config: Mapping[str, Any]) -> int:
    """Channels of the decoder's last layers."""
    named = config.get("decoder_base_dim") or config.get("base_dim")
    if named:
        return int(named)
    for key in ("decoder_block_out_channels", "block_out_channels"):
        if config.get(key):
            return int(config[key][0])
    return 128


def _denoise_bytes(denoiser: Component, autoencoder: Component | None, clip: Extent) -> int:
    config = denoiser.config
    batch = 1 if denoiser.class_name.startswith(_SMALL_BATCHES) else 2
    if config.get("block_out_channels"):
        cells = math.prod(_latent(autoencoder, clip))
        return batch * cells * int(config["block_out_channels"][0]) * UNET_BYTES
    return batch * _num_tokens(denoiser, autoencoder, clip) * _width(config) * TRANSFORMER_BYTES


def _kept_bytes(denoiser: Component, autoencoder: Component | None, clip: Extent, value_bytes: int) -> int:
    """What a step cache by the first block keeps: of a branch two residuals in float32, or three as diffusers computes."""
    if not clip.branches_kept:
        return 0
    each = max(2 * 4, 3 * value_bytes)
    return clip.branches_kept * _num_tokens(denoiser, autoencoder, clip) * _width(denoiser.config) * each


def _latent(autoencoder: Component | None, clip: Extent) -> tuple[int, int, int]:
    space, time = _scales(autoencoder.config if autoencoder else {})
    return math.ceil((clip.num_frames - 1) / time) + 1, clip.height // space, clip.width // space


def _num_tokens(denoiser: Component, autoencoder: Component | None, clip: Extent) -> int:
    return math.prod(_latent(autoencoder, clip)) // math.prod(_patch(denoiser.config))


def _scales(config: Mapping[str, Any]) -> tuple[int, int]:
    """How much smaller latents are than pixels, in space and in time."""
    levels = len(config.get("block_out_channels") or config.get("dim_mult") or (0,) * 4)
    space = config.get("scale_factor_spatial") or config.get("spatial_compression_ratio")
    time = config.get("scale_factor_temporal") or config.get("temporal_compression_ratio")
    if time is None:
        is_of_images = config.get("_class_name") in ("AutoencoderKL", "AutoencoderKLTemporalDecoder")
        time = 1 if is_of_images else 4
    if space is None:
        space = 32 if "LTX" in str(config.get("_class_name")) else 2 ** (levels - 1)
    return int(space), int(time)


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Latent cells of one token, by frames, height and width."""
    given = config.get("patch_size", 1)
    if isinstance(given, list | tuple):
        time, height, width = ([1] * 3 + [int(side) for side in given])[-3:]
        return time, height, width
    time = int(config.get("patch_size_t") or 1)
    return time, int(given), int(given)


def _width(config: Mapping[str, Any]) -> int:
    """Channels of a token."""
    for key in ("inner_dim", "hidden_size", "dim", "model_dim"):
        if isinstance(config.get(key), int):
            return int(config[key])
    heads = config.get("num_attention_heads", 24)
    return int(heads) * int(config.get("attention_head_dim", 128))

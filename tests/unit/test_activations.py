"""What work takes, reckoned from configurations: against what fake tensors of the same architectures took.

The numbers are of `python -m bench.memory`, in bfloat16, 2026-11-21.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vitascope.catalog import Catalog
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.engine.activations import BYTES_PER_PIXEL_OUT, Extent, largest_extent, work_of
from vitascope.engine.sizes import Component, Sizes

GIB = 2**30
WAN = {"_class_name": "AutoencoderKLWan", "base_dim": 96, "dim_mult": [1, 2, 4, 4]}
WAN_2_2 = {
    **WAN,
    "base_dim": 160,
    "decoder_base_dim": 256,
    "is_residual": True,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}
LTX = {"_class_name": "AutoencoderKLLTXVideo", "block_out_channels": [128, 256, 512, 512], "patch_size": 4}
COGVIDEOX = {"_class_name": "AutoencoderKLCogVideoX", "block_out_channels": [128, 256, 256, 512]}
HUNYUAN = {
    "_class_name": "AutoencoderKLHunyuanVideo",
    "block_out_channels": [128, 256, 512, 512],
    "spatial_compression_ratio": 8,
    "temporal_compression_ratio": 4,
}
MOCHI = {"_class_name": "AutoencoderKLMochi", "decoder_block_out_channels": [128, 256, 512, 768]}
IMAGES = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512]}


def autoencoder(config: dict[str, Any]) -> Component:
    return Component("vae", "autoencoder", 1, 1, 1, config=config)


@pytest.mark.parametrize(
    ("config", "clip", "whole", "tiled"),
    [
        (WAN, Extent(17, 480, 832), 3.80, 0.67),
        (WAN, Extent(81, 480, 832), 3.95, 0.86),
        (WAN, Extent(17, 720, 1280), 8.78, None),
        (WAN_2_2, Extent(81, 704, 1280), 9.44, None),
        (LTX, Extent(17, 512, 704), 0.58, None),
        (LTX, Extent(97, 512, 704), 3.26, 2.37),
        (COGVIDEOX, Extent(17, 480, 720), 14.74, None),
        (COGVIDEOX, Extent(49, 480, 720), 14.74, 3.77),
        (HUNYUAN, Extent(61, 480, 832), 14.76, 2.57),
        (MOCHI, Extent(19, 480, 848), 15.66, None),
    ],
)
def test_decoding_takes_what_was_measured(
    config: dict[str, Any], clip: Extent, whole: float, tiled: float | None
) -> None:
    work = work_of(Sizes((autoencoder(config),)), clip)
    out = BYTES_PER_PIXEL_OUT * clip.pixels * clip.num_frames
    assert (work.decode_bytes - out) / GIB == pytest.approx(whole, rel=0.06)
    if tiled is not None:
        assert (work.tiled_decode_bytes - out) / GIB == pytest.approx(tiled, rel=0.3)


def denoiser(name: str, **config: Any) -> Component:
    return Component("transformer", "denoiser", 1, 1, 1, config={"_class_name": name, **config})


@pytest.mark.parametrize(
    ("config", "part", "clip", "measured"),
    [
        (WAN, denoiser("WanTransformer3DModel", num_attention_heads=40, attention_head_dim=128, patch_size=[1, 2, 2]), Extent(81, 480, 832), 5.22),
        (WAN, denoiser("WanTransformer3DModel", num_attention_heads=12, attention_head_dim=128, patch_size=[1, 2, 2]), Extent(81, 480, 832), 1.70),
        (LTX, denoiser("LTXVideoTransformer3DModel", num_attention_heads=32, attention_head_dim=64, patch_size=1), Extent(97, 512, 704), 0.86),
        (COGVIDEOX, denoiser("CogVideoXTransformer3DModel", num_attention_heads=30, attention_head_dim=64, patch_size=2), Extent(49, 480, 720), 1.73),
        (IMAGES, Component("unet", "denoiser", 1, 1, 1, config={"_class_name": "UNet3DConditionModel", "block_out_channels": [320, 640, 1280, 1280]}), Extent(16, 320, 576), 2.51),
    ],
)  # fmt: skip
def test_denoising_takes_at_least_what_was_measured(
    config: dict[str, Any], part: Component, clip: Extent, measured: float
) -> None:
    """One factor for all transformers, that of the largest: never too little, and at most 2.3 times too much."""
    reckoned = work_of(Sizes((autoencoder(config), part)), clip).denoise_bytes / GIB
    assert 0.99 * measured <= reckoned <= 2.3 * measured


def test_wider_values_take_more() -> None:
    half, whole = (
        work_of(Sizes((autoencoder(WAN),)), Extent(81, 480, 832), value_bytes=size) for size in (2, 4)
    )
    out = BYTES_PER_PIXEL_OUT * 81 * 480 * 832
    assert whole.decode_bytes - out == 2 * (half.decode_bytes - out)


def test_what_a_step_cache_keeps_is_reckoned_with() -> None:
    """Wan 14B at 1280x720x81 has 75,600 tokens of 5,120 channels: two residuals of each in float32, for both branches."""
    transformer = denoiser("WanTransformer3DModel", num_attention_heads=40, attention_head_dim=128, patch_size=[1, 2, 2])  # fmt: skip
    sizes = Sizes((transformer, autoencoder(WAN)))
    clip = Extent(81, 720, 1280)
    whole, both, one = (
        work_of(sizes, replace(clip, branches_kept=branches)).denoise_bytes for branches in (0, 2, 1)
    )
    assert both - whole == 2 * (one - whole) == 2 * 2 * 4 * 75_600 * 5_120


def test_a_plan_says_what_of_it_is_kept() -> None:
    spec = Catalog.open().resolve("wan2.1-t2v-1.3b")

    def kept(**asked: Any) -> int:
        request = GenerationRequest(prompt="a", model=spec.id, seed=1, **asked)
        return largest_extent(spec, plan(request, spec)).branches_kept

    assert kept() == 0
    assert kept(speed="balanced") == 2
    assert kept(speed="fast", guidance_scale=1.0) == 1

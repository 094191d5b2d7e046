"""Cosmos 1 and 2, with a guardrail that lets everything pass: the real one is a package and models of its own."""

from __future__ import annotations

from typing import Any

from . import text


class OpenGuardrail:
    """Stands for `cosmos_guardrail.CosmosSafetyChecker`, without which the pipelines do not run."""

    def to(self, *_args: Any, **_options: Any) -> OpenGuardrail:
        return self

    def check_text_safety(self, _prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


def stand_in_for_guardrail() -> None:
    """Make the pipelines of this process take the open guardrail; the pipelines look it up when they are made."""
    from diffusers.pipelines.cosmos import (
        pipeline_cosmos2_video2world,
        pipeline_cosmos_text2world,
        pipeline_cosmos_video2world,
    )

    for module in (pipeline_cosmos_text2world, pipeline_cosmos_video2world, pipeline_cosmos2_video2world):
        module.CosmosSafetyChecker = OpenGuardrail


def _transformer(in_channels: int = 4) -> Any:
    from diffusers import CosmosTransformer3DModel

    return CosmosTransformer3DModel(
        in_channels=in_channels, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=2,
        mlp_ratio=2, text_embed_dim=32, adaln_lora_dim=4, max_size=(4, 32, 32),
    )  # fmt: skip


def _parts(in_channels: int = 4) -> dict[str, Any]:
    from diffusers import AutoencoderKLCosmos, EDMEulerScheduler

    tokenizer, text_encoder = text.t5()
    vae = AutoencoderKLCosmos(
        latent_channels=4, encoder_block_out_channels=(8, 8, 8, 8), decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,), resolution=64, num_layers=2, spatial_compression_ratio=8,
    )  # fmt: skip
    scheduler = EDMEulerScheduler(sigma_data=0.5, final_sigmas_type="sigma_min")
    return {
        "tokenizer": tokenizer,
        "text_encoder": text_encoder,
        "transformer": _transformer(in_channels),
        "vae": vae,
        "scheduler": scheduler,
    }


def _unguarded(pipe: Any) -> Any:
    """What a checkpoint's folder holds: the guardrail is not part of it."""
    pipe.register_modules(safety_checker=None)
    return pipe


def text_to_world() -> Any:
    from diffusers import CosmosTextToWorldPipeline

    stand_in_for_guardrail()
    return _unguarded(CosmosTextToWorldPipeline(**_parts()))


def video_to_world() -> Any:
    from diffusers import CosmosVideoToWorldPipeline

    stand_in_for_guardrail()
    return _unguarded(CosmosVideoToWorldPipeline(**_parts(5)))


def cosmos_2() -> Any:
    from diffusers import AutoencoderKLWan, Cosmos2VideoToWorldPipeline, FlowMatchEulerDiscreteScheduler

    stand_in_for_guardrail()
    vae = AutoencoderKLWan(base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    transformer = _transformer(17)
    transformer = type(transformer).from_config({**transformer.config, "out_channels": 16})
    scheduler = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    return _unguarded(
        Cosmos2VideoToWorldPipeline(
            **_parts() | {"vae": vae, "transformer": transformer, "scheduler": scheduler}
        )
    )


BUILDERS = {
    "CosmosTextToWorldPipeline": text_to_world,
    "CosmosVideoToWorldPipeline": video_to_world,
    "Cosmos2VideoToWorldPipeline": cosmos_2,
}

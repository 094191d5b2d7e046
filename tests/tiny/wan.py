"""Wan 2.1 and 2.2 in their layouts, and SkyReels-V2, which has the same parts."""

from __future__ import annotations

from typing import Any

from . import text


def _vae() -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def _settings(in_channels: int = 16, **more: Any) -> dict[str, Any]:
    return {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": in_channels,
        "out_channels": 16, "text_dim": 32, "freq_dim": 256, "ffn_dim": 32, "num_layers": 2, "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32, **more,
    }  # fmt: skip


def _parts(shift: float = 3.0) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    tokenizer, text_encoder = text.t5()
    return {
        "tokenizer": tokenizer,
        "text_encoder": text_encoder,
        "vae": _vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=shift),
    }


def _image_encoder() -> Any:
    from transformers import CLIPVisionModel

    return CLIPVisionModel(text.clip_vision())


def _image_settings() -> dict[str, Any]:
    """Of a transformer that sees the first frame beside the noise, as latents and as an image embedding."""
    return _settings(36, image_dim=4, added_kv_proj_dim=24)


def wan(*, expand_timesteps: bool = False) -> Any:
    from diffusers import WanPipeline, WanTransformer3DModel

    transformer = WanTransformer3DModel(**_settings())
    return WanPipeline(**_parts(), transformer=transformer, expand_timesteps=expand_timesteps)


def wan_ti2v() -> Any:
    """The Wan 2.2 TI2V layout: one transformer for text and for a first frame."""
    return wan(expand_timesteps=True)


def wan_a14b() -> Any:
    """The Wan 2.2 A14B layout: one transformer for the early steps, another one for the late."""
    from diffusers import WanPipeline, WanTransformer3DModel

    early, late = (WanTransformer3DModel(**_settings()) for _ in range(2))
    return WanPipeline(**_parts(), transformer=early, transformer_2=late, boundary_ratio=0.875)


def wan_i2v() -> Any:
    from diffusers import WanImageToVideoPipeline, WanTransformer3DModel

    return WanImageToVideoPipeline(
        **_parts(),
        transformer=WanTransformer3DModel(**_image_settings()),
        image_encoder=_image_encoder(),
        image_processor=text.clip_images(),
    )


def wan_i2v_a14b() -> Any:
    """The Wan 2.2 I2V A14B layout: two transformers, no image encoder."""
    from diffusers import WanImageToVideoPipeline, WanTransformer3DModel

    early, late = (WanTransformer3DModel(**_settings(36)) for _ in range(2))
    return WanImageToVideoPipeline(**_parts(), transformer=early, transformer_2=late, boundary_ratio=0.9)


def wan_v2v() -> Any:
    from diffusers import WanTransformer3DModel, WanVideoToVideoPipeline

    return WanVideoToVideoPipeline(**_parts(), transformer=WanTransformer3DModel(**_settings()))


def wan_vace() -> Any:
    from diffusers import WanVACEPipeline, WanVACETransformer3DModel

    transformer = WanVACETransformer3DModel(**_settings(), vace_layers=[0], vace_in_channels=96)
    return WanVACEPipeline(**_parts(), transformer=transformer)


def anyflow() -> Any:
    """Wan distilled to few steps: the transformer is told where a step ends, and guidance is in its weights."""
    from diffusers import AnyFlowPipeline, AnyFlowTransformer3DModel, FlowMapEulerDiscreteScheduler

    settings = {key: value for key, value in _settings().items() if key != "qk_norm"}
    parts = _parts() | {"scheduler": FlowMapEulerDiscreteScheduler(shift=5.0)}
    return AnyFlowPipeline(**parts, transformer=AnyFlowTransformer3DModel(**settings))


def _skyreels_parts(**more: Any) -> dict[str, Any]:
    from diffusers import SkyReelsV2Transformer3DModel, UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0
    )
    settings = _settings() | {"in_channels": 16} | more
    return _parts() | {"scheduler": scheduler, "transformer": SkyReelsV2Transformer3DModel(**settings)}


def skyreels() -> Any:
    from diffusers import SkyReelsV2Pipeline

    return SkyReelsV2Pipeline(**_skyreels_parts())


def skyreels_i2v() -> Any:
    from diffusers import SkyReelsV2ImageToVideoPipeline

    return SkyReelsV2ImageToVideoPipeline(
        **_skyreels_parts(**_image_settings()),
        image_encoder=_image_encoder(),
        image_processor=text.clip_images(),
    )


def skyreels_forcing() -> Any:
    from diffusers import SkyReelsV2DiffusionForcingPipeline

    return SkyReelsV2DiffusionForcingPipeline(**_skyreels_parts(inject_sample_info=True))


def skyreels_forcing_i2v() -> Any:
    from diffusers import SkyReelsV2DiffusionForcingImageToVideoPipeline

    return SkyReelsV2DiffusionForcingImageToVideoPipeline(**_skyreels_parts(inject_sample_info=True))


BUILDERS = {
    "WanPipeline": wan,
    "WanImageToVideoPipeline": wan_i2v,
    "WanVideoToVideoPipeline": wan_v2v,
    "WanVACEPipeline": wan_vace,
    "AnyFlowPipeline": anyflow,
    "SkyReelsV2Pipeline": skyreels,
    "SkyReelsV2ImageToVideoPipeline": skyreels_i2v,
    "SkyReelsV2DiffusionForcingPipeline": skyreels_forcing,
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": skyreels_forcing_i2v,
}

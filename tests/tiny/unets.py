"""The latent diffusion families with a UNet: ModelScope and zeroscope, AnimateDiff, Stable Video Diffusion."""

from __future__ import annotations

from typing import Any

from . import text


def _vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


def _scheduler(**settings: Any) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, **settings
    )


def _zeroscope_parts() -> dict[str, Any]:
    from diffusers import UNet3DConditionModel

    tokenizer, text_encoder = text.clip()
    unet = UNet3DConditionModel(
        block_out_channels=(4, 8), layers_per_block=1, sample_size=32, in_channels=4, out_channels=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=32, attention_head_dim=4, norm_num_groups=2,
    )  # fmt: skip
    return {
        "vae": _vae(),
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "unet": unet,
        "scheduler": _scheduler(),
    }


def text_to_video_sd() -> Any:
    from diffusers import TextToVideoSDPipeline

    return TextToVideoSDPipeline(**_zeroscope_parts())


def video_to_video_sd() -> Any:
    from diffusers import VideoToVideoSDPipeline

    return VideoToVideoSDPipeline(**_zeroscope_parts())


def _animatediff_parts() -> dict[str, Any]:
    from diffusers import MotionAdapter, UNet2DConditionModel

    tokenizer, text_encoder = text.clip()
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8), layers_per_block=1, sample_size=8, in_channels=4, out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, norm_num_groups=2, attention_head_dim=2,
    )  # fmt: skip
    adapter = MotionAdapter(
        block_out_channels=(8, 8),
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=2,
    )
    return {
        "vae": _vae(),
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "unet": unet,
        "motion_adapter": adapter,
        "scheduler": _scheduler(steps_offset=1),
    }


def animatediff() -> Any:
    from diffusers import AnimateDiffPipeline

    return AnimateDiffPipeline(**_animatediff_parts())


def animatediff_v2v() -> Any:
    from diffusers import AnimateDiffVideoToVideoPipeline

    return AnimateDiffVideoToVideoPipeline(**_animatediff_parts())


def stable_video_diffusion() -> Any:
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import CLIPVisionModelWithProjection

    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=32, in_channels=8, out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), cross_attention_dim=32,
        num_attention_heads=2, projection_class_embeddings_input_dim=96, addition_time_embed_dim=32,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", interpolation_type="linear",
        num_train_timesteps=1000, prediction_type="v_prediction", sigma_max=700.0, sigma_min=0.002, steps_offset=1,
        timestep_spacing="leading", timestep_type="continuous", use_karras_sigmas=True,
    )  # fmt: skip
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4
    )
    return StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=CLIPVisionModelWithProjection(text.clip_vision(32, 224, 32)),
        unet=unet,
        scheduler=scheduler,
        feature_extractor=text.clip_images(224),
    )


BUILDERS = {
    "TextToVideoSDPipeline": text_to_video_sd,
    "VideoToVideoSDPipeline": video_to_video_sd,
    "AnimateDiffPipeline": animatediff,
    "AnimateDiffVideoToVideoPipeline": animatediff_v2v,
    "StableVideoDiffusionPipeline": stable_video_diffusion,
}

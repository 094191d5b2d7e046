"""Families of one or two classes: Mochi, Allegro, Latte, Cosmos, Sana-Video, Kandinsky 5."""

from __future__ import annotations

from typing import Any

from . import hunyuan, text


def mochi() -> Any:
    from diffusers import (
        AutoencoderKLMochi,
        FlowMatchEulerDiscreteScheduler,
        MochiPipeline,
        MochiTransformer3DModel,
    )

    tokenizer, text_encoder = text.t5()
    transformer = MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=16,
        in_channels=12, text_embed_dim=32, time_embed_dim=4, activation_fn="swiglu", max_sequence_length=16,
    )  # fmt: skip
    vae = AutoencoderKLMochi(
        latent_channels=12, out_channels=3, encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32), layers_per_block=(1, 1, 1, 1, 1),
    )  # fmt: skip
    return MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
    )


def allegro() -> Any:
    from diffusers import (
        AllegroPipeline,
        AllegroTransformer3DModel,
        AutoencoderKLAllegro,
        EulerAncestralDiscreteScheduler,
    )

    tokenizer, text_encoder = text.t5()
    transformer = AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, num_layers=1,
        cross_attention_dim=24, sample_width=8, sample_height=8, sample_frames=8, caption_channels=32,
    )  # fmt: skip
    vae = AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2, sample_size=32
    )  # one tile is 24 frames of 32x32
    return AllegroPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=EulerAncestralDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        ),
    )


def latte() -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel

    tokenizer, text_encoder = text.t5()
    transformer = LatteTransformer3DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=32,
        in_channels=4, cross_attention_dim=24, out_channels=8, attention_bias=True, activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000, norm_type="ada_norm_single", norm_elementwise_affine=False,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    return LattePipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=DDIMScheduler(clip_sample=False),
    )


def sana() -> Any:
    from diffusers import SanaVideoPipeline

    return SanaVideoPipeline(**_sana_parts())


def sana_i2v() -> Any:
    from diffusers import SanaImageToVideoPipeline

    return SanaImageToVideoPipeline(**_sana_parts())


def _sana_parts() -> dict[str, Any]:
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, SanaVideoTransformer3DModel
    from transformers import Gemma2Config, Gemma2Model

    transformer = SanaVideoTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=2, num_cross_attention_heads=2,
        cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=8, rope_max_seq_len=32,
    )  # fmt: skip
    config = Gemma2Config(
        vocab_size=text.VOCAB_SIZE, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    vae = AutoencoderKLWan(base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=8.0),
        "text_encoder": Gemma2Model(config),
        "tokenizer": text.unigrams(),
    }


def _kandinsky_parts(*, visual_cond: bool) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, Kandinsky5Transformer3DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    config = Qwen2_5_VLConfig(text_config=text.qwen_text(), vision_config=vision)
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=16, in_text_dim2=32, time_dim=32, out_visual_dim=4, model_dim=48, ff_dim=64,
        num_text_blocks=1, num_visual_blocks=1, axes_dims=(8, 8, 8), visual_cond=visual_cond,
    )  # fmt: skip
    tokenizer_2, text_encoder_2 = text.clip()
    return {
        "transformer": transformer,
        "vae": hunyuan.vae(),
        "text_encoder": Qwen2_5_VLForConditionalGeneration(config),
        "tokenizer": text.unigrams("You are a promt engineer Describe the video in detail"),
        "text_encoder_2": text_encoder_2,
        "tokenizer_2": tokenizer_2,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0),
    }


def kandinsky() -> Any:
    from diffusers import Kandinsky5T2VPipeline

    return Kandinsky5T2VPipeline(**_kandinsky_parts(visual_cond=False))


def kandinsky_i2v() -> Any:
    from diffusers import Kandinsky5I2VPipeline

    return Kandinsky5I2VPipeline(**_kandinsky_parts(visual_cond=True))


BUILDERS = {
    "MochiPipeline": mochi,
    "AllegroPipeline": allegro,
    "LattePipeline": latte,
    "SanaVideoPipeline": sana,
    "SanaImageToVideoPipeline": sana_i2v,
    "Kandinsky5T2VPipeline": kandinsky,
    "Kandinsky5I2VPipeline": kandinsky_i2v,
}

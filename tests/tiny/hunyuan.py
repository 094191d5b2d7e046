"""HunyuanVideo and HunyuanVideo 1.5."""

from __future__ import annotations

from typing import Any

from . import text

CHAT = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def vae() -> Any:
    from diffusers import AutoencoderKLHunyuanVideo

    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )


def _transformer(**settings: Any) -> Any:
    from diffusers import HunyuanVideoTransformer3DModel

    return HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, patch_size=2, patch_size_t=1, text_embed_dim=16,
        pooled_projection_dim=8, rope_axes_dim=(2, 4, 4), **settings,
    )  # fmt: skip


def _llama() -> dict[str, Any]:
    return {
        "vocab_size": text.VOCAB_SIZE, "hidden_size": 16, "intermediate_size": 37, "num_hidden_layers": 4,
        "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip


def _parts() -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    tokenizer_2, text_encoder_2 = text.clip(8)
    return {
        "vae": vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "tokenizer_2": tokenizer_2,
        "text_encoder_2": text_encoder_2,
    }


def hunyuan() -> Any:
    from diffusers import HunyuanVideoPipeline
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
    from transformers import LlamaConfig, LlamaModel

    return HunyuanVideoPipeline(
        **_parts(),
        tokenizer=text.unigrams(DEFAULT_PROMPT_TEMPLATE["template"]),
        text_encoder=LlamaModel(LlamaConfig(**_llama())),
        transformer=_transformer(),
    )


def hunyuan_i2v() -> Any:
    """The layout that replaces the first latent frame; the other one gives four frames fewer than asked."""
    from diffusers import HunyuanVideoImageToVideoPipeline
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import DEFAULT_PROMPT_TEMPLATE
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    marks = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>")
    tokenizer = text.unigrams(DEFAULT_PROMPT_TEMPLATE["template"], marks)
    # the class's template has room for 576 image tokens: 24 x 24 patches
    vision = text.clip_vision(8, 96).to_dict()
    config = LlavaConfig(
        vision_config=vision,
        text_config={"model_type": "llama", **_llama()},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    return HunyuanVideoImageToVideoPipeline(
        **_parts(),
        tokenizer=tokenizer,
        text_encoder=LlavaForConditionalGeneration(config),
        transformer=_transformer(image_condition_type="token_replace"),
        image_processor=text.clip_images(96),
    )


def _parts_15(task: str) -> dict[str, Any]:
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15Transformer3DModel,
    )
    from diffusers.guiders import ClassifierFreeGuidance
    from transformers import Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    tokenizer = text.unigrams(
        "You are a helpful assistant Describe the video by detailing the following aspects"
    )
    tokenizer.chat_template = CHAT
    tokenizer_2, text_encoder_2 = text.byt5()
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        num_refiner_layers=1, mlp_ratio=2.0, text_embed_dim=16, text_embed_2_dim=32, image_embed_dim=12,
        rope_axes_dim=(2, 2, 4), target_size=32, task_type=task,
    )  # fmt: skip
    return {
        "text_encoder": Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**text.qwen_text())),
        "tokenizer": tokenizer,
        "transformer": transformer,
        "vae": AutoencoderKLHunyuanVideo15(
            latent_channels=4, block_out_channels=(16, 16, 16), layers_per_block=1, spatial_compression_ratio=4,
            temporal_compression_ratio=4, downsample_match_channel=False, upsample_match_channel=False,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder_2": text_encoder_2,
        "tokenizer_2": tokenizer_2,
        "guider": ClassifierFreeGuidance(guidance_scale=6.0),
    }  # fmt: skip


def hunyuan_15() -> Any:
    from diffusers import HunyuanVideo15Pipeline

    return HunyuanVideo15Pipeline(**_parts_15("t2v"))


def hunyuan_15_i2v() -> Any:
    from diffusers import HunyuanVideo15ImageToVideoPipeline
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    return HunyuanVideo15ImageToVideoPipeline(
        **_parts_15("i2v"),
        image_encoder=SiglipVisionModel(config),
        feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}),
    )


BUILDERS = {
    "HunyuanVideoPipeline": hunyuan,
    "HunyuanVideoImageToVideoPipeline": hunyuan_i2v,
    "HunyuanVideo15Pipeline": hunyuan_15,
    "HunyuanVideo15ImageToVideoPipeline": hunyuan_15_i2v,
}

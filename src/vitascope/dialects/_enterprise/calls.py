"""What a generation call of this vendor is, as far as its calls differ: limits, defaults, and what its reply tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitascope.domain.request import OutputFormat


@dataclass(frozen=True, slots=True)
class Range:
    """A number's default and documented ends. Above them the end is taken, as the vendor's own clients need; below is an error."""

    #: None leaves it to the model.
    default: float | None = None
    minimum: float = 0
    #: None where nothing is documented: then the model decides.
    maximum: float | None = None


COMMON: Mapping[str, Range] = {
    "width": Range(None, 16, 1024),
    "height": Range(None, 16, 1024),
    "num_frames": Range(None, 1),
    "fps": Range(None, 1, 60),
    "num_inference_steps": Range(None, 1, 50),
    "guidance_scale": Range(None, 0, 20),
    "strength": Range(None, 0, 1),
    "clip_skip": Range(None, 0, 2),
    "upscale_height": Range(None, 16, 1024),
    "upscale_width": Range(None, 16, 1024),
    "upscale_strength": Range(0.5, 0, 1),
    "upscale_guidance_scale": Range(7.5, 0, 8),
    "upscale_num_inference_steps": Range(20, 1, 50),
    "min_guidance_scale": Range(None, 1, 8),
    "max_guidance_scale": Range(None, 1, 8),
    "sample_shift": Range(None, 1, 10),
    "resolution": Range(None, 144, 1080),
    "samples": Range(1, 1, 4),
}
"""Where a call does not say otherwise."""

TEXT_META = (
    "base64", "clip_skip", "file_prefix", "fps", "guidance_scale", "height", "improved_sampling_seed", "instant_response",
    "model_id", "negative_prompt", "num_frames", "num_inference_steps", "output_type", "prompt", "seed", "temp",
    "upscale_guidance_scale", "upscale_height", "upscale_num_inference_steps", "upscale_strength", "upscale_width",
    "use_improved_sampling", "width",
)  # fmt: skip
"""What the enterprise text2video page shows."""

V6_META = tuple(
    sorted(
        (*TEXT_META, "adapter_lora", "controlnet", "controlnet_images", "domain_lora_scale", "id", "ip_adapter_id",
         "ip_adapter_image", "ip_adapter_scale", "lora_models", "lora_strength", "motion_lora_strength", "motion_loras",
         "motion_module", "track_id", "watermark", "webhook")
    )
)  # fmt: skip
"""What the pages of 2025 show: beside it parts of AnimateDiff, which are null where nothing of the kind is used."""

SORA_META = (
    "ar", "batch_size", "file_prefix", "fps", "frame_interval", "height", "num_frames", "output_type", "prompt", "seed",
    "temp", "width",
)  # fmt: skip

IMAGE_META = (
    "base64", "file_prefix", "fps", "guidance_scale", "height", "init_image", "instant_response", "max_guidance_scale",
    "min_guidance_scale", "model_id", "motion_bucket_id", "negative_prompt", "noise_aug_strength", "num_frames",
    "num_inference_steps", "output_type", "prompt", "seed", "temp", "width",
)  # fmt: skip

VIDEO_META = (
    "base64", "clip_skip", "file_prefix", "fps", "guidance_scale", "height", "init_video", "instant_response", "model_id",
    "negative_prompt", "num_frames", "num_inference_steps", "output_type", "prompt", "seed", "strength", "temp",
    "use_improved_sampling", "width",
)  # fmt: skip

ULTRA_META = (
    "file_prefix", "fps", "guidance_scale", "height", "init_image", "instant_response", "model_id", "negative_prompt",
    "num_frames", "num_inference_steps", "output_type", "portrait", "prompt", "resolution", "sample_shift", "seed", "temp",
    "width",
)  # fmt: skip

FUSION_META = (
    "aspect_ratio", "duration", "file_prefix", "fps", "height", "init_image", "instant_response", "model_id",
    "negative_prompt", "num_frames", "num_inference_steps", "output_type", "prompt", "seed", "temp", "width",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One generation call."""

    #: As the vendor names it.
    name: str
    #: With what its paths begin; its results are fetched there.
    prefix: str
    #: Documented limits and defaults, over `COMMON`.
    own_ranges: Mapping[str, Range] = field(default_factory=dict)
    format: OutputFormat = "mp4"
    #: Whether files are kept for a day only, where the request does not say.
    is_temp: bool = False
    #: Whether prompts are written out, where the request does not say; None is what the operator wants.
    enhances: bool | None = None
    #: The picture or video that it must have.
    needs: str | None = None
    #: Whether `base64` speaks of what is sent, and not of what is wanted back.
    takes_base64: bool = False
    #: Keys of its `meta`.
    meta: tuple[str, ...] = TEXT_META
    #: Whether a finished reply has no more than the id and the output.
    is_bare: bool = False
    #: Whether it names its links as `future_links` once more. The vendor's command line saves whatever link it finds.
    repeats_links: bool = True

    def range(self, name: str) -> Range:
        return self.own_ranges.get(name) or COMMON[name]

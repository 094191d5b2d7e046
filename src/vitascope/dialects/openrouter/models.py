"""GET /api/v1/videos/models: what requests may say of each model."""

from __future__ import annotations

from typing import Any

from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import Mode, ModelSpec
from vitascope.domain.request import GenerationRequest
from vitascope.domain.sizes import MAX_SIDE
from vitascope.domain.windows import MAX_DURATION_SECONDS, asked_length

from .create import PASSTHROUGH, RATIOS, RESOLUTIONS, size_of

_FRAMES: dict[str, Mode] = {"first_frame": "image", "last_frame": "last_image"}


def model_object(spec: ModelSpec) -> dict[str, Any]:
    """Show a model as the vendor does. Sizes that it does not make natively are brought to size."""
    sizes = {size_of(resolution, ratio) for resolution in RESOLUTIONS for ratio in RATIOS}
    legal = sorted(size for size in sizes if max(size) <= MAX_SIDE)
    own = [(size.width, size.height) for size in spec.sizes]
    return {
        "id": spec.id,
        "canonical_slug": spec.id,
        "name": spec.title,
        "description": spec.description,
        "created": 0,
        "hugging_face_id": spec.source.removeprefix("hub:") if spec.source.startswith("hub:") else None,
        "supported_resolutions": list(RESOLUTIONS),
        "supported_aspect_ratios": list(RATIOS),
        "supported_sizes": [f"{width}x{height}" for width, height in dict.fromkeys([*own, *legal])],
        "supported_durations": list(range(1, _longest_seconds(spec) + 1)),
        "supported_frame_images": [name for name, mode in _FRAMES.items() if mode in spec.pipelines] or None,
        "generate_audio": False,
        "seed": True,
        "creativity": None,
        "upscale_factor": None,
        "pricing_skus": None,
        "allowed_passthrough_parameters": list(PASSTHROUGH),
    }


def _longest_seconds(spec: ModelSpec) -> int:
    asked = MAX_DURATION_SECONDS * spec.fps
    request = GenerationRequest(prompt="", model=spec.id, num_frames=asked)
    try:
        asked_length(request, spec, next(iter(spec.pipelines)))
    except InvalidParameter as error:
        asked = int(str(error.nearest))
    return asked // spec.fps

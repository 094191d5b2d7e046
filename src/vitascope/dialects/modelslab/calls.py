"""The generation calls by their paths, with what the vendor documents of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from vitascope.dialects._enterprise.calls import (
    FUSION_META,
    IMAGE_META,
    SORA_META,
    ULTRA_META,
    V6_META,
    VIDEO_META,
    Call,
    Range,
)

ENTERPRISE = "/api/v1/enterprise/video"
V6 = "/api/v6/video"
V7 = "/api/v7/video-fusion"

_SIDES = {"width": Range(512, 16, 512), "height": Range(512, 16, 512)}
_CLIP = {
    **_SIDES,
    "num_frames": Range(16, 1, 25),
    "num_inference_steps": Range(20, 1, 50),
    "guidance_scale": Range(7.5, 0, 8),
    "fps": Range(7, 1, 16),
}

TEXT = Call(name="text2video", prefix=ENTERPRISE, own_ranges=_CLIP)
IMAGE = Call(
    name="img2video",
    prefix=ENTERPRISE,
    own_ranges={
        **_CLIP,
        "guidance_scale": Range(None, 0, 8),
        "min_guidance_scale": Range(1, 1, 8),
        "max_guidance_scale": Range(3, 1, 8),
    },
    needs="init_image",
    meta=IMAGE_META,
)
VIDEO = Call(
    name="video2video",
    prefix=ENTERPRISE,
    own_ranges={
        "width": Range(None, 16, 512),
        "height": Range(None, 16, 512),
        "num_frames": Range(None, 1, 25),
        "num_inference_steps": Range(20, 1, 50),
        "guidance_scale": Range(9.5, 0, 20),
        "strength": Range(0.8, 0, 1),
        "fps": Range(None, 1, 16),
    },
    needs="init_video",
    meta=VIDEO_META,
)
SORA = Call(
    name="open_sora",
    prefix=ENTERPRISE,
    own_ranges={
        "width": Range(576, 16, 768),
        "height": Range(320, 16, 768),
        "num_frames": Range(25, 1),
        "fps": Range(7, 1, 16),
    },
    is_temp=True,
    meta=SORA_META,
)
ULTRA_TEXT = Call(
    name="text2video_ultra",
    prefix=ENTERPRISE,
    own_ranges={
        "resolution": Range(320, 144, 480),
        "num_frames": Range(92, 1, 92),
        "num_inference_steps": Range(8, 1, 8),
        "guidance_scale": Range(1, 1, 2),
        "fps": Range(16, 1, 18),
        "sample_shift": Range(3, 1, 10),
    },
    meta=ULTRA_META,
)
ULTRA_IMAGE = dataclasses.replace(ULTRA_TEXT, name="img2video_ultra", needs="init_image", takes_base64=True)

_V6_TEXT = {
    **_CLIP,
    "num_frames": Range(25, 1, 25),
    "guidance_scale": Range(7, 0, 8),
    "upscale_strength": Range(0.6, 0, 1),
    "upscale_guidance_scale": Range(8, 0, 8),  # documented as 12, above its own maximum
}
_V6_ULTRA = {
    "resolution": Range(480, 144, 480),
    "num_frames": Range(81, 1, 81),
    "num_inference_steps": Range(25, 1, 30),
    "guidance_scale": Range(5, 0, 8),
    "fps": Range(16, 1, 16),
    "sample_shift": Range(5, 1, 10),
}
_FUSION = {
    "width": Range(None, 16, 1280),
    "height": Range(None, 16, 1280),
    "num_frames": Range(None, 1),
    "fps": Range(None, 1, 30),
}


def calls() -> Iterator[tuple[str, Call]]:
    """Return each call with its path."""
    for call in (TEXT, IMAGE, VIDEO, SORA):
        yield f"{ENTERPRISE}/{call.name}", call
    yield "/api/v1/enterprise/ultra_video/text2video", ULTRA_TEXT
    yield "/api/v1/enterprise/ultra_video/img2video", ULTRA_IMAGE
    yield "/api/v1/enterprise/image_to_video_ultra/img2video", ULTRA_IMAGE
    for call in _v6():
        yield f"{V6}/{call.name}", call
    for call in _v7():
        yield f"{V7}/{call.name}", call


def _v6() -> Iterator[Call]:
    yield dataclasses.replace(TEXT, prefix=V6, own_ranges=_V6_TEXT, format="gif", meta=V6_META)
    yield dataclasses.replace(IMAGE, prefix=V6, format="gif")
    yield dataclasses.replace(VIDEO, prefix=V6)
    yield dataclasses.replace(SORA, prefix=V6)
    yield dataclasses.replace(ULTRA_TEXT, prefix=V6, own_ranges=_V6_ULTRA)
    image = {**_V6_ULTRA, "num_inference_steps": Range(25, 1, 25)}
    yield dataclasses.replace(ULTRA_IMAGE, prefix=V6, own_ranges=image)


def _v7() -> Iterator[Call]:
    text = Call(name="text-to-video", prefix=V7, own_ranges=_FUSION, meta=FUSION_META, repeats_links=False)
    yield text
    yield dataclasses.replace(text, name="image-to-video", needs="init_image")
    yield dataclasses.replace(
        text, name="video-to-video", needs="init_video", own_ranges={**_FUSION, "strength": Range(0.8, 0, 1)}
    )


FETCH_PREFIXES = (ENTERPRISE, V6, V7)
"""Where results are fetched: `PREFIX/fetch/{request_id}`."""

MORE_FETCH_PREFIXES = (
    "/api/v1/enterprise/ultra_video",
    "/api/v1/enterprise/image_to_video_ultra",
    "/api/v6/images",
    "/api/v3",
)
"""Where some clients fetch them too."""

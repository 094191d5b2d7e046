"""Bodies as the pages of ModelsLab and stablediffusionapi show them, to the byte but for the key that stands in them."""

from __future__ import annotations

import json
from typing import Any

OPEN_SORA = (
    '{\n"key":"",\n"prompt":"a dog playing cards",\n"height":"256",\n"width":256,\n"num_frames": 25,\n'
    '"fps":12,\n"webhook":null,\n"track_id": null\n}'
)
TEXT2VIDEO = (
    '{\n"key":"",\n"model_id":"zeroscope",\n"prompt":"An astronaut riding a horse",\n"negative_prompt":"low quality",\n'
    '"height":512,\n"width":512,\n"num_frames":16,\n"num_inference_steps":20,\n"guidance_scale":7,\n'
    '"upscale_height":640,\n"upscale_width":1024,\n"upscale_strength":0.6,\n"upscale_guidance_scale":12,\n'
    '"upscale_num_inference_steps":20,\n"output_type":"gif",\n"webhook":null,\n"track_id":null\n}'
)
STABLEDIFFUSIONAPI = (
    '{\n"key": "enterprise_api_key",\n"model_id": "model_id",\n'
    '"prompt": "Girl smiling and sitting on bench, ultra HD video",\n"negative_prompt": "Low Quality",\n'
    '"width": "512",\n"height": "512",\n"scheduler": "UniPCMultistepScheduler",\n"num_inference_steps": "30",\n'
    '"enhance_prompt": "yes",\n"guidance_scale": 7.5,\n"strength": 0.7,\n"seed": null,\n"webhook": null,\n"track_id": null\n}'
)

BODIES = {
    "/api/v1/enterprise/video/open_sora": OPEN_SORA,
    "/api/v1/enterprise/video/text2video": TEXT2VIDEO,
    "/api/v1/enterprise/text2video": STABLEDIFFUSIONAPI,
}

SUCCESS_KEYS = {"status", "generationTime", "id", "output"}
TOLD_KEYS = {"proxy_links", "meta", "future_links"}

OPEN_SORA_META = {
    "ar", "batch_size", "file_prefix", "fps", "frame_interval", "height", "num_frames", "output_type", "prompt", "seed",
    "temp", "width",
}  # fmt: skip
TEXT_META = {
    "base64", "clip_skip", "file_prefix", "fps", "guidance_scale", "height", "improved_sampling_seed", "instant_response",
    "model_id", "negative_prompt", "num_frames", "num_inference_steps", "output_type", "prompt", "seed", "temp",
    "upscale_guidance_scale", "upscale_height", "upscale_num_inference_steps", "upscale_strength", "upscale_width",
    "use_improved_sampling", "width",
}  # fmt: skip


def with_key(body: str, key: str) -> str:
    """Fill the key in and change nothing else."""
    old = json.loads(body)["key"]
    return body.replace(f'"{old}"', f'"{key}"', 1)


def post(server: Any, path: str, body: str | None = None, **fields: Any) -> Any:
    """Send a body, or fields, and return what the answer says."""
    content = body if body is not None else json.dumps(fields)
    return server.client.post(path, content=content, headers={"Content-Type": "application/json"})

"""What a request for a video may say, by the clients' names: the vendor's, those of ezmodel and New API, of vLLM-Omni and of SGLang.

The description in `/openapi.json` is made of this, and what is not here is an unknown field. docs/openai.md has it as a table.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

DEFAULT_SECONDS = 4.0
"""What the vendor's documentation says."""

MIN_SECONDS, MAX_SECONDS = 1, 60
"""What ezmodel's documentation says of `duration`. Shorter ones can be had by `num_frames`."""

QUALITY_LEVELS: dict[str, float] = {
    "low": 0.5,
    "draft": 0.5,
    "standard": 1.0,
    "medium": 1.0,
    "auto": 1.0,
    "high": 1.5,
    "hd": 1.5,
    "ultra": 2.0,
    "max": 2.0,
}
"""Denoising steps by preset, as a share of the model's own number; always within what the model takes."""

MAX_STYLE_CHARS = 500

_number: Schema = {"anyOf": [{"type": "number"}, {"type": "string"}]}
_integer: Schema = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
_boolean: Schema = {"anyOf": [{"type": "boolean"}, {"type": "string"}]}
_text: Schema = {"type": "string"}
_object: Schema = {"anyOf": [{"type": "object"}, {"type": "string"}]}
_list: Schema = {"anyOf": [{"type": "array", "items": {}}, {"type": "string"}]}
_anything: Schema = {}


def _as(schema: Schema, text: str, **more: Any) -> Schema:
    return {**schema, "description": text, **more}


_IMAGE = "The first frame: JPEG, PNG, WebP or GIF. Only one picture or list of pictures is taken."

REFERENCE: Schema = {
    "anyOf": [
        {"type": "string", "description": "An http, https or data: URL, or base64 alone."},
        {"type": "object", "properties": {"image_url": {"type": "string"}}, "required": ["image_url"]},
        {
            "type": "object",
            "properties": {"file_id": {"type": "string"}},
            "required": ["file_id"],
            "description": "A file that was uploaded to `/v1/files`.",
        },
    ],
    "description": _IMAGE,
}
FILE: Schema = {"type": "string", "format": "binary", "description": _IMAGE}

FOLLOWED: dict[str, Schema] = {
    "prompt": {"type": "string", "minLength": 1, "maxLength": 32000},
    "model": _as(_text, "A served model, or a vendor's name; by default the server's own."),
    "seconds": _as(
        _number,
        f"Length, from {MIN_SECONDS} to {MAX_SECONDS}; may be fractional. Given back as it was sent.",
        default=f"{DEFAULT_SECONDS:g}",
    ),
    "duration": _as(_number, "The same as `seconds`, which wins over it."),
    "num_frames": _as(_integer, "Frames of the file; wins over `seconds`."),
    "fps": _as(_integer, "Frames per second of the file."),
    "size": _as(_text, "WIDTHxHEIGHT in pixels; by default the model's own size."),
    "width": _as(_integer, "Pixels; `size` wins over it."),
    "height": _as(_integer, "Pixels; `size` wins over it."),
    "aspect_ratio": _as(_text, "Such as 16:9; `size`, `width` and `height` win over it."),
    "short_edge": _as(_integer, "Pixels of the shorter side, beside `aspect_ratio` or alone."),
    "negative_prompt": _as(
        _text, "What the video must not show; wins over that of `metadata`.", maxLength=32000
    ),
    "style": _as(_text, "Extends the prompt; may be in `metadata`.", maxLength=MAX_STYLE_CHARS),
    "enhance_prompt": _as(
        _boolean,
        "Whether a language model writes the prompt out first; by default what the operator wants. The metadata has what it wrote.",
    ),
    "quality_level": _as(
        _text,
        "How many denoising steps are taken; may be in `metadata`. "
        + ", ".join(f"{name}: {share:g}" for name, share in QUALITY_LEVELS.items())
        + " of the model's own number. `num_inference_steps` wins over it.",
    ),
    "num_inference_steps": _integer,
    "steps": _as(_integer, "The same as `num_inference_steps`, which wins over it."),
    "guidance_scale": _number,
    "scheduler": _as(_text, "A noise scheduler that the model accepts, by diffusers' name."),
    "flow_shift": _as(_number, "How far a flow-matching model's noise levels are moved towards noise."),
    "lora": _as(
        {"anyOf": [{"type": "object"}, {"type": "array", "items": {}, "maxItems": 4}, _text]},
        "An adapter of the server's operator, as its name or `{name, scale}`; or a list of them. A path is not followed.",
    ),
    "strength": _as(_number, "How much of a given video is changed, from 0 to 1."),
    "seed": _as(
        {"anyOf": [*_integer["anyOf"], {"type": "array", "items": {"type": "integer"}}]},
        "The same request with the same seed makes the same frames. A list must count up by one, a seed for each video.",
    ),
    "n": _as(_integer, "Videos of this request, with seeds that count up by one.", default=1),
    "num_outputs_per_prompt": _as(_integer, "The same as `n`, which wins over it."),
    "response_format": _as(
        _text, "`url`, or `b64_json` to have the finished video in the reply.", enum=["url", "b64_json"]
    ),
    "output_format": _as(_text, "Kind of file.", enum=["mp4", "gif"], default="mp4"),
    "expires_in_seconds": _as(_integer, "How long the file is kept once the video has ended."),
    "user": _as(_text, "The client's own name for its end user, given back.", maxLength=255),
    "metadata": _as(
        _object,
        "Given back with the video; an object or JSON text. Of its keys `negative_prompt`, `style` and `quality_level` are followed.",
    ),
    "input_reference": REFERENCE,
    "image": _as(REFERENCE, "The same as `input_reference`."),
    "image_url": _as(_text, "The same as `input_reference`."),
    "reference_url": _as(_text, "The same as `input_reference`."),
    "image_reference": _as(
        _object, "The same as `input_reference`, as `{image_url}`; a list is as `input_references`."
    ),
    "images": _as(_list, "One is the same as `input_reference`; several are as `input_references`."),
    "input_references": _as(
        _list, "Pictures of who or what appears. One is the first frame where the model takes no references."
    ),
    "characters": _as(
        {
            "anyOf": [
                {
                    "type": "array",
                    "maxItems": 2,
                    "items": {"type": "object", "properties": {"id": _text}, "required": ["id"]},
                },
                _text,
            ]
        },
        "Who or what appears, as `{id}` of `/v1/videos/characters`. One is the first frame where the model takes no references.",
    ),
    "video_reference": _as(_object, "A video that is changed, as `{video_url}`."),
    "video_url": _as(_text, "The same as `video_reference`."),
    "extra_body": _as(_object, "Its keys are as if they were beside it, where they win."),
    "extra_params": _as(_object, "The same as `extra_body`."),
    "extra_json": _as(_object, "The same as `extra_body`."),
    "video_params": _as(_object, "The same as `extra_body`."),
}
"""Fields that decide what is made."""

_OWN_WAY = "this server decides it by itself"

TOLD: dict[str, str] = {
    "guidance_scale_2": "one scale guides all steps: `guidance_scale`",
    "true_cfg_scale": "one scale guides all steps: `guidance_scale`",
    "boundary_ratio": "the checkpoint says which of its parts makes which steps",
    "max_sequence_length": "the model's card says how much of a prompt is read",
    "quality": "no step is skipped or approximated here; `quality_level` says how many there are",
    "mode": "`quality_level` says how many steps are taken",
    "enable_teacache": "no step is skipped here",
    "enable_frame_interpolation": "frames are made between the model's own wherever `fps` asks for more of them",
    "frame_interpolation_exp": "`fps` says how many frames a second has",
    "frame_interpolation_scale": _OWN_WAY,
    "enable_upscaling": "frames are brought to the size that was asked for",
    "upscaling_scale": "`size` says how large the video is",
    "output_quality": "all files are written at one quality",
    "output_compression": "all files are written at one quality",
    "x264_preset": "all files are written at one quality",
    "return_stage_metrics": "a finished video always says what its stages took, in its metadata",
    "task_type": "what was sent with the request decides it",
    "generator_device": _OWN_WAY,
    "profile": "profiles are the operator's",
    "num_profiled_timesteps": "profiles are the operator's",
    "profile_all_stages": "profiles are the operator's",
    "sound_duration": "videos have no sound here",
}
"""Fields that are not followed and do no harm: by each, what is done instead. The reply's metadata tells it."""

_NO_SOUND = "videos have no sound here"
_NO_PATH = "nothing on the server's disk is opened for a client"

REFUSED: dict[str, str] = {
    "generate_sound": _NO_SOUND,
    "audio_reference": _NO_SOUND,
    "control_reference": "no model here follows a control video",
    "control_type": "no model here follows a control video",
    "video": "videos are made from videos by `/v1/videos/edits`, `/v1/videos/extensions` and `video_reference`",
    "start_time_seconds": "a video that is sent is used from its start",
    "diffusers_kwargs": "a pipeline's own arguments are not taken from requests",
    "video_path": _NO_PATH,
    "output_path": _NO_PATH,
    "perf_dump_path": _NO_PATH,
    "frame_interpolation_model_path": _NO_PATH,
    "upscaling_model_path": _NO_PATH,
}
"""Fields without which the video would be another: refused unless they are empty or switched off."""


def _schema_of_told(name: str, reason: str) -> Schema:
    return (
        {"description": f"Not followed: {reason}."}
        if name in TOLD
        else {"description": f"Refused: {reason}."}
    )


PARAMETERS: dict[str, Schema] = {
    **FOLLOWED,
    **{name: _schema_of_told(name, reason) for name, reason in {**TOLD, **REFUSED}.items()},
}

"""Tiny real models: diffusers pipelines of a few channels with random weights, built in a second, loaded like any other.

Run as a program to write one folder: `python -m tests.tiny WanPipeline FOLDER`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest
from vitascope.engine import Clip, Engine, Inputs
from vitascope.engine.contract import NO_INPUTS

from . import cogvideox as _cogvideox
from . import cosmos as _cosmos
from . import hunyuan as _hunyuan
from . import ltx as _ltx
from . import others as _others
from . import unets as _unets
from . import wan as _wan
from .cogvideox import cogvideox
from .ltx import ltx
from .unets import text_to_video_sd
from .wan import wan, wan_a14b, wan_i2v_a14b, wan_ti2v

BUILDERS: dict[str, Callable[[], Any]] = {
    **_wan.BUILDERS,
    **_ltx.BUILDERS,
    **_hunyuan.BUILDERS,
    **_cogvideox.BUILDERS,
    **_others.BUILDERS,
    **_cosmos.BUILDERS,
    **_unets.BUILDERS,
}

__all__ = [
    "BUILDERS",
    "LAYOUTS",
    "build",
    "cogvideox",
    "ltx",
    "make_plan",
    "run",
    "text_to_video_sd",
    "wan",
    "wan_a14b",
    "wan_i2v_a14b",
    "wan_ti2v",
]

LAYOUTS: dict[str, tuple[Callable[[], Any], str]] = {
    "Wan 2.2 TI2V-5B": (wan_ti2v, 'modes = { text = "WanPipeline", image = "WanImageToVideoPipeline" }'),
    "Wan 2.2 T2V-A14B": (wan_a14b, ""),
    "Wan 2.2 I2V-A14B": (wan_i2v_a14b, ""),
}
"""Checkpoints of classes above with other parts, and what their cards say beside the class."""

SMALL = 'size = { native = ["32x32"], multiple = 16 }'

SHORT = "call = { max_sequence_length = 32 }"  # the class pads every prompt to 1024

CARDS = {
    "AllegroPipeline": SMALL,
    "CogVideoXImageToVideoPipeline": SMALL,
    "HunyuanVideo15ImageToVideoPipeline": SMALL,
    "CosmosVideoToWorldPipeline": 'dtype = "float32"',  # torch pools no bfloat16 on a CPU
    "LTX2Pipeline": SHORT,
    "LTX2ImageToVideoPipeline": SHORT,
}
"""Of classes that are not small, or not quick on a CPU, without a card."""


def build(name: str, folder: Path, builder: Callable[[], Any] | None = None) -> Path:
    """Write a tiny model of the pipeline class or layout `name` into `folder`; the same weights at every run."""
    torch.manual_seed(0)
    layout, card = LAYOUTS.get(name, (None, CARDS.get(name, "")))
    pipe = (builder or layout or BUILDERS[name])()
    pipe.save_pretrained(folder, safe_serialization=True)
    if card and builder is None:
        head = f'id = "{folder.name.replace(" ", "-")}"\nsource = "folder:."\npipeline = "{type(pipe).__name__}"\n'
        (folder / "vitascope.toml").write_text(head + card + "\n")
    return folder


def make_plan(spec: ModelSpec, **asked: Any) -> Plan:
    """A plan of three steps over nine small frames."""
    small = {"prompt": "a dog walks", "seed": 3, "height": 32, "width": 32, "num_frames": 9}
    return plan(GenerationRequest(model=spec.id, **{**small, "num_inference_steps": 3, **asked}), spec)


def run(engine: Engine, spec: ModelSpec, plan: Plan, inputs: Inputs = NO_INPUTS) -> tuple[list[Any], Clip]:
    """Every step, and the clip."""
    *steps, clip = engine.generate(plan, spec, inputs)
    assert isinstance(clip, Clip)
    return steps, clip

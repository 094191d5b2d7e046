"""Running out of memory: how it shows, what is said of it, and how all of it comes free.

torch says it in as many ways as it has backends and libraries below it, mostly as a RuntimeError with a sentence.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import cache

import diffusers
import torch

from vitascope.domain.errors import OutOfMemory
from vitascope.domain.model_spec import ModelSpec, Size
from vitascope.domain.plan import Plan

from .generation import STAGE_OF_COMPONENT

GIB = 2**30

#: Sources: c10/core/impl/alloc_cpu.cpp, c10/cuda/CUDACachingAllocator.cpp, aten/src/ATen/mps/MPSAllocator.mm, cuBLAS's and
#: cuDNN's status names, oneDNN's dnnl_out_of_memory as mkldnn reports it: of a primitive too, whose code is mapped; what oneDNN has no
#: code for fails before, with a primitive's descriptor.
_SENTENCES = re.compile(
    r"can't allocate memory|not enough memory|out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
    r"|std::bad_alloc|could not create a (?:memory object|primitive$)|Cannot allocate memory|failed to map segment|unable to mmap",
    re.IGNORECASE,
)
_ASKED = re.compile(
    r"allocate (\d+(?:\.\d+)?) ?(bytes|KiB|MiB|GiB|GB|MB)|allocate (\d+(?:\.\d+)?)", re.IGNORECASE
)
_UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "mb": 10**6, "gb": 10**9}

SMALLER = 0.9
"""Of what is there, a hint plans with so much: work does not grow quite evenly with frames and pixels."""


def is_shortage(error: BaseException) -> bool:
    """Whether this, or what led to it, is a lack of memory."""
    return any(_is_one(each) for each in _chain(error))


def _is_one(error: BaseException) -> bool:
    if isinstance(error, OutOfMemory | MemoryError | torch.OutOfMemoryError):
        return True
    is_possible = isinstance(error, RuntimeError | OSError)
    return is_possible and _SENTENCES.search(str(error)) is not None


def asked_bytes(error: BaseException) -> int | None:
    """Read off an error how much could not be had; None if it does not say."""
    for each in _chain(error):
        found = _ASKED.search(str(each)) if _is_one(each) else None
        if found is not None:
            return round(float(found[1] or found[3]) * _UNITS[(found[2] or "bytes").lower()])
    return None


def stage_of(error: BaseException) -> str | None:
    """Tell the stage by the component that an error was raised in; None if it was in none.

    What a pipeline paused at last does not tell: at the first of its steps, where most lacks of memory are, that was the
    reading of the prompt or of a picture. Only where a pipeline is called: it also brings its components to the device.
    """
    names: dict[int, str] = {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        this = frame.f_locals.get("self")
        if isinstance(this, diffusers.DiffusionPipeline) and frame.f_code.co_name == "__call__":
            names = {id(part): name for name, part in this.components.items() if part is not None}
        elif id(this) in names:
            return STAGE_OF_COMPONENT.get(names[id(this)], "denoise")
    return None


def forget(error: BaseException) -> str:
    """Let go of what an error's frames hold, which is tensors, and return as text what it said."""
    text = "".join(traceback.format_exception(error))
    for each in _chain(error):
        traceback.clear_frames(each.__traceback__)
        each.__traceback__ = None
    return text


def reclaim(device: torch.device) -> None:
    """Give memory that nobody uses back to the device, or to the machine."""
    gc.collect()  # modules and their hooks refer to each other
    if device.type == "mps":
        torch.mps.empty_cache()
    elif device.type != "cpu":
        torch.get_device_module(device).empty_cache()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)  # else the C library keeps blocks of up to 32 MB for later: mallopt(3), M_MMAP_THRESHOLD


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    trim: Callable[[int], int] | None = None
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    return trim


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


_DURING = {
    "load": "while it was loaded",
    "encode_prompt": "while it read the prompt",
    "denoise": "while denoising",
    "decode_latents": "while decoding",
}


def describe(
    spec: ModelSpec,
    plan: Plan | None,
    stage: str,
    *,
    peak_bytes: int,
    asked: int | None,
    weights_bytes: int,
    total_bytes: int,
    others: tuple[str, ...] = (),
) -> OutOfMemory:
    """Say that the memory was not enough, how much it was, and what would help.

    Args:
        spec: the model.
        plan: what was made; None where a model was only loaded.
        stage: at which it happened.
        peak_bytes: most that was in use.
        asked: what could not be had; None if nobody knows.
        weights_bytes: of the model.
        total_bytes: all that there is.
        others: models that were loaded too.
    """
    more = "" if asked is None else f", and {_gib(asked)} more were asked for"
    when = _DURING.get(stage, "while it worked")
    message = f"model `{spec.id}` ran out of memory {when}: the peak was {_gib(peak_bytes)} of {_gib(total_bytes)}{more}"
    helps = [f"unload {' and '.join(f'`{name}`' for name in others)}"] if others else []
    if plan is not None and stage != "load":
        helps += _smaller(spec, plan, peak_bytes + (asked or 0) - weights_bytes, total_bytes - weights_bytes)
    if stage == "decode_latents":
        helps.append("set `engine.vae_tiling`, which decodes a part of the picture at a time")
    if stage == "load" or weights_bytes > total_bytes / 2:
        helps.append(f"set `engine.offload` or `engine.quantization`: the weights take {_gib(weights_bytes)}")
    helps = helps or ["a device with more memory: this is the smallest video that the model makes"]
    hint = "what would help: " + ", or ".join(helps)
    return OutOfMemory(message, peak_bytes=peak_bytes, hint=hint)


def _smaller(spec: ModelSpec, plan: Plan, needed_bytes: int, there_bytes: int) -> list[str]:
    """Name fewer frames and a smaller size that should fit; half of it all where the numbers say that it should have."""
    share = SMALLER * there_bytes / max(needed_bytes, 1)
    if not 0 < share < SMALLER:
        share = 0.5
    found = []
    frames = max(window.num_frames for window in plan.windows)
    fewer = _at_most(spec, round(frames * share))
    if fewer < frames:
        found.append(f"{fewer} frames instead of {frames}")
    asked = Size(plan.native_height, plan.native_width)
    height, width = (
        max(spec.size_multiple, int(side * share**0.5) // spec.size_multiple * spec.size_multiple)
        for side in (asked.height, asked.width)
    )
    if spec.max_pixels and height * width < asked.pixels:
        found.append(f"{Size(height, width)} instead of {asked}")
    elif smaller := [size for size in spec.sizes if size.pixels <= asked.pixels * share]:
        found.append(f"{max(smaller, key=lambda size: size.pixels)} instead of {asked}")
    return found


def _at_most(spec: ModelSpec, num_frames: int) -> int:
    rule = spec.frames
    k = max(0, (num_frames - rule.offset) // rule.multiple)
    return max(rule.minimum, rule.multiple * k + rule.offset)


def _gib(num_bytes: int) -> str:
    if num_bytes < GIB / 10:
        return f"{num_bytes / 2**20:.0f} MiB"
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes < 100 * GIB else f"{num_bytes / GIB:.0f} GiB"

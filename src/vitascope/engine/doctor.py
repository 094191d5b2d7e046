"""What the engine finds on this machine, for `vitascope doctor`."""

from __future__ import annotations

from collections.abc import Mapping

import diffusers
import torch

from vitascope.domain.choice import Choice
from vitascope.domain.model_spec import ModelSpec

from .activations import largest_extent, work_of
from .attention import check_attention
from .compiling import check_compile, choose_compile
from .device import choose_device, choose_threads, measure
from .placement import VALUE_BYTES, Wishes, best_dtype, check, place
from .sizes import read_sizes


def describe(device: str, threads: int, wishes: Wishes) -> list[Choice]:
    """Say which libraries there are and what the engine would choose, and why.

    Raises:
        SettingsError: a setting asks for what this machine cannot do.
    """
    chosen, device_choice = choose_device(device)
    machine = measure(chosen)
    check(machine, wishes)
    check_attention(wishes.attention, chosen)
    check_compile(wishes.compile, chosen)
    found = [
        Choice("torch", torch.__version__, f"with diffusers {diffusers.__version__}"),
        device_choice,
        best_dtype(machine),
    ]
    if chosen.type == "cpu":
        found.append(choose_threads(threads))
    else:
        sizes = f"{machine.free_bytes / 2**30:.1f} of {machine.total_bytes / 2**30:.1f} GiB free"
        found.append(Choice("device memory", sizes, "on the GPU"))
    return found


def describe_model(
    spec: ModelSpec,
    location: str,
    parts: Mapping[str, str],
    device: str,
    wishes: Wishes,
    budget_bytes: int | None,
) -> list[Choice]:
    """Say how a model would be loaded here, and why, without loading it. Its attention is tried when it is loaded.

    Args:
        spec: the model.
        location: its folder.
        parts: folders of components that are elsewhere.
        device: the setting.
        wishes: the settings for loading.
        budget_bytes: what the operator lets models take; None is what is free.

    Raises:
        ModelTooLarge: it has no room here.
        SettingsError: a setting asks for what this machine cannot do.
    """
    chosen = choose_device(device)[0]
    machine = measure(chosen, budget_bytes)
    sizes, extent = read_sizes(location, parts), largest_extent(spec)
    placement = place(spec, sizes, machine, wishes, extent)
    work = work_of(sizes, extent, value_bytes=VALUE_BYTES[placement.dtype])
    tiling = placement.tiles_for(work, extent)
    compiles = choose_compile(wishes.compile, chosen, placement)
    return [*placement.choices, compiles, *([tiling] if tiling else [])]

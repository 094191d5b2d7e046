"""What the engine finds on this machine, for `vitascope doctor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import diffusers
import torch

from vitascope.domain.choice import Choice
from vitascope.domain.model_spec import ModelSpec

from .activations import largest_extent, work_of
from .attention import check_attention
from .compiling import check_compile, choose_compile
from .contract import ONE_DEVICE, Devices
from .convolutions import choose_layout
from .device import choose_device, choose_devices, choose_first_device, choose_threads, measure
from .placement import VALUE_BYTES, Wishes, best_dtype, check, place
from .sizes import read_sizes


def describe(device: str, threads: int, wishes: Wishes, devices: Devices = ONE_DEVICE) -> list[Choice]:
    """Say which libraries there are and what the engine would choose, and why.

    Raises:
        SettingsError: a setting asks for what this machine cannot do.
    """
    several = choose_devices(device, devices)
    chosen, device_choice = choose_first_device(device, devices)
    machine = measure(chosen)
    check(machine, wishes)
    check_attention(wishes.attention, chosen)
    check_compile(wishes.compile, chosen)
    found = [
        Choice("torch", torch.__version__, f"with diffusers {diffusers.__version__}"),
        device_choice,
        best_dtype(machine),
    ]
    found += _parallel_choice(several, devices)
    if chosen.type == "cpu":
        found.append(choose_threads(threads))
    else:
        sizes = f"{machine.free_bytes / 2**30:.1f} of {machine.total_bytes / 2**30:.1f} GiB free"
        found.append(Choice("device memory", sizes, "on the GPU"))
    return found


def _parallel_choice(several: Sequence[torch.device], devices: Devices) -> list[Choice]:
    if several:
        how = {
            "auto": "guidance or tokens, by the model and the request",
            "guidance": "one branch of guidance each",
            "context": "a part of the tokens each",
        }
        reason = f"set by engine.devices and engine.parallel: {how[devices.parallel]}"
        return [Choice("parallel", f"{len(several)} devices", reason)]
    if devices.names:
        reason = "set by engine.parallel" if devices.parallel == "off" else "engine.devices names one"
        return [Choice("parallel", "off", reason)]
    if torch.cuda.device_count() > 1:
        reason = f"there are {torch.cuda.device_count()} GPUs; engine.devices lets several make one video"
        return [Choice("parallel", "off", reason)]
    return []


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
    layouts = [
        choose_layout(wishes.vae_channels_last, part.class_name, chosen) for part in sizes.of("autoencoder")
    ]
    return [*placement.choices, compiles, *layouts[:1], *([tiling] if tiling else [])]

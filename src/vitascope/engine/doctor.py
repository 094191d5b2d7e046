"""What the engine finds on this machine, for `vitascope doctor`."""

from __future__ import annotations

import diffusers
import torch

from vitascope.domain.choice import Choice

from .device import choose_device, choose_dtype, choose_threads


def describe(device: str, threads: int) -> list[Choice]:
    """Say which libraries there are and what the engine would choose, and why."""
    chosen, device_choice = choose_device(device)
    found = [
        Choice("torch", torch.__version__, f"with diffusers {diffusers.__version__}"),
        device_choice,
        choose_dtype("auto", chosen)[1],
    ]
    if chosen.type == "cpu":
        found.append(choose_threads(threads))
    elif chosen.type == "cuda":
        free, total = torch.cuda.mem_get_info(chosen)
        found.append(
            Choice("device memory", f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free", "on the GPU")
        )
    return found

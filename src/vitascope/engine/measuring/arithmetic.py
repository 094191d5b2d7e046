"""What a device can compute, and what a model asks of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from vitascope.engine.standing_in import standing_in

_SIZES = {"cpu": 2048}
_SIZE = 8192
"""Of the square matrices: large enough that no device is faster with larger ones by more than a few percent."""

_LEAST_SECONDS = 0.5
_ROUNDS = 5


_ATTENTIONS = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
    torch.ops.aten._scaled_dot_product_fused_attention_overrideable,
)
"""Kernels of attention, a CPU's and those of other devices, that torch's counter takes for nothing (torch 2.13)."""


def _attention_flops(query: Any, key: Any, value: Any, *_more: Any, **_named: Any) -> int:
    """Of the shapes of what goes in."""
    return int(sdpa_flop_count(query, key, value))


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations a second of a product of large matrices: the best of a few rounds."""
    size = _SIZES.get(device.type, _SIZE)
    left, right = (torch.randn(size, size).to(device, dtype) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=dtype)

    def run(times: int) -> float:
        synchronize(device)
        begun = time.perf_counter()
        for _ in range(times):
            torch.mm(left, right, out=out)
        synchronize(device)
        return (time.perf_counter() - begun) / times

    with torch.inference_mode():
        run(2)
        times = max(1, round(_LEAST_SECONDS / _ROUNDS / run(1)))
        seconds = min(run(times) for _ in range(_ROUNDS))
    return 2.0 * size**3 / seconds


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type in ("cuda", "xpu"):
        torch.get_device_module(device).synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Counted:
    """Forwards of some modules, and the operations of the first of them."""

    def __init__(self) -> None:
        self.num_forwards = 0
        self.flops: int | None = None

    @contextlib.contextmanager
    def of(self, modules: list[torch.nn.Module], *, with_flops: bool) -> Iterator[Counted]:
        """Count for the time of a block.

        Args:
            with_flops: count operations too, which makes the first forward slower.
        """
        with contextlib.ExitStack() as standing:
            for module in modules:
                standing.enter_context(standing_in(module, self._wrapped(module.forward, with_flops)))
            yield self

    def _wrapped(self, forward: Any, with_flops: bool) -> Any:
        def counted(*args: Any, **arguments: Any) -> Any:
            self.num_forwards += 1
            if not with_flops or self.flops is not None:
                return forward(*args, **arguments)
            with FlopCounterMode(
                display=False, custom_mapping=dict.fromkeys(_ATTENTIONS, _attention_flops)
            ) as counter:
                result = forward(*args, **arguments)
            self.flops = counter.get_total_flops()
            return result

        return counted

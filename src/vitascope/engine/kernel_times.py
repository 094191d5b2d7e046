"""How long attention kernels take on this device: measured once for each kind of work, and remembered in a file.

Which kernel is the quickest depends on the GPU, on the size of a head and on how many tokens there are; a measurement takes a second.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

from .device import device_kind

logger = logging.getLogger(__name__)

KERNELS = {
    "native": "native",
    "cudnn": "_native_cudnn",
    "flash": "flash",
    "flash3": "_flash_3",
    "sage": "sage",
    "xformers": "xformers",
}
"""What the setting calls them, and diffusers."""

LEAST_TOKENS, MOST_TOKENS = 1024, 65536
"""Ends of the lengths that are measured: below, all take next to nothing; above, they differ as at the end."""

HEADS = 8
RUNS = 5


def length_class(num_tokens: int) -> int:
    """Name the class of lengths that share a measurement: the nearest power of two."""
    near = 1 << round(math.log2(max(num_tokens, 1)))
    return min(max(near, LEAST_TOKENS), MOST_TOKENS)


class KernelTimes:
    """What was measured.

    Args:
        path: of the file that remembers it; None remembers nothing.
        measure: seconds that one kernel takes: by its name, the size of a head, tokens, the device and the dtype.
    """

    def __init__(
        self,
        path: Path | None = None,
        measure: Callable[[str, int, int, torch.device, torch.dtype], float] | None = None,
    ) -> None:
        self._path = path
        self._measure = measure or seconds_of

    def of(
        self, names: Sequence[str], head_dim: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> dict[str, float]:
        """Tell how many seconds each kernel takes; one that cannot be measured is left out, but not `native`."""
        key = (
            f"{device_kind(device)}, torch {torch.__version__}, {dtype}, heads of {head_dim}, {length} tokens"
        )
        known = self._read()
        times = {name: seconds for name, seconds in known.get(key, {}).items() if _is_measured(seconds)}
        missing = [name for name in names if name not in times]
        for name in missing:
            try:
                times[name] = self._measure(name, head_dim, length, device, dtype)
            except (RuntimeError, ValueError, TypeError, ImportError, AttributeError) as error:
                logger.info(
                    "an attention kernel was not measured", extra={"kernel": name, "reason": str(error)[:200]}
                )
        if missing:
            self._write({**known, key: times})
        found = {name: times[name] for name in names if name in times}
        return found or {"native": 0.0}

    def _read(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        try:
            found = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return (
            found
            if isinstance(found, dict) and all(isinstance(each, dict) for each in found.values())
            else {}
        )

    def _write(self, times: dict[str, Any]) -> None:
        """Keep it, whole or not at all: several engines may write at the same time."""
        if self._path is None:
            return
        beside = self._path.with_name(f"{self._path.name}.{time.monotonic_ns()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(times, indent=1, sort_keys=True), "utf-8")
            beside.replace(self._path)
        except OSError:  # a disk that is full costs a measurement, and nothing else
            with contextlib.suppress(OSError):
                beside.unlink()


def _is_measured(seconds: object) -> bool:
    return isinstance(seconds, float) and 0 < seconds < math.inf


def seconds_of(name: str, head_dim: int, length: int, device: torch.device, dtype: torch.dtype) -> float:
    """Measure one kernel on random numbers: the median of a few runs, after one that prepares it."""
    query, key, value = (
        torch.randn(1, length, HEADS, head_dim, device=device, dtype=dtype) for _ in range(3)
    )
    backend = AttentionBackendName(KERNELS[name])
    took = []
    with torch.no_grad():
        for _ in range(RUNS + 1):
            _wait_for(device)
            begun = time.perf_counter()
            dispatch_attention_fn(query, key, value, backend=backend)
            _wait_for(device)
            took.append(time.perf_counter() - begun)
    return statistics.median(took[1:])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""What torch keeps for a whole thread or process, kept for each pipeline call instead.

What a module draws without being given a generator (LTX's autoencoder does) must depend on the request's seed, not on who
else runs; and no pipeline may turn gradients off, or on, for others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


class TorchState:
    """One request's gradient mode (off) and global random numbers.

    Args:
        seed: where the random numbers begin.
        device: whose random numbers are kept, beside the CPU's.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        # Apple's and other backends wait for the device to read this state, so there it stays shared
        self._devices = [device] if device.type in ("cuda", "xpu") else []
        generators = [torch.Generator(kind).manual_seed(seed) for kind in ["cpu", *self._devices]]
        self._threads = _Threads()
        self._kept = self._outside = (False, [generator.get_state() for generator in generators])

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Put this state in place of the process's; afterwards keep what became of it, and put the other back."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Put this state in place of the process's."""
        self._threads.enter()
        for device in self._devices:
            # each thread has a current one: what looks at it (Triton, NCCL) would else work on the first
            torch.get_device_module(device).set_device(device)
        self._outside = self._read()
        self._write(self._kept)

    def leave(self) -> None:
        """Keep what became of this state, and put the other back."""
        self._kept = self._read()
        self._write(self._outside)

    def _read(self) -> tuple[bool, list[Any]]:
        of_devices = [torch.get_device_module(device).get_rng_state(device) for device in self._devices]
        return torch.is_grad_enabled(), [torch.get_rng_state(), *of_devices]

    def _write(self, state: tuple[bool, list[Any]]) -> None:
        is_grad_enabled, (of_cpu, *of_devices) = state
        torch.set_grad_enabled(is_grad_enabled)
        torch.set_rng_state(of_cpu)
        for device, numbers in zip(self._devices, of_devices, strict=True):
            torch.get_device_module(device).set_rng_state(numbers, device)


class _Threads:
    """With how many of the processor's threads the thread that makes this computes, for a call in another thread.

    Each thread has a number of its own, which it takes over when it first computes; with another one sums come out otherwise.
    """

    def __init__(self) -> None:
        self._num = torch.get_num_threads()

    def enter(self) -> None:
        if torch.get_num_threads() != self._num:
            torch.set_num_threads(self._num)


class CallersMode:
    """The gradient mode of the thread that makes this, for a call in another thread; the random numbers are the process's."""

    def __init__(self) -> None:
        self._threads = _Threads()
        self._is_grad_enabled = torch.is_grad_enabled()

    def enter(self) -> None:
        self._threads.enter()
        torch.set_grad_enabled(self._is_grad_enabled)

    def leave(self) -> None:
        self._is_grad_enabled = torch.is_grad_enabled()

"""How much memory the work takes: of the GPU as its allocator counts it, else of this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

_STATUS = Path("/proc/self/status")
_FORGET_PEAK = ("/proc/self/clear_refs", "5")  # proc(5): sets VmHWM back to VmRSS


class Reading:
    """What one generation takes.

    Args:
        meter: whose it is.
        used_bytes: in use when it began.
        file_bytes: of these, what files are mapped to.
    """

    def __init__(self, meter: Meter, used_bytes: int, file_bytes: int) -> None:
        self._meter = meter
        self._used_bytes = used_bytes
        self._file_bytes = file_bytes
        #: Whether nothing else ran meanwhile: else nobody knows whose memory it was.
        self.is_alone = True

    @property
    def work_bytes(self) -> int:
        """Most that was taken beside what was in use at the beginning.

        Weights that are read when they are first used (mapped files, on a CPU) are not work.
        """
        come = max(0, self._meter.file_bytes() - self._file_bytes)
        return max(0, self._meter.peak_bytes() - self._used_bytes - come)


class Meter:
    """The meter of one engine.

    Args:
        device: where its models are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._open: list[Reading] = []
        self._num_others = 0
        self._highest = 0

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reading]:
        """Measure; what else is measured at this time is not alone any more."""
        self.forget_peak()
        reading = Reading(self, self.used_bytes(), self.file_bytes())
        self._open.append(reading)
        if len(self._open) > 1 or self._num_others:
            self._tell_others()
        try:
            yield reading
        finally:
            self._open.remove(reading)

    @contextlib.contextmanager
    def something_else(self) -> Iterator[None]:
        """Have nothing that is measured be alone, while memory is taken for something else: a model that is loaded beside."""
        self._num_others += 1
        self._tell_others()
        try:
            yield
        finally:
            self._num_others -= 1

    def _tell_others(self) -> None:
        for each in self._open:
            each.is_alone = False

    def used_bytes(self) -> int:
        """Measure what is in use now."""
        if self._device.type in ("cuda", "xpu"):
            return int(torch.get_device_module(self._device).memory_allocated(self._device))
        if self._device.type == "mps":
            return int(torch.mps.driver_allocated_memory())
        return int(psutil.Process().memory_info().rss)

    def peak_bytes(self) -> int:
        """Tell the most that was in use since the first of the open readings began, or since `forget_peak`."""
        if self._device.type in ("cuda", "xpu"):
            return int(torch.get_device_module(self._device).max_memory_allocated(self._device))
        seen = _of_process("VmHWM") if self._device.type == "cpu" else None
        self._highest = max(self._highest, self.used_bytes() if seen is None else seen)
        return self._highest

    def file_bytes(self) -> int:
        """Tell how much of what is in use can be read again from files; 0 where it is not told."""
        return (_of_process("RssFile") or 0) if self._device.type == "cpu" else 0

    def forget_peak(self) -> None:
        """Let the peak begin anew, unless something is being measured."""
        if self._open:
            return
        self._highest = 0
        if self._device.type in ("cuda", "xpu"):
            torch.get_device_module(self._device).reset_peak_memory_stats(self._device)
        elif _STATUS.exists():
            name, value = _FORGET_PEAK
            try:
                Path(name).write_text(value, "ascii")
            except OSError:
                return  # not allowed here: the peak is then that of the process's whole life


def _of_process(name: str) -> int | None:
    """Read a line of the process's status; None where there is no such thing."""
    try:
        lines = _STATUS.read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(f"{name}:")), None)
    return None if found is None else int(found.split()[1]) * 1024

"""What the work runs on: a GPU or the CPU, what it computes fast, and how much memory it has free."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from vitascope.domain.choice import Choice
from vitascope.domain.errors import SettingsError

from .contract import Devices
from .placement import Machine


def choose_device(asked: str, setting: str = "engine.device") -> tuple[torch.device, Choice]:
    """Take the asked device, or with "auto" the first of CUDA (also ROCm), XPU, MPS and CPU that is there.

    Args:
        asked: the setting's value.
        setting: its name.
    """
    if asked != "auto":
        try:
            device = torch.empty(0, device=asked).device
        except (RuntimeError, AssertionError):
            message = f"setting `{setting}`: there is no device `{asked[:40]}` here"
            raise SettingsError(message, hint="`auto` takes the best one that there is") from None
        return device, Choice("device", asked, f"set by {setting}")
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        return torch.device("cuda:0"), Choice("device", "cuda:0", f"found {name}")
    if torch.xpu.is_available():
        return torch.device("xpu:0"), Choice("device", "xpu:0", "found an Intel GPU")
    if torch.backends.mps.is_available():
        return torch.device("mps"), Choice("device", "mps", "found Apple's GPU")
    return torch.device("cpu"), Choice("device", "cpu", "no GPU was found")


def choose_first_device(device: str, devices: Devices) -> tuple[torch.device, Choice]:
    """Take the device that this process works on."""
    return choose_device(devices.names[0], "engine.devices") if devices.names else choose_device(device)


def choose_devices(device: str, devices: Devices) -> tuple[torch.device, ...]:
    """Take the devices that are to make one video; none where there is one.

    Args:
        device: the setting `engine.device`.
        devices: the settings `engine.devices` and `engine.parallel`.

    Raises:
        SettingsError: they cannot, with the nearest setting that works.
    """
    names, parallel = devices.names, devices.parallel
    if len(names) < 2:
        if parallel in ("guidance", "context"):
            message = f"setting `engine.parallel` is `{parallel}`, but `engine.devices` names {len(names) or 'no'} device{'s'[: not names]}"
            raise SettingsError(
                f"{message}. The nearest legal value is `auto`.", hint="`engine.devices` takes several"
            )
        if names and device not in ("auto", names[0]):
            raise _not_both(device, names)
        return tuple(torch.device(name) for name in names[:0])
    if device not in ("auto", names[0]):
        raise _not_both(device, names)
    chosen = [_device_of(name, names) for name in names]
    _check_alike(chosen, names)
    if parallel == "guidance" and len(names) > 2:
        message = f"setting `engine.parallel` is `guidance`, which has two branches, but `engine.devices` names {len(names)}"
        raise SettingsError(f"{message}. The nearest legal value is `context`.")
    return () if parallel == "off" else tuple(chosen)


def _device_of(name: str, names: Sequence[str]) -> torch.device:
    try:
        return choose_device(name, "engine.devices")[0]
    except SettingsError as error:
        there = [each for each in names if _is_there(each)]
        nearest = json.dumps(there) if there else "[]"
        raise SettingsError(f"{error.message}. The nearest legal value is `{nearest}`.") from None


def _is_there(name: str) -> bool:
    with contextlib.suppress(SettingsError):
        choose_device(name)
        return True
    return False


def _not_both(device: str, names: Sequence[str]) -> SettingsError:
    message = (
        f"setting `engine.device` is `{device[:40]}`, but `engine.devices` begins with `{names[0][:40]}`"
    )
    return SettingsError(f"{message}. The nearest legal value is `auto`.")


def _check_alike(chosen: Sequence[torch.device], names: Sequence[str]) -> None:
    """Refuse devices that cannot compute the same step together."""
    first = chosen[0]
    for device, name in zip(chosen, names, strict=True):
        if device.type != first.type:
            message = (
                f"setting `engine.devices` names `{names[0]}` and `{name}`, which are of different kinds"
            )
        elif device.type not in ("cuda", "cpu"):
            message = (
                f"setting `engine.devices` names `{name}`: several devices make a video together on CUDA only"
            )
        elif device.type == "cuda" and chosen.count(device) > 1:
            message = f"setting `engine.devices` names `{name}` twice"
        elif device_kind(device) != device_kind(first):
            message = f"setting `engine.devices` names {device_kind(first)} and {device_kind(device)}: the slower one would hold up the other"
        else:
            continue
        alike = [
            other
            for index, (each, other) in enumerate(zip(chosen, names, strict=True))
            if each.type == first.type in ("cuda", "cpu")
            and device_kind(each) == device_kind(first)
            and (first.type == "cpu" or each not in chosen[:index])
        ]
        nearest = json.dumps(alike or [names[0]])
        raise SettingsError(f"{message}. The nearest legal value is `{nearest}`.")
    backend = {"cuda": dist.is_nccl_available, "cpu": dist.is_gloo_available}[first.type]
    if not (dist.is_available() and backend()):
        message = (
            "setting `engine.devices` names several devices, but this build of torch cannot connect them"
        )
        raise SettingsError(f'{message}. The nearest legal value is `["{names[0]}"]`.')


def answers(device: torch.device) -> bool:
    """Tell whether a device still computes. After an error of its own, such as an access to wrong memory, a GPU refuses whatever this process asks."""
    try:
        return bool(torch.ones(2, device=device).sum().item() == 2)
    except torch.OutOfMemoryError:
        return True
    except RuntimeError:
        return False


def device_kind(device: torch.device) -> str:
    """Name the kind of a device, for speeds that were measured on it: a GPU by its model, a CPU by its threads."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    if device.type == "xpu":
        return f"xpu {torch.xpu.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu {platform.machine()} with {torch.get_num_threads()} threads"
    return str(device.type)


def measure(device: torch.device, budget_bytes: int | None = None) -> Machine:
    """Measure what models can be placed on. What this process takes counts as free: its models make room for each other.

    Args:
        budget_bytes: what the operator lets models take; None is what is free.
    """
    return Machine(
        kind=device.type,
        name=_name(device),
        free_bytes=min(free_bytes(device) + _own_bytes(device), total_bytes(device)),
        total_bytes=total_bytes(device),
        free_host_bytes=free_host_bytes(),
        has_bfloat16=_has_bfloat16(device),
        budget_bytes=budget_bytes,
    )


def _own_bytes(device: torch.device) -> int:
    """What this process takes of the device's memory, but for files that are mapped: those are dropped when it is needed."""
    if device.type in ("cuda", "xpu"):
        return int(torch.get_device_module(device).memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    usage = psutil.Process().memory_info()
    return int(usage.rss - getattr(usage, "shared", 0))


def _name(device: torch.device) -> str:
    if device.type in ("cuda", "xpu"):
        return str(torch.get_device_module(device).get_device_name(device))
    return {"cpu": "this machine", "mps": "Apple's GPU"}.get(str(device.type), str(device.type))


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False))


def choose_threads(asked: int, num_sharing: int = 1) -> Choice:
    """Set torch's CPU threads: as asked, or one per physical core (a second one on a core only adds traffic).

    Args:
        asked: the setting.
        num_sharing: processes that compute on these cores.
    """
    if asked:
        torch.set_num_threads(asked)
        return Choice("threads", str(asked), "set by engine.threads")
    cores = psutil.cpu_count(logical=False) or 1
    usable = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else cores
    threads = max(1, min(cores, usable) // num_sharing)
    torch.set_num_threads(threads)
    if num_sharing > 1:
        return Choice("threads", str(threads), f"{num_sharing} devices share the physical cores")
    return Choice("threads", str(threads), "one per physical core that this process may use")


def free_bytes(device: torch.device) -> int:
    """Measure how much more memory a process can take now: of the GPU, or of this machine or its container.

    What torch's allocator of this process keeps for later counts as free: it is used first.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)
    if device.type == "xpu":
        free, _ = torch.xpu.mem_get_info(device)
        kept = torch.xpu.memory_reserved(device) - torch.xpu.memory_allocated(device)
        return int(free + kept)
    if device.type == "mps":
        most = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return int(min(most, psutil.virtual_memory().available))
    return free_host_bytes()


def total_bytes(device: torch.device) -> int:
    """Tell how much memory the device has altogether."""
    if device.type in ("cuda", "xpu"):
        return int(torch.get_device_module(device).get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    limit = _container_limit()
    total = int(psutil.virtual_memory().total)
    return total if limit is None else min(total, limit[0])


def free_host_bytes() -> int:
    """Measure the main memory that processes can still take: a container's limit counts, swap does not."""
    available = int(psutil.virtual_memory().available)
    limit = _container_limit()
    return available if limit is None else max(0, min(available, limit[0] - limit[1]))


def _container_limit(folder: Path = Path("/sys/fs/cgroup")) -> tuple[int, int] | None:
    """Read a container's memory limit and what counts against it, without what the kernel would give back; None if it has none."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((folder / "memory.current").read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None  # no limits here, or of an older kind that such kernels no longer enforce for containers
    cached = sum(
        int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file "))
    )
    return int(limit), max(0, used - cached)

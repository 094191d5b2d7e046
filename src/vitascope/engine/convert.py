"""The process that makes safetensors of pickles: `python -m vitascope.engine.convert`, with its order on standard input.

A pickle is a program. torch reads it in a mode that runs none of it (`weights_only=True`), and should that fail one day, the
process has no network, can start nothing, knows no secrets, and ends when it takes too much memory or time.

    order    {"pickles": [[FROM, TO], …], "memory_bytes": …, "seconds": …}, as JSON
    answer   {"done": FILE} for each, or {"problem": SENTENCE}, as lines of JSON
"""

from __future__ import annotations

import ctypes
import errno
import json
import platform
import resource
import struct
import sys
from pathlib import Path
from typing import Any

_IS_LINUX = sys.platform == "linux"

# numbers of system calls: asm/unistd_64.h, asm-generic/unistd.h; of architectures: linux/audit.h
_CALLS = {
    "x86_64": (0xC000003E, {"socket": 41, "execve": 59, "execveat": 322, "io_uring_setup": 425}),
    "aarch64": (0xC00000B7, {"socket": 198, "execve": 221, "execveat": 281, "io_uring_setup": 425}),
}


def main() -> int:
    """Convert all files of the order; returns the exit status."""
    order = json.loads(sys.stdin.read())
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    confine(order["memory_bytes"], order["seconds"])
    for source, target in order["pickles"]:
        try:
            save_file(_tensors(torch, Path(source)), target, metadata={"format": "pt"})
        except MemoryError:
            return _fail(f"`{Path(source).name}` takes more memory than it may")
        except Exception as error:  # noqa: BLE001  whatever a file of a stranger leads to is what is wrong with it
            reason = str(error).strip().split("\n", 1)[0][:200]
            return _fail(f"`{Path(source).name}` is not converted: {reason or type(error).__name__}")
        _say({"done": target})
    return 0


def _tensors(torch: Any, path: Path) -> dict[str, Any]:
    """Read a pickle's tensors, each with memory of its own."""
    found = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(value, torch.Tensor) for value in found.values())
    ):
        message = "it holds something else than tensors by name"
        raise ValueError(message)
    return {str(name): value.detach().clone().contiguous() for name, value in found.items()}


def _fail(problem: str) -> int:
    _say({"problem": problem})
    return 1


def _say(line: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def confine(memory_bytes: int, seconds: int) -> None:
    """Give up what a program in a pickle could use. Everything that is needed must have been imported."""
    limits = {resource.RLIMIT_AS: memory_bytes, resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0}
    for what, value in limits.items():
        resource.setrlimit(what, (value, value))
    if _IS_LINUX and platform.machine() in _CALLS:
        _forbid_calls(*_CALLS[platform.machine()])


def _forbid_calls(architecture: int, calls: dict[str, int]) -> None:
    """Have the kernel refuse sockets and new programs, by a filter that this process cannot lift."""
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000  # linux/seccomp.h
    numbers = sorted(calls.values())
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (answer, 0, 0, kill), (load, 0, 0, 0)]
    # numbers from 2**30 on are another way to the same calls
    program.append((at_least, len(numbers) + 1, 0, 0x40000000))
    program += [(equal, len(numbers) - index, 0, number) for index, number in enumerate(numbers)]
    program += [(answer, 0, 0, allow), (answer, 0, 0, refuse)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    pr_set_no_new_privs, pr_set_seccomp, mode_filter = 38, 22, 2  # linux/prctl.h
    if prctl(pr_set_no_new_privs, 1, 0, 0, 0) or prctl(
        pr_set_seccomp, mode_filter, ctypes.addressof(header), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "the kernel takes no filter")


if __name__ == "__main__":
    sys.exit(main())

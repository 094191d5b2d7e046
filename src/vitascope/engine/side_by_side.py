"""Parts of one forward beside each other on a CPU, each by threads of its own.

A small forward is some hundred kernels of less than a millisecond. Cut among cores, each of them makes all threads meet, and who
waits sleeps, as others may need the core: on two cores that costs a quarter of the time. Samples know nothing of each other, so that
threads which have a sample each meet once (docs/experiments.md).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def cut(items: Sequence[Item]) -> list[Sequence[Item]]:
    """Cut into parts that this machine computes beside each other: as many as it has threads for, of nearly equal size."""
    most = min(len(items), torch.get_num_threads())
    num = 1 << max(most.bit_length() - 1, 0)  # few different numbers: each has threads of its own
    ends = [len(items) * part // num for part in range(num + 1)]
    return [items[begin:end] for begin, end in itertools.pairwise(ends)]


def side_by_side(compute: Callable[[Item], Result], parts: Sequence[Item]) -> list[Result]:
    """Compute each part, all at once if there are several; the caller's threads are shared out among them.

    Nothing stands still on the way, as in the threads there is no pipeline call: for what takes little time.
    """
    if len(parts) == 1:
        return [compute(parts[0])]
    threads = _threads(len(parts), max(1, torch.get_num_threads() // len(parts)))
    modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    return list(threads.map(functools.partial(_in_modes, modes, compute), parts))


@functools.cache
def _threads(num: int, share: int) -> ThreadPoolExecutor:
    """Threads that each compute with a share of the cores."""
    total = torch.get_num_threads()
    meeting = threading.Barrier(num)
    made = ThreadPoolExecutor(num, "part", initializer=_begin, initargs=(share,))
    list(made.map(lambda _: meeting.wait(), range(num)))
    torch.set_num_threads(
        total
    )  # the latest number is what every thread has that computes for the first time
    return made


def _begin(num_threads: int) -> None:
    torch.get_num_threads()  # when it is first asked, or computes, a thread takes the process's latest number instead of its own
    torch.set_num_threads(num_threads)


def _in_modes(modes: tuple[bool, bool], compute: Callable[[Item], Result], part: Item) -> Result:
    is_inference, is_grad_enabled = modes
    inference = torch.inference_mode() if is_inference else contextlib.nullcontext()
    with inference, torch.set_grad_enabled(is_grad_enabled):
        return compute(part)

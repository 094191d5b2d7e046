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
from concurrent.futures import ThreadPoolExecutor, wait
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

    Nothing stands still on the way, as in the threads there is no pipeline call: for what takes little time. An error is raised when all
    parts have come to their end.
    """
    if len(parts) == 1:
        return [compute(parts[0])]
    threads = _threads(len(parts), max(1, torch.get_num_threads() // len(parts)))
    modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    computing = [threads.submit(_in_modes, modes, compute, part) for part in parts]
    wait(computing)  # also where one fails: who is told of it may take the weights away
    return [each.result() for each in computing]


@functools.cache
def _threads(num: int, share: int) -> ThreadPoolExecutor:
    """Threads that each compute with a share of the cores."""
    total = torch.get_num_threads()
    meeting = threading.Barrier(num)
    made = ThreadPoolExecutor(num, "part", initializer=_begin, initargs=(share,))
    list(made.map(lambda _: meeting.wait(), range(num)))
    # the process's latest number is what each thread has that computes for the first time
    torch.set_num_threads(total)
    return made


def _begin(num_threads: int) -> None:
    torch.get_num_threads()  # or it would take that number later, in the place of its own
    torch.set_num_threads(num_threads)


def _in_modes(modes: tuple[bool, bool], compute: Callable[[Item], Result], part: Item) -> Result:
    is_inference, is_grad_enabled = modes
    inference = torch.inference_mode() if is_inference else contextlib.nullcontext()
    with inference, torch.set_grad_enabled(is_grad_enabled):
        return compute(part)

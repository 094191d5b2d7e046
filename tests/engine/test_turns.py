"""Calls that stand still while their caller goes on."""

from __future__ import annotations

import functools
import gc
import random
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch

from vitascope.domain.step import Step
from vitascope.engine.generation import pause, run_in_steps
from vitascope.engine.torch_state import TorchState
from vitascope.engine.turns import Cancelled, Pausing, current


def steps(
    num_steps: int, on_the_way: Callable[[], object] = lambda: None
) -> Generator[Step | None, None, str]:
    def call() -> str:
        for index in range(num_steps):
            on_the_way()
            pause(Step("denoise", index, num_steps))
        return "made"

    return run_in_steps(call)


def ended(running: Generator[Any, None, str]) -> str:
    while True:
        try:
            next(running)
        except StopIteration as end:
            return str(end.value)


def fail_in_torch() -> None:
    with pytest.raises(RuntimeError, match="must match"):
        torch.zeros(3) + torch.zeros(4)


def through_c(depth: int, call: Callable[[], object]) -> object:
    """Call through frames of C, of another height each time."""
    if depth == 0:
        return call()
    if depth % 3 == 0:
        return functools.reduce(lambda _, __: through_c(depth - 1, call), [1, 2])
    if depth % 3 == 1:
        return list(map(lambda _: through_c(depth - 1, call), [0]))
    return sorted([1], key=lambda _: 0 if through_c(depth - 1, call) else 1)


def interleave_errors(seed: int) -> None:
    """Have torch raise in several calls that are resumed from wherever: it walks the whole C stack for each error."""
    chance = random.Random(seed)
    module = torch.nn.Linear(4, 4)
    module.register_forward_pre_hook(lambda *_: fail_in_torch())
    running = [steps(60, lambda: module(torch.zeros(1, 4))) for _ in range(4)]
    for _ in range(200):
        chosen = chance.choice(running)
        through_c(chance.randrange(12), lambda chosen=chosen: next(chosen))  # type: ignore[misc]
    for each in running:
        each.close()


def test_errors_of_torch_do_not_end_the_process() -> None:
    """As they did while calls were greenlets: torch's look at the stack crashed in each of ten runs of this."""
    program = "from engine.test_turns import interleave_errors\nfor seed in range(5): interleave_errors(seed)"
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tests, check=False, timeout=120, capture_output=True
    )
    assert (done.returncode, done.stderr[-300:]) == (0, b"")


def test_a_call_sees_itself_only_inside() -> None:
    seen: list[object] = []
    running = steps(1, lambda: seen.append(current()))
    next(running)
    assert current() is None
    assert seen != [None]
    assert ended(running) == "made"


def test_what_is_closed_runs_no_further_and_may_still_tidy_up() -> None:
    done: list[str] = []

    def call() -> None:
        try:
            pause(Step("denoise"))
            done.append("more")
        finally:
            with pytest.raises(Cancelled):
                pause(Step("decode_latents"))
            done.append("tidied")

    running = run_in_steps(call)
    assert next(running) == Step("denoise")
    running.close()
    assert done == ["tidied"]


def test_what_was_never_begun_is_closed_too() -> None:
    done: list[str] = []
    running = run_in_steps(lambda: done.append("begun"))
    running.close()
    assert done == []


def test_an_error_comes_out_and_keeps_nothing_alive() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def call() -> None:
        latents = torch.zeros(8)
        held.append(weakref.ref(latents))
        pause(None)
        raise ValueError("no")

    running = run_in_steps(call)
    next(running)
    gc.disable()
    try:
        with pytest.raises(ValueError, match="no") as caught:
            next(running)
        assert held[0]() is not None, "the traceback has it"
        del caught, running
        assert held[0]() is None, "and nothing else, not even until the garbage is collected"
    finally:
        gc.enable()


def test_a_result_is_kept_by_its_taker_alone() -> None:
    class Frames:
        pass

    running = run_in_steps(Frames)
    with pytest.raises(StopIteration) as end:
        next(running)
    kept = weakref.ref(end.value.value)
    gc.collect()
    assert kept() is not None
    del end, running
    gc.collect()
    assert kept() is None


def test_gradients_are_each_calls_own() -> None:
    with torch.no_grad():
        seen: list[bool] = []
        running = steps(2, lambda: seen.append(torch.is_grad_enabled()))
        next(running)
    assert torch.is_grad_enabled()
    assert ended(running) == "made"
    assert seen == [False, False], "as where it was begun"


def test_a_process_ends_although_a_call_is_open() -> None:
    program = """
from vitascope.engine.generation import pause, run_in_steps
def call():
    try:
        pause(None)
    finally:
        print("tidied", flush=True)
running = run_in_steps(call)
next(running)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=120, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"tidied\n", b"")


def test_an_interrupted_wait_ends_the_call_at_its_next_pause() -> None:
    """Ctrl-C on the command line: it reaches whoever waits, while the pipeline goes on."""
    program = """
import os, signal, threading
from vitascope.engine.generation import pause, run_in_steps
done = []
def call():
    pause(None)
    os.kill(os.getpid(), signal.SIGINT)
    interrupted.wait(20)
    pause(None)
    done.append("more")
interrupted = threading.Event()
class Told(KeyboardInterrupt): pass
def tell(*_):
    interrupted.set()
    raise Told
signal.signal(signal.SIGINT, tell)
running = run_in_steps(call)
next(running)
try:
    next(running)
except Told:
    print("interrupted", done)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=120, capture_output=True)
    assert (done.stdout, done.stderr) == (b"interrupted []\n", b"")


class Refusing:
    """What a GPU does after an error of its own: from then on it answers nothing, not even where its random numbers stand."""

    def __init__(self, *, enter: bool, leave: bool) -> None:
        self._enter, self._leave = enter, leave

    def enter(self) -> None:
        if self._enter:
            raise RuntimeError("CUDA error: on entering")

    def leave(self) -> None:
        if self._leave:
            raise RuntimeError("CUDA error: on leaving")


@pytest.mark.parametrize(
    ("surroundings", "call", "said"),
    [
        (Refusing(enter=True, leave=False), lambda: None, "on entering"),
        (Refusing(enter=False, leave=True), lambda: None, "on leaving"),
        (Refusing(enter=False, leave=True), lambda: current().pause(None), "on leaving"),  # type: ignore[union-attr]
        (Refusing(enter=False, leave=True), lambda: 1 / 0, "division by zero"),
    ],
)
def test_who_resumes_a_call_hears_of_a_device_that_answers_no_more(
    surroundings: Refusing, call: Callable[[], object], said: str
) -> None:
    """Instead of waiting for ever for a thread that has ended."""
    heard: SimpleQueue[BaseException] = SimpleQueue()

    def resume() -> None:
        running = Pausing(call, surroundings)
        try:
            running.resume()
        except Exception as error:  # noqa: BLE001  looked at below
            heard.put(error)

    threading.Thread(target=resume, daemon=True).start()
    assert said in str(heard.get(timeout=20))


def test_each_call_computes_with_as_many_threads_as_its_caller() -> None:
    """Threads are used again, and torch keeps a number for each: with another one the lowest bits of sums differ."""
    before = torch.get_num_threads()

    def num_threads() -> list[Any]:
        def call() -> int:
            torch.ones(8) + 1
            return torch.get_num_threads()

        state = TorchState(0, torch.device("cpu"))
        return [_result(run_in_steps(call)), _result(run_in_steps(call, state))]

    try:
        for num in (2, 1, 3):
            torch.set_num_threads(num)
            assert num_threads() == [num, num]
    finally:
        torch.set_num_threads(before)


def _result(running: Generator[Any, None, Any]) -> Any:
    with pytest.raises(StopIteration) as ended:
        next(running)
    return ended.value.value

"""One request's life inside a pipeline, as a generator of steps.

A diffusers pipeline is one long call. It runs here in a greenlet: at each of the scheduler's steps, and at each block of the
text encoder and the autoencoder, the call stands still while its Step goes to whoever iterates. Closing the iteration raises
inside the pipeline at that point, so that nothing further runs and nothing is decoded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import torch
from greenlet import getcurrent, greenlet

from vitascope.domain.step import Step

Result = TypeVar("Result")


class Cancelled(BaseException):
    """Raised inside a pipeline whose generation was closed. Not an Exception: no pipeline's `except` may catch it."""


class _PipelineCall(greenlet):
    """The greenlet of one pipeline call."""

    def pause(self, step: Step) -> None:
        """Hand a step to the iterating side and wait for its turn."""
        assert self.parent is not None
        self.parent.switch(step)


def pause(step: Step) -> None:
    """Hand over a step if this code runs inside a pipeline call; elsewhere do nothing."""
    current = getcurrent()
    if isinstance(current, _PipelineCall):
        current.pause(step)


def run_in_steps(call: Callable[[], Result]) -> Generator[Step, None, Result]:
    """Run a pipeline call, yielding each step that it pauses at; the generator's return value is the call's result."""
    running = _PipelineCall(call)
    try:
        while True:
            running.parent = getcurrent()  # whoever iterates now; a generator may be resumed from elsewhere
            outcome = running.switch()
            if running.dead:
                result: Result = outcome
                return result
            yield outcome
    finally:
        if not running.dead:
            running.parent = getcurrent()
            _unwind(running)


def _unwind(running: _PipelineCall) -> None:
    with contextlib.suppress(Cancelled):
        running.throw(Cancelled)


STAGE_OF_COMPONENT = {
    "text_encoder": "encode_prompt",
    "text_encoder_2": "encode_prompt",
    "vae": "decode_latents",
}


def pause_at_blocks(modules: dict[str, torch.nn.Module]) -> None:
    """Make text encoders and autoencoders pause before each of their blocks, so that cancelling takes effect there.

    The hooks hold no state: outside of a pipeline call they do nothing.
    """
    for name, module in modules.items():
        stage = STAGE_OF_COMPONENT.get(name)
        if stage is None:
            continue
        for block in _blocks(module):
            block.register_forward_pre_hook(_pausing_hook(stage))


def _blocks(module: torch.nn.Module) -> list[torch.nn.Module]:
    """Find the big pieces of a module: the entries of its outermost module lists, or the module itself."""
    lists: list[torch.nn.ModuleList] = []

    def walk(parent: torch.nn.Module) -> None:
        for child in parent.children():
            if isinstance(child, torch.nn.ModuleList):
                lists.append(child)
            else:
                walk(child)

    walk(module)
    # Mochi's lists have places without a block
    return [block for blocks in lists for block in blocks if block is not None] or [module]


def _pausing_hook(stage: str) -> Callable[..., None]:
    def hook(_module: torch.nn.Module, _inputs: Any) -> None:
        pause(Step(stage))

    return hook

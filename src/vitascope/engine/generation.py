"""One request's life inside a pipeline, as a generator of steps.

A diffusers pipeline is one long call. It runs here in a greenlet: at each of the scheduler's steps, and at each block of the
text encoder and the autoencoder, the call stands still while its Step goes to whoever iterates. Closing the iteration raises
inside the pipeline at that point, so that nothing further runs and nothing is decoded.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import torch
from greenlet import getcurrent, greenlet

from vitascope.domain.step import Step

from .torch_state import TorchState

Result = TypeVar("Result")

LONG_SECONDS = 0.25
"""A denoising step that takes longer stands still between its blocks too: so late may a cancel take effect, plus one block."""


class Cancelled(BaseException):
    """Raised inside a pipeline whose generation was closed. Not an Exception: no pipeline's `except` may catch it."""


class _PipelineCall(greenlet):
    """The greenlet of one pipeline call."""

    resumed_at = 0.0

    def pause(self, step: Step | None) -> None:
        """Hand a step to the iterating side and wait for its turn."""
        assert self.parent is not None
        self.parent.switch(step)
        self.resumed_at = time.monotonic()


def pause(step: Step | None) -> None:
    """Hand over a step if this code runs inside a pipeline call; elsewhere do nothing.

    Args:
        step: what has been reached; None where that is what it was before.
    """
    current = getcurrent()
    if isinstance(current, _PipelineCall):
        current.pause(step)


def run_in_steps(
    call: Callable[[], Result], state: TorchState | None = None
) -> Generator[Step | None, None, Result]:
    """Run a pipeline call, yielding each step that it pauses at; the generator's return value is the call's result.

    Args:
        call: the pipeline's.
        state: its own part of what torch keeps per thread; without it the call shares the thread's.
    """
    running = _PipelineCall(call)
    try:
        while True:
            outcome = _resume(running, state)
            if running.dead:
                result: Result = outcome
                return result
            yield outcome
    finally:
        if not running.dead:
            with contextlib.suppress(Cancelled):
                _resume(running, state, Cancelled)


def _resume(
    running: _PipelineCall, state: TorchState | None, error: type[BaseException] | None = None
) -> Any:
    """Let the call go on to its next pause or to its end; or let `error` rise where it stands."""
    running.parent = getcurrent()  # whoever iterates now; a generator may be resumed from elsewhere
    with state.entered() if state else contextlib.nullcontext():
        return running.throw(error) if error else running.switch()


#: The stage that a component's work belongs to. Others, such as the denoiser, work at the stage that was reached.
STAGE_OF_COMPONENT = {
    "text_encoder": "encode_prompt",
    "text_encoder_2": "encode_prompt",
    "text_encoder_3": "encode_prompt",
    "image_encoder": "encode_prompt",
    "connectors": "encode_prompt",
    "vae": "decode_latents",
    "audio_vae": "decode_latents",
    "vocoder": "decode_latents",
}


def pause_at_blocks(modules: dict[str, torch.nn.Module]) -> None:
    """Make a pipeline's modules pause before each of their blocks, so that cancelling takes effect there.

    Of those that have no stage of their own only what takes long pauses: denoisers have hundreds of blocks a second.
    The hooks hold no state: outside of a pipeline call they do nothing.
    """
    for name, module in modules.items():
        stage = STAGE_OF_COMPONENT.get(name)
        hook = _pause_if_long if stage is None else _pausing_hook(Step(stage))
        for block in _blocks(module):
            block.register_forward_pre_hook(hook)


def _blocks(module: torch.nn.Module) -> list[torch.nn.Module]:
    """Find the big pieces of a module: the entries of its outermost module lists, or the module itself.

    An entry that is only a name for what it holds is never called (the LDM kind of decoder): then it is what it holds.
    """
    found: list[torch.nn.Module] = []

    def walk(parent: torch.nn.Module) -> None:
        for child in parent.children():
            is_called = type(child).forward is not torch.nn.Module.forward
            if isinstance(parent, torch.nn.ModuleList) and is_called:
                found.append(child)
            else:
                walk(child)

    walk(module)
    return found or [module]


def _pausing_hook(step: Step) -> Callable[..., None]:
    def hook(_module: torch.nn.Module, _inputs: Any) -> None:
        pause(step)

    return hook


def _pause_if_long(_module: torch.nn.Module, _inputs: Any) -> None:
    current = getcurrent()
    if isinstance(current, _PipelineCall) and time.monotonic() - current.resumed_at >= LONG_SECONDS:
        current.pause(None)

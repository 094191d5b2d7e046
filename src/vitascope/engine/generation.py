"""One request's life inside a pipeline, as a generator of steps.

A diffusers pipeline is one long call. It runs here in turns with whoever iterates (`turns`): at each of the scheduler's
steps, and at each block of the text encoder and the autoencoder, the call stands still while its Step is handed over.
Closing the iteration raises inside the pipeline at that point, so that nothing further runs and nothing is decoded.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import torch

from vitascope.domain.step import Step

from .torch_state import CallersMode, TorchState
from .turns import Pausing, current

Result = TypeVar("Result")

LONG_SECONDS = 0.25
"""A denoising step that takes longer stands still between its blocks too: so late may a cancel take effect, plus one block."""


def pause(step: Step | None) -> None:
    """Hand over a step if this code runs inside a pipeline call; elsewhere do nothing.

    Args:
        step: what has been reached; None where that is what it was before.
    """
    call = current()
    if call is not None:
        call.pause(step)


@contextlib.contextmanager
def undivided() -> Iterator[None]:
    """Have work that is done for other calls too not stand still in its middle: they would wait for it, and nobody knows how long."""
    call = current()
    if call is None:
        yield
        return
    resumed_at, call.resumed_at = call.resumed_at, math.inf
    try:
        yield
    finally:
        call.resumed_at = resumed_at


def run_in_steps(
    call: Callable[[], Result], state: TorchState | None = None
) -> Generator[Step | None, None, Result]:
    """Run a pipeline call, yielding each step that it pauses at; the generator's return value is the call's result.

    Args:
        call: the pipeline's.
        state: its own part of what torch keeps for all; without it the call shares the process's.
    """
    running = Pausing(call, state or CallersMode())
    del call  # what it holds is free again when it has ended
    try:
        while True:
            outcome = running.resume()
            if running.is_over:
                result: Result = outcome
                return result
            yield outcome
    finally:
        running.cancel()


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
            # before weights that are kept in bytes are made whole: who is cancelled there would leave them so
            block.register_forward_pre_hook(hook, prepend=True)


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
    call = current()
    if call is not None and time.monotonic() - call.resumed_at >= LONG_SECONDS:
        call.pause(None)

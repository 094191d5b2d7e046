"""Regional compile: the blocks of a denoiser, which are alike, compiled once for all of them.

A compiled block computes what it computes as it is, up to rounding. Whether that fails shows when it first runs: then
the blocks run as they are from there on, which is told once.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable
from typing import Any

import torch

from vitascope.domain.choice import Choice
from vitascope.domain.errors import SettingsError

from . import shortage
from .placement import ONE_CLIP, Placement
from .sizes import role_of

logger = logging.getLogger(__name__)

MOST_REASON_CHARS = 200


def check_compile(asked: str, device: torch.device) -> None:
    """Refuse at start what cannot work on this device.

    Raises:
        SettingsError: says why not.
    """
    problem = _problem(device) if asked == "on" else None
    if problem is not None:
        message = f"setting `engine.compile` is `on`, but {problem}"
        raise SettingsError(f"{message}. The nearest legal value is `off`.")


def choose_compile(
    asked: str, device: torch.device, placement: Placement, *, is_native: bool = False
) -> Choice:
    """Choose whether a model's blocks are compiled.

    Args:
        asked: the operator's setting, or ONE_CLIP.
        device: where it works.
        placement: how it is loaded.
        is_native: whether its blocks are computed by this engine's own code, and not as diffusers has them.
    """
    if asked == "off":
        return Choice("compile", "off", "set by engine.compile")
    if placement.offload != "none":
        return Choice("compile", "off", "its weights come and go, which compiled blocks do not know of")
    if placement.quantization != "none":
        return Choice(
            "compile", "off", "its weights are made whole layer by layer, outside of what could be compiled"
        )
    if asked == ONE_CLIP:
        return Choice("compile", "off", "one clip gains less than compiling takes")
    if asked == "on":
        return Choice("compile", "blocks", "set by engine.compile")
    if device.type != "cuda":
        return Choice("compile", "off", f"on {device.type} it gains less than compiling takes")
    if is_native:
        return Choice("compile", "off", "this engine computes the model's blocks by code of its own")
    problem = _problem(device)
    if problem is not None:
        return Choice("compile", "off", problem)
    return Choice("compile", "blocks", "the model stays on the device: what compiling takes is paid once")


def _problem(device: torch.device) -> str | None:
    """Say what keeps torch from compiling for a device; None if nothing does."""
    if device.type == "cpu":
        has_compiler = any(map(shutil.which, ("c++", "g++", "clang++", "cl")))
        return None if has_compiler else "torch compiles for a CPU with a C++ compiler, and there is none"
    if device.type in ("cuda", "xpu"):
        from torch.utils._triton import has_triton

        return (
            None
            if has_triton()
            else "torch compiles for a GPU with Triton, which is not installed or does not work here"
        )
    return f"torch does not compile for {device.type}"


class Compiling:
    """Compiles the blocks of one loaded model, in each of its slots.

    Args:
        choice: whether it does.
        backend: of torch.compile.
    """

    def __init__(self, choice: Choice, backend: str = "inductor") -> None:
        self._choice = choice
        self._backend = backend
        self._is_broken = False

    @property
    def choice(self) -> Choice:
        """What is done by now, which may be another thing than what was chosen."""
        return self._choice

    @property
    def is_on(self) -> bool:
        return self._choice.value != "off" and not self._is_broken

    def arrange(
        self, modules: dict[str, torch.nn.Module], is_plain: Callable[[], bool] = lambda: True
    ) -> None:
        """Compile a slot's denoisers at their first forward.

        Args:
            modules: the slot's, by component name.
            is_plain: tells whether they are as they were loaded: with adapters in them they run as they are, since each set of
                them would be compiled anew.
        """
        if not self.is_on:
            return
        for name, module in modules.items():
            if role_of(name) == "denoiser":
                for block in _repeated(module):
                    self._compile(block, is_plain)

    def _compile(self, block: Any, is_plain: Callable[[], bool]) -> None:
        as_it_is = block.forward
        # only the forward, and not the hooks around it: those pause, and wait for their turn
        compiled = torch.compile(as_it_is, backend=self._backend)

        @functools.wraps(as_it_is)
        def forward(*args: Any, **arguments: Any) -> Any:
            if self._is_broken or not is_plain():
                return as_it_is(*args, **arguments)
            try:
                return compiled(*args, **arguments)
            except Exception as error:
                if shortage.is_shortage(error):
                    raise
                answer = as_it_is(*args, **arguments)  # what fails here too is no fault of the compiler's
                self._give_up(error)
                return answer

        block.forward = forward

    def _give_up(self, error: Exception) -> None:
        if self._is_broken:
            return
        self._is_broken = True
        cause = getattr(error, "inner_exception", error)  # what a backend has raised
        said = next(iter(str(cause).strip().splitlines()), "") or type(cause).__name__
        reason = f"compiling failed, so that blocks run as they are: {said[:MOST_REASON_CHARS]}"
        self._choice = Choice("compile", "off", reason)
        logger.warning("compiling failed; blocks run as they are", extra={"reason": said[:MOST_REASON_CHARS]})


def _repeated(denoiser: torch.nn.Module) -> list[torch.nn.Module]:
    """Find the blocks that diffusers says are alike."""
    kinds = getattr(denoiser, "_repeated_blocks", None) or ()
    return [module for module in denoiser.modules() if type(module).__name__ in kinds]


NOT_COMPILING = Compiling(Choice("compile", "off", "nobody asked for it"))

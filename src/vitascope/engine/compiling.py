"""Regional compile: the blocks of a denoiser, which are alike, compiled once for all of them.

Of a denoiser that this engine computes by code of its own that is the formula of one block (`families.wan_block`), of others diffusers'
blocks. A compiled block computes what it computes as it is, up to rounding. Whether that fails shows when it first runs: then
the blocks run as they are from there on, which is told once.
"""

from __future__ import annotations

import functools
import itertools
import logging
import shutil
import types
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from vitascope.domain.choice import Choice
from vitascope.domain.errors import SettingsError

from . import shortage
from .families import wan
from .placement import ONE_CLIP, Placement
from .sizes import role_of

logger = logging.getLogger(__name__)

MOST_REASON_CHARS = 200

Formula = Callable[..., Any]
"""A function of tensors, without a state of its own."""


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
    asked: str, device: torch.device, placement: Placement, denoisers: Sequence[torch.nn.Module] = ()
) -> Choice:
    """Choose whether a model's blocks are compiled.

    Args:
        asked: the operator's setting, or ONE_CLIP.
        device: where it works.
        placement: how it is loaded.
        denoisers: the model's, once they are loaded.
    """
    if asked == "off":
        return Choice("compile", "off", "set by engine.compile")
    if denoisers and not any(wan.why_not(each) is None or _repeated(each) for each in denoisers):
        kinds = ", ".join(sorted({f"`{type(each).__name__}`" for each in denoisers}))
        return Choice("compile", "off", f"{kinds} has no blocks that are alike")
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
        self._formulas: dict[Formula, Formula] = {}

    @property
    def choice(self) -> Choice:
        """What is done by now, which may be another thing than what was chosen."""
        return self._choice

    @property
    def is_on(self) -> bool:
        return self._choice.value != "off" and not self._is_broken

    def formula(self, formula: Formula) -> Callable[..., Any] | None:
        """Have a formula compiled when it is first asked; None where nothing is.

        Returns:
            What answers as the formula does, or with None once that has failed.
        """
        if not self.is_on:
            return None
        if formula not in self._formulas:
            self._formulas[formula] = torch.compile(_copy(formula), backend=self._backend, fullgraph=True)
        compiled = self._formulas[formula]

        def answer(*args: Any) -> Any:
            if self._is_broken:
                return None
            try:
                return compiled(*args)
            except Exception as error:
                if shortage.is_shortage(error):
                    raise
                self._give_up(error)
                return None

        return answer

    def arrange(
        self, modules: dict[str, torch.nn.Module], is_plain: Callable[[], bool] = lambda: True
    ) -> None:
        """Compile diffusers' blocks in a slot at their first forward; what is computed otherwise asks for its `formula`.

        Args:
            modules: the slot's, by component name.
            is_plain: tells whether they are as they were loaded: with adapters in them they run as they are, since each set of
                them would be compiled anew.
        """
        if not self.is_on:
            return
        for name, module in modules.items():
            if role_of(name) == "denoiser" and wan.why_not(module) is not None:
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


def _copy(formula: Formula) -> Formula:
    """Give a function code of its own: what torch has compiled it keeps with that, and of some kinds of arguments only.

    So each loaded model has as many kinds as it needs, and what was compiled for it goes with it.
    """
    own: Any = formula
    code = own.__code__.replace(co_name=f"{own.__name__}_{next(_numbers)}")
    return types.FunctionType(code, own.__globals__)


_numbers = itertools.count(1)


def _repeated(denoiser: torch.nn.Module) -> list[torch.nn.Module]:
    """Find the blocks that are alike: those that diffusers says are, else of its rows of blocks what there is twice."""
    kinds = getattr(denoiser, "_repeated_blocks", None)
    if kinds:
        return [module for module in denoiser.modules() if type(module).__name__ in kinds]
    alike: dict[Hashable, list[torch.nn.Module]] = defaultdict(list)
    for name, row in denoiser.named_children():
        if isinstance(row, torch.nn.ModuleList) and "block" in name:
            for block in row:
                alike[type(block), *(each.shape for each in block.parameters())].append(block)
    return [block for blocks in alike.values() if len(blocks) > 1 for block in blocks]


NOT_COMPILING = Compiling(Choice("compile", "off", "nobody asked for it"))

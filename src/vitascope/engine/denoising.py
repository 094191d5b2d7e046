"""What happens where a pipeline calls its denoiser: both branches of guidance in one forward, and forwards in company.

The pipeline stays as it is. For the time of one request its slot's denoisers have another `forward`, which answers each call with
what their own would say; of a forward for more than one sample, up to the lowest bits.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from vitascope.domain.choice import Choice

from .calls import BY_SAMPLE, LATENTS, Branch, Call, joined, parted, read_call
from .company import Company
from .compiling import NOT_COMPILING, Compiling
from .contract import Sharing
from .families import wan, wan_block
from .parallel import NOBODY, Together
from .sizes import role_of
from .slots import Slot
from .standing_in import standing_in

MOST_BRANCHES = 4
"""What is kept of a denoiser's latest conditions: guidance has two, or three; windows and shots have others."""


class Denoising:
    """The denoisers of one request.

    Args:
        slot: where it runs.
        company: of the engine.
        sharing: of the generation; None where it has every forward alone.
        together: with other devices.
    """

    def __init__(
        self, slot: Slot, company: Company, sharing: Sharing | None, together: Together = NOBODY
    ) -> None:
        self._denoisers = [
            # one with adapters computes what no other request's does
            _Denoiser(
                module,
                name,
                slot.shared,
                company,
                None if name in slot.adapted else sharing,
                NOT_COMPILING if name in slot.adapted else slot.compiling,
                together,
            )
            for name, module in slot.modules().items()
            if role_of(name) == "denoiser" and type(module).__name__ in BY_SAMPLE
        ]
        self._most_tokens = company.most_tokens
        self._together = together

    @contextlib.contextmanager
    def arranged(self) -> Iterator[None]:
        """Answer for the slot's denoisers for the time of a request."""
        with contextlib.ExitStack() as stack:
            for each in self._denoisers:
                stack.enter_context(each.in_place())
            yield

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What was chosen on the way."""
        found = [each.choice for each in self._denoisers if each.choice is not None][:1]
        found += self._together.choices
        if self._together.kind != "guidance" and any(each.num_foreseen for each in self._denoisers):
            reason = f"with no more than {self._most_tokens} tokens one forward takes less time than two"
            found.append(Choice("guidance", "both branches in one forward", reason))
        return tuple(found)


class _Denoiser:
    """Answers the calls of one denoiser.

    Args:
        module: of a request's slot.
        name: of the component.
        shared: of all slots with its weights.
        sharing: as of `Denoising`.
        compiling: of what computes it.
        together: with other devices.
    """

    def __init__(
        self,
        module: Any,
        name: str,
        shared: dict[str, Any],
        company: Company,
        sharing: Sharing | None,
        compiling: Compiling,
        together: Together,
    ) -> None:
        self._module = module
        self._forward = module.forward
        self._weights = (id(shared), name)
        self._shared = shared
        self._company = company
        self._together = together
        self._sharing = sharing
        self._compiling = compiling
        self._latest: Call | None = None
        self._branches: dict[object, Branch] = {}
        #: What will be asked for next, with its answer.
        self._ahead: tuple[Call, torch.Tensor] | None = None
        self.num_foreseen = 0
        self._is_begun = False
        self._is_replaced = False
        self._native: wan.Wan | None = None
        #: What keeps it from being computed here; None where nothing does.
        self.why_not: str | None = None

    @property
    def choice(self) -> Choice | None:
        """How it was computed; None if it was not asked."""
        if not self._is_begun:
            return None
        if self.why_not is not None:
            return Choice("denoiser", "diffusers", self.why_not)
        return Choice(
            "denoiser", "native", "computes what diffusers' does, over the same weights, in less time"
        )

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Be the module's forward; afterwards that is what it was."""
        before = vars(self._module).get("forward")
        # what brings weights that wait elsewhere has put itself in its place, and is heard of in another way
        self._is_replaced = before is not None and not hasattr(self._module, "_hf_hook")
        with standing_in(self._module, self):
            yield

    def __call__(self, *args: Any, **arguments: Any) -> Any:
        call = None if args or self._has_step_cache() else read_call(type(self._module).__name__, arguments)
        if call is None:
            return self._forward(*args, **arguments)
        if not self._is_begun:
            self._begin(call)
        call = replace(call, branch=self._known(call.branch))
        ahead, self._ahead = self._ahead, None
        if ahead is not None and call.is_of_same_step(ahead[0]) and call.branch is ahead[0].branch:
            self._latest = call
            return (ahead[1],)
        calls = [call, *self._foreseen(call)]
        answers = self._answer(calls)
        if len(calls) > 1:
            self._ahead = (calls[1], answers[1])
            self.num_foreseen += 1
        return (answers[0],)

    def _begin(self, call: Call) -> None:
        """See how the denoiser is to be computed, now that all is in place that changes it."""
        self._is_begun = True
        if self._together.kind == "context":
            self.why_not = "several devices split its tokens"
        else:
            is_replaced = self._is_replaced
            self.why_not = "something else changes what it does" if is_replaced else wan.why_not(self._module)
        if self.why_not is None:
            self._native = wan.Wan(self._module, self._shared, self._compiled(call))

    def _compiled(self, call: Call) -> wan_block.CompiledBlocks | None:
        formula = self._compiling.formula(wan_block.block)
        if formula is None:
            return None
        ready = self._shared.setdefault("wan_compiled_kinds", set())
        is_one = self._shares_guidance  # of two branches each device has one
        several = not is_one and self._num_tokens(call) * 2 <= self._company.most_tokens
        return wan_block.CompiledBlocks(self._module.blocks, formula, ready, may_be_several=several)

    def _has_step_cache(self) -> bool:
        """A step cache keeps what one branch of one request computed, so that it has its forwards for itself."""
        return bool(getattr(self._module, "is_cache_enabled", False))

    def _known(self, branch: Branch) -> Branch:
        """Find the branch of the call before, or of that before it; its tensors are held, so that no others take their identity."""
        found = self._branches.setdefault(branch.key, branch)
        if len(self._branches) > MOST_BRANCHES:
            del self._branches[next(iter(self._branches))]
        return found

    def _foreseen(self, call: Call) -> list[Call]:
        """Tell what the pipeline will ask for next with the same latents, if that is to be had in one forward with this."""
        latest, self._latest = self._latest, call
        if latest is not None and call.is_of_same_step(latest):
            latest.branch.following = call.branch
        is_too_much = self._num_tokens(call) * 2 > self._company.most_tokens
        if call.branch.following is None or (is_too_much and not self._shares_guidance):
            return []
        following = replace(call, branch=call.branch.following)
        return [following] if following.kind == call.kind else []

    @property
    def _shares_guidance(self) -> bool:
        """Whether another device computes the other branch: then two forwards take the time of one, however large they are."""
        return self._together.kind == "guidance"

    def _answer(self, calls: Sequence[Call]) -> list[torch.Tensor]:
        if self._sharing is not None:
            self._sharing.is_answered = False  # from here on a step costs something
        if self._together.kind != "off":
            return self._together.answers(calls, self._run)
        if self._sharing is None or not self._sharing.is_allowed:
            return self._run(calls)
        num_tokens = sum(map(self._num_tokens, calls))
        group = (self._weights, calls[0].kind)
        return self._company.answer(calls, num_tokens, group, self._sharing, self._run)

    def _run(self, calls: Sequence[Call]) -> list[torch.Tensor]:
        if self._native is not None:
            if (answers := self._native(calls)) is not None:
                return answers
            self.why_not = "some of its calls are of a kind that only diffusers computes"
        arguments = joined(calls)
        if type(self._module).__name__ == wan.CLASS:
            arguments = wan.for_diffusers(arguments)
        answer: torch.Tensor = self._forward(**arguments)[0]
        return parted(answer, calls)

    def _num_tokens(self, call: Call) -> int:
        num_samples, *shape = (int(size) for size in call.rows[LATENTS].shape)
        if len(shape) == 2:  # tokens already
            return num_samples * shape[0]
        return num_samples * math.prod(shape[1:]) // math.prod(map(int, self._module.config.patch_size))

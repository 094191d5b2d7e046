"""Step caches: forwards of a denoiser that are taken from those before it, as a plan's `StepCache` says.

diffusers' hooks do the reusing; here is decided when: which steps are always computed, how many in a row may be reused, and which
of a step's forwards (with the prompt, without it) goes on from which. All of it is in a slot's own modules, and only for one pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers import CacheMixin
from diffusers.hooks import FirstBlockCacheConfig, HookRegistry, TaylorSeerCacheConfig
from diffusers.hooks.first_block_cache import (
    _FBC_BLOCK_HOOK,
    _FBC_LEADER_BLOCK_HOOK,
    apply_first_block_cache,
)
from diffusers.hooks.hooks import CacheContext, _set_cache_context
from diffusers.hooks.taylorseer_cache import _TAYLORSEER_CACHE_HOOK, apply_taylorseer_cache
from torch.nn import functional

from vitascope.domain.choice import Choice
from vitascope.domain.speed_levels import StepCache

from .sizes import role_of

if TYPE_CHECKING:
    from .calls import Call

_OUTPUTS = ["^proj_out$", "^audio_proj_out$", "^out_layer$"]
"""What denoisers end with: LTX-2's a second time for the sound, Kandinsky's by its own name."""

_BLOCKS = ["^[^.]*block[^.]*\\.[^.]+$"]
"""The entries of a denoiser's rows of blocks."""

_HOOKS = (_FBC_LEADER_BLOCK_HOOK, _FBC_BLOCK_HOOK, _TAYLORSEER_CACHE_HOOK)

LEAST_COMPUTED = 2
"""Forwards that must have been computed before one is reused: a change is one between two."""


@dataclass(slots=True)
class Reuse:
    """How many of a request's forwards were computed and how many were not."""

    computed: int = 0
    reused: int = 0
    #: Why nothing could be reused.
    problem: str | None = None

    def choices(self, cache: StepCache | None) -> tuple[Choice, ...]:
        """Tell what came of a cache; nothing without one."""
        if cache is None:
            return ()
        if self.problem is not None:
            return (Choice("step_cache", "off", self.problem),)
        value = f"{self.reused} of {self.computed + self.reused} forwards reused"
        return (Choice("step_cache", value, f"speed is {cache.level}: {cache.kind}, {cache.setting}"),)


class Caching:
    """The cache of one pass.

    Args:
        cache: when forwards are reused.
        reuse: counts.
    """

    def __init__(self, cache: StepCache, reuse: Reuse) -> None:
        self.cache = cache
        self.reuse = reuse
        #: How often the pass has begun at its first step again: nothing is reused from the time before.
        self.round = 0
        self._is_fixed = True
        #: Whose denoiser was asked last.
        self.latest: FirstBlock | None = None
        #: Forwards since the scheduler's last step, by denoiser.
        self.calls: dict[int, int] = {}

    def after_step(self, step: int, num_steps: int) -> None:
        """Learn which step of the round comes next, counted from 0, and how many it has."""
        self._is_fixed = self.cache.must_compute(step, num_steps)
        self.round += step == 0
        self.calls.clear()

    def may_reuse(self, computed: int, in_a_row: int) -> bool:
        """Tell whether a forward may be reused, by how many were computed and how many reused since."""
        return not self._is_fixed and computed >= LEAST_COMPUTED and in_a_row < self.cache.max_reused


@contextlib.contextmanager
def caching(pipe: Any, cache: StepCache | None, reuse: Reuse) -> Iterator[Callable[[int, int], None]]:
    """Let a slot's pipeline reuse forwards for as long as the block; what is kept goes with it.

    Yields:
        What is to be called after each of the scheduler's steps; see `Caching.after_step`.
    """
    if cache is None:
        yield lambda _done, _total: None
        return
    this = Caching(cache, reuse)
    with contextlib.ExitStack() as held:
        for name, part in pipe.components.items():
            if isinstance(part, torch.nn.Module) and role_of(name) == "denoiser":
                held.enter_context(_cached(part, this))
        yield this.after_step


@contextlib.contextmanager
def _cached(denoiser: Any, this: Caching) -> Iterator[None]:
    from .families import wan  # which has passes beside it, that have this

    if this.cache.kind == "first_block" and wan.why_not(denoiser) is None:
        denoiser.first_block_cache = FirstBlock(this)
        try:
            yield
        finally:
            del denoiser.first_block_cache
            this.latest = None  # which has this
        return
    with _hooked(denoiser, this):
        yield


@contextlib.contextmanager
def _hooked(denoiser: torch.nn.Module, this: Caching) -> Iterator[None]:
    forwards = _Forwards(denoiser, this)
    handles = []
    try:
        try:
            hooks = _APPLY[this.cache.kind](denoiser, forwards)
        except (ValueError, IndexError):  # diffusers does not know its blocks, or there is only one
            this.reuse.problem = f"diffusers' cache does not know the blocks of `{type(denoiser).__name__}`"
            hooks = 0
        if hooks:
            registry = HookRegistry.check_if_exists_or_initialize(denoiser)
            registry.invalidate_child_registries_cache()
            _mark(denoiser, this.cache)
            handles = [
                denoiser.register_forward_pre_hook(forwards.before),
                denoiser.register_forward_hook(forwards.after),
            ]
        yield
    finally:
        for handle in handles:
            handle.remove()
        _mark(denoiser, None)
        registry = HookRegistry.check_if_exists_or_initialize(denoiser)
        for hook in _HOOKS:
            registry.remove_hook(hook, recurse=True)
        registry.invalidate_child_registries_cache()
        _as_it_was(denoiser)


def _as_it_was(denoiser: torch.nn.Module) -> None:
    """Take away the `forward` that hooks leave behind, which is the class's: who computes blocks otherwise takes it for a change."""
    for module in denoiser.modules():
        left: Any = vars(module).get("forward")
        if getattr(left, "__func__", None) is type(module).forward:
            del module.forward


def _mark(denoiser: Any, cache: StepCache | None) -> None:
    """Have `is_cache_enabled` tell, of a denoiser whose class has no caches too: who runs one's forwards otherwise looks at that."""
    if isinstance(denoiser, CacheMixin):
        denoiser._cache_config = cache
    elif cache is not None:
        denoiser.is_cache_enabled = True
    else:
        vars(denoiser).pop("is_cache_enabled", None)


@dataclass(slots=True)
class _Branch:
    """The forwards at one place of each step: with the prompt, or without it."""

    computed: int = 0
    in_a_row: int = 0
    is_reusing: bool = False


@dataclass(slots=True)
class _Stack:
    """What is kept of the blocks, of the forwards for the same branches: twice their tokens (`activations` reckons with that)."""

    branch: _Branch
    #: What the first block has added, in the latest forward that was computed.
    head: torch.Tensor | None = None
    #: Its output there, until the others have added theirs.
    output: torch.Tensor | None = None
    #: What the others have added.
    tail: torch.Tensor | None = None


class FirstBlock:
    """FBCache for a denoiser whose blocks this engine computes by code of its own: diffusers' hooks see nothing of that.

    Decides as diffusers' does; of both branches of guidance in one forward, for both at once.
    """

    def __init__(self, this: Caching) -> None:
        self._this = this
        self._round = this.round
        self._stacks: dict[tuple[int, ...], _Stack] = {}
        self._now = _Stack(_Branch())

    def reuses(self, calls: Sequence[Call], before: torch.Tensor, stream: torch.Tensor) -> bool:
        """Tell after the first block whether the others are left out; then what they added last is in `stream`.

        Args:
            calls: that the forward is for.
            before: the tokens as the first block got them; this function's to change.
            stream: as it left them.
        """
        self._begin()
        key = tuple(id(call.branch) for call in calls)
        self._now = stack = self._stacks.setdefault(key, _Stack(_Branch()))
        head = torch.sub(stream, before, out=before)
        branch, reuse = stack.branch, self._this.reuse
        # one forward that was computed is enough: what is kept is added as it is
        may = self._this.may_reuse(LEAST_COMPUTED, branch.in_a_row)
        if may and stack.tail is not None and stack.head is not None:
            difference = functional.l1_loss(head, stack.head, reduction="sum")
            if float(difference / torch.linalg.vector_norm(stack.head, 1)) <= self._this.cache.threshold:
                stream += stack.tail
                branch.in_a_row += 1
                reuse.reused += len(calls)
                return True
        branch.in_a_row = 0
        branch.computed += 1
        reuse.computed += len(calls)
        stack.tail = None  # before there is another one
        stack.head, stack.output = head, stream.clone()
        return False

    def _begin(self) -> None:
        """Let go of what no forward will reuse: of rounds that are over, and of a denoiser that another one has followed."""
        if self._this.latest is not self:
            if self._this.latest is not None:
                self._this.latest._stacks.clear()
            self._this.latest = self
        if self._round != self._this.round:
            self._round = self._this.round
            self._stacks.clear()

    def keep(self, stream: torch.Tensor) -> None:
        """Keep what the other blocks have added, when all of them were computed."""
        output = self._now.output
        assert output is not None
        self._now.tail, self._now.output = torch.sub(stream, output, out=output), None


class _Forwards:
    """One denoiser's forwards: which branch each belongs to, and whether it is reused."""

    def __init__(self, denoiser: torch.nn.Module, this: Caching) -> None:
        self._id = id(denoiser)
        self._this = this
        self._branches: dict[tuple[int, int], _Branch] = {}
        self._now = _Branch()

    def before(self, denoiser: torch.nn.Module, _inputs: Any) -> None:
        """Give the cache the branch that this forward goes on from: few pipelines do, and not all alike."""
        place = self._this.calls.get(self._id, 0)
        self._this.calls[self._id] = place + 1
        self._now = self._branches.setdefault((self._this.round, place), _Branch())
        self._now.is_reusing = self._this.may_reuse(self._now.computed, self._now.in_a_row)
        _set_cache_context(denoiser, CacheContext(f"forward {place}"))

    def decide(self, wants: bool = True) -> bool:
        """Tell whether this forward is reused, where the cache itself wants it to be."""
        self._now.is_reusing = self._now.is_reusing and wants
        return self._now.is_reusing

    def after(self, denoiser: torch.nn.Module, _inputs: Any, _outputs: Any) -> None:
        _set_cache_context(denoiser, None)
        branch, reuse = self._now, self._this.reuse
        if branch.is_reusing:
            branch.in_a_row += 1
            reuse.reused += 1
        else:
            branch.in_a_row = 0
            branch.computed += 1
            reuse.computed += 1


def _apply_first_block(denoiser: torch.nn.Module, forwards: _Forwards) -> int:
    threshold = forwards._this.cache.threshold
    apply_first_block_cache(denoiser, FirstBlockCacheConfig(threshold=threshold))
    found = _hooks(denoiser, _FBC_LEADER_BLOCK_HOOK)
    for hook in found:
        must = hook._should_compute_remaining_blocks

        def should(residual: torch.Tensor, must: Callable[..., bool] = must) -> bool:
            return not forwards.decide(wants=not must(residual))

        hook._should_compute_remaining_blocks = should
    return len(found)


def _apply_taylor(denoiser: torch.nn.Module, forwards: _Forwards) -> int:
    config = TaylorSeerCacheConfig(
        max_order=1,
        taylor_factors_dtype=torch.float32,  # of what a denoiser ends with, which is small
        skip_predict_identifiers=_BLOCKS,
        cache_identifiers=_OUTPUTS,
    )
    apply_taylorseer_cache(denoiser, config)
    found = _hooks(denoiser, _TAYLORSEER_CACHE_HOOK)
    for hook in found:

        def measure(hook: Any = hook) -> tuple[bool, Any]:
            state = hook.state_manager.get_state()
            state.current_step += 1
            return not forwards.decide(), state

        hook._measure_should_compute = measure
    return len(found)


_APPLY = {"first_block": _apply_first_block, "taylor": _apply_taylor}


def _hooks(denoiser: torch.nn.Module, name: str) -> list[Any]:
    registries = (getattr(module, "_diffusers_hook", None) for module in denoiser.modules())
    found = (registry.get_hook(name) for registry in registries if registry is not None)
    return [hook for hook in found if hook is not None]

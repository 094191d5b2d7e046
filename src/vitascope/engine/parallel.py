"""Several devices on one request: each computes one branch of guidance, or a part of the tokens.

Every device has a process of its own with the whole model, and all of them run the same request: they are ranks of a torch process
group. What one has computed the others get, so that each has the same latents after each step. Nothing but a denoiser's forward needs
them all at the same time: before one they wait for each other (`Together.stand`), and what is between is each one's own.
Knows nothing of who starts the ranks and hands them their requests: that are `leading` and `following`.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, ParallelConfig
from diffusers.hooks import context_parallel
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch.distributed.device_mesh import init_device_mesh

from vitascope.domain.choice import Choice

from .calls import BY_SAMPLE
from .generation import undivided
from .kernel_times import KERNELS
from .sizes import role_of
from .standing_in import standing_in

if TYPE_CHECKING:
    from .calls import Call
    from .slots import Slot

Kind = Literal["off", "guidance", "context"]
"""What ranks share of a request: nothing, the two branches of guidance, or the tokens."""

ASKED = ("auto", *get_args(Kind))
"""Of the setting `engine.parallel`."""

BRANCHES = 2
"""Of guidance."""

if not hasattr(context_parallel.logger, "warning_once"):
    # transformers gives it to all loggers, and need not be loaded: what diffusers says by it is of no use to anybody here
    context_parallel.logger.warning_once = context_parallel.logger.debug

Run = Callable[[Sequence["Call"]], list[torch.Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The process group that this process is a rank of."""

    rank: int
    size: int
    #: Of those that this engine has had: modules that were arranged for an earlier one are of no use.
    number: int
    #: How diffusers splits tokens.
    config: ParallelConfig


def join(folder: Path, rank: int, size: int, device: torch.device, number: int, seconds: float) -> Group:
    """Become a rank of a group; returns when all have.

    Args:
        folder: where its ranks find each other, by a file. It is theirs alone.
        rank: from 0.
        size: how many there are.
        device: this rank's.
        number: of the group, in this folder.
        seconds: what an exchange may take.
    """
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    store = dist.FileStore(str(folder / f"group-{number}"), size)
    limit = datetime.timedelta(seconds=seconds)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    # of any number of tokens and heads: videos have lengths that no number of devices divides
    context = ContextParallelConfig(ulysses_degree=size, ulysses_anything=True)
    mesh = init_device_mesh(device.type, context.mesh_shape, mesh_dim_names=context.mesh_dim_names)
    config = ParallelConfig(context_parallel_config=context)
    config.setup(rank, size, device, mesh=mesh)
    return Group(rank, size, number, config)


def leave() -> None:
    """Be in no group any more; the other ranks do the same."""
    if dist.is_initialized():
        dist.destroy_process_group()


def abandon() -> None:
    """Be in no group any more, although the other ranks are gone. From any thread: an exchange that waits for them fails.

    On a CPU it fails by itself as soon as they are gone; NCCL's kernels would wait for ever.
    """
    if dist.is_initialized() and dist.is_nccl_available() and "nccl" in str(dist.get_backend_config()):
        dist.distributed_c10d._abort_process_group()


def choose(
    asked: str,
    num_devices: int,
    denoisers: Sequence[str],
    *,
    has_guidance: bool,
    takes_turns: bool = False,
) -> tuple[Kind, Choice]:
    """Choose what the devices share of a request, and say why.

    Args:
        asked: the setting.
        num_devices: at least one.
        denoisers: class names of the model's.
        has_guidance: whether each step asks for two branches.
        takes_turns: whether the model's weights come and go.
    """
    if num_devices < BRANCHES:
        return "off", Choice("parallel", "off", "there is one device")
    if asked == "off":
        return "off", Choice("parallel", "off", "set by engine.parallel")
    problems: dict[str, str | None] = {
        "guidance": _why_not_guidance(num_devices, denoisers, has_guidance=has_guidance),
        "context": _why_not_context(denoisers, takes_turns=takes_turns),
    }
    wanted: tuple[Kind, Kind] = ("context", "guidance") if asked == "context" else ("guidance", "context")
    for kind in wanted:
        if problems[kind] is None:
            reason = (
                "set by engine.parallel"
                if kind == asked
                else problems[wanted[0]] or "each step has two branches"
            )
            return kind, Choice("parallel", f"{num_devices} devices, {_WHAT[kind]}", reason)
    why = "; ".join(problem for problem in problems.values() if problem is not None)
    return "off", Choice("parallel", "off", why)


_WHAT: dict[Kind, str] = {"guidance": "one branch of guidance each", "context": "a part of the tokens each"}


def _why_not_guidance(num_devices: int, denoisers: Sequence[str], *, has_guidance: bool) -> str | None:
    if num_devices > BRANCHES:
        return f"guidance has two branches, and there are {num_devices} devices"
    if not has_guidance:
        return "without guidance a step has one branch"
    for name in denoisers:
        if name not in BY_SAMPLE:
            return f"several devices cannot share the guidance of a `{name}`"
    return None if denoisers else "the model has no denoiser"


def _why_not_context(denoisers: Sequence[str], *, takes_turns: bool) -> str | None:
    if takes_turns:
        return "several devices cannot split the tokens of a model whose weights come and go"
    for name in denoisers:
        if name not in SPLIT:
            return f"several devices cannot split the tokens of a `{name}`"
    return None if denoisers else "the model has no denoiser"


SPLIT = frozenset({"WanTransformer3DModel"})
"""Classes of video models that diffusers can split. LTX's have a plan for it too (`_cp_plan`), but the mask of the text that their
pipelines hand over is split with the text, and then does not fit what the ranks have put together (0.42)."""


class Together:
    """What one rank does of one request with the others. This one does all of it alone.

    Args:
        kind: what they share.
        choice: why; None where there is one device.
        group: of the ranks.
    """

    def __init__(self, kind: Kind = "off", choice: Choice | None = None, group: Group | None = None) -> None:
        self.kind: Kind = kind
        self._group = group
        self._choice = choice

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What is to be said of it in the job."""
        return () if self._choice is None else (self._choice,)

    @property
    def arrangement(self) -> Hashable:
        """Equal of requests that can have the same slot, one after the other."""
        return (self.kind, self._group.number) if self.kind == "context" and self._group is not None else None

    def stand(self, what: Hashable) -> None:
        """Stand before a forward until all ranks do; then none of them goes elsewhere before it is over.

        Args:
            what: equal in all ranks, if they are at the same.
        """

    def agree(self, error: Exception | None) -> None:
        """Tell the others whether what they are to get is there; raises if any of them has not got it.

        Args:
            error: why this rank has not.
        """
        if error is not None:
            raise error

    def exchanging(self) -> contextlib.AbstractContextManager[None]:
        """Compute what needs the others in its midst: who fails there tells them, as they would wait for ever."""
        return contextlib.nullcontext()

    def answers(self, calls: Sequence[Call], run: Run) -> list[torch.Tensor]:
        """Compute a forward for each call, each on a rank of its own, and give all of them to all.

        Args:
            calls: the same on all ranks, over latents of one shape; a single one is computed by each, but for one with both
                branches in it, as some pipelines ask for them.
            run: computes some of them.
        """
        group = self._group
        if group is None or self.kind != "guidance":
            return run(calls)
        if len(calls) == 1 and calls[0].num_samples == group.size:
            return [torch.cat(self._shared(calls[0].by_sample(), run, group))]
        return run(calls) if len(calls) < group.size else self._shared(calls, run, group)

    def _shared(self, calls: Sequence[Call], run: Run, group: Group) -> list[torch.Tensor]:
        self.stand(calls[0].kind)
        error, own = None, None
        try:
            with undivided():
                [own] = run([calls[group.rank]])
        except Exception as raised:  # noqa: BLE001  raised again once the others know
            error = raised
        self.agree(error)
        assert own is not None, "it was agreed that all have theirs"
        found = [
            own.contiguous() if rank == group.rank else torch.empty_like(own) for rank in range(group.size)
        ]
        with self.exchanging():
            dist.all_gather(found, found[group.rank])
        return found

    def arrange(self, slot: Slot) -> None:
        """Let the ranks' denoisers compute a part of the tokens each, if that is what they share; a slot is changed once."""
        if self.kind == "context" and self._group is not None:
            for module in _denoisers(slot).values():
                _split(module, self._group.config)

    @contextlib.contextmanager
    def in_step(self, slot: Slot) -> Iterator[None]:
        """Have the ranks run forwards that they split at the same time; whatever else stands in a denoiser's place is there already."""
        with contextlib.ExitStack() as stack:
            if self.kind == "context":
                for name, module in _denoisers(slot).items():
                    stack.enter_context(standing_in(module, self._whole(module, name)))
            yield

    def _whole(self, module: torch.nn.Module, name: str) -> Callable[..., Any]:
        """Have a forward of all ranks begin when all are there, and end without having let go of any."""
        forward = module.forward

        def whole(*args: Any, **arguments: Any) -> Any:
            self.stand(name)
            with self.exchanging(), undivided():
                return forward(*args, **arguments)

        return whole


NOBODY = Together()


def as_split(attention: Choice, together: Together) -> Choice:
    """Tell which attention kernels a model has where devices split its tokens: not all of them see those of the other devices."""
    if together.kind != "context" or _splits(KERNELS.get(attention.value)):
        return attention
    return Choice(
        attention.name, "native", f"several devices cannot split tokens with `{attention.value}` kernels"
    )


def _splits(kernels: str | None) -> bool:
    """Whether attention kernels attend to all ranks' tokens: others would see this rank's only, and nothing would tell."""
    name, _ = _AttentionBackendRegistry.get_active_backend()
    name = name if kernels is None else AttentionBackendName(kernels)
    return bool(_AttentionBackendRegistry._is_context_parallel_available(name))


def _denoisers(slot: Slot) -> dict[str, torch.nn.Module]:
    return {name: module for name, module in slot.modules().items() if role_of(name) == "denoiser"}


def _split(denoiser: Any, config: ParallelConfig) -> None:
    """Do what diffusers' `enable_parallelism` does, which asks for an accelerator and so leaves out the CPU."""
    if getattr(denoiser, "_parallel_config", None) is not None:
        return
    denoiser._parallel_config = config
    for module in denoiser.modules():
        processor: Any = getattr(module, "processor", None)
        if hasattr(processor, "_parallel_config"):
            if not _splits(processor._attention_backend):
                processor._attention_backend = AttentionBackendName.NATIVE
            processor._parallel_config = config
    context_parallel.apply_context_parallel(denoiser, config.context_parallel_config, denoiser._cp_plan)

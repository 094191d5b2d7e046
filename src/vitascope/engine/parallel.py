"""Several devices on one request: each computes one branch of guidance, or a part of the tokens.

Every device has a process of its own with the whole model, and all of them run the same request step by step: they are ranks of a
torch process group. What one has computed the others get, so that each has the same latents after each step.
Knows nothing of who starts the ranks and hands them their requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import diffusers
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, ParallelConfig
from diffusers.hooks.context_parallel import apply_context_parallel
from torch.distributed.device_mesh import init_device_mesh

from vitascope.domain.choice import Choice
from vitascope.domain.errors import ModelUnavailable

from .sizes import role_of

if TYPE_CHECKING:
    from .calls import Call
    from .slots import Slot

Kind = Literal["guidance", "context"]

Run = Callable[[Sequence["Call"]], list[torch.Tensor]]


class Ranks:
    """The ranks that share each request's forwards; of the default process group, which is there already.

    Args:
        kind: `guidance` gives each branch to another rank, `context` each rank a part of all tokens.

    Raises:
        ValueError: guidance is to be shared by more than two, and it has two branches.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind: Kind = kind
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        if kind == "guidance" and self.size > 2:
            message = f"guidance has two branches, and there are {self.size} ranks: split the tokens (`context`), or take two"
            raise ValueError(message)

    @property
    def choice(self) -> Choice:
        """What is done, for the job."""
        what = {"guidance": "one branch of guidance each", "context": "a part of the tokens each"}[self.kind]
        return Choice("parallel", f"{self.size} devices", what)

    def answers(self, calls: Sequence[Call], run: Run) -> list[torch.Tensor]:
        """Compute a forward for each call, each on a rank of its own, and give all of them to all.

        Args:
            calls: the same on all ranks, over latents of one shape; a single one is computed by each.
            run: computes some of them.
        """
        if self.kind != "guidance" or len(calls) < self.size:
            return run(calls)
        [own] = run([calls[self.rank]])
        found = [
            own.contiguous() if rank == self.rank else torch.empty_like(own) for rank in range(self.size)
        ]
        dist.all_gather(found, found[self.rank])
        return found


def arrange(slot: Slot, ranks: Ranks) -> None:
    """Let each rank's denoisers compute a part of the tokens, if that is what they share; a slot is changed once.

    Raises:
        ModelUnavailable: they cannot.
    """
    if ranks.kind != "context":
        return
    for name, module in slot.modules().items():
        if role_of(name) != "denoiser" or getattr(module, "_parallel_config", None) is not None:
            continue
        plan = getattr(module, "_cp_plan", None)
        if not isinstance(module, diffusers.ModelMixin) or not plan:
            message = f"several devices cannot split the tokens of a `{type(module).__name__}`"
            raise ModelUnavailable(message, hint="they can share its guidance")
        _split(module, plan, ranks)


def _split(denoiser: Any, plan: dict[str, Any], ranks: Ranks) -> None:
    """Do what diffusers' `enable_parallelism` does, which asks for an accelerator and so leaves out the CPU."""
    device = next(denoiser.parameters()).device
    # of any number of tokens and heads: videos have lengths that no number of devices divides
    context = ContextParallelConfig(ulysses_degree=ranks.size, ulysses_anything=True)
    mesh = init_device_mesh(device.type, context.mesh_shape, mesh_dim_names=context.mesh_dim_names)
    config = ParallelConfig(context_parallel_config=context)
    config.setup(ranks.rank, ranks.size, device, mesh=mesh)
    denoiser._parallel_config = config
    for module in denoiser.modules():
        processor: Any = getattr(module, "processor", None)
        if hasattr(processor, "_parallel_config"):
            processor._parallel_config = config
    apply_context_parallel(denoiser, context, plan)

"""What every engine does, fake or real. Knows nothing of torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from vitascope.domain.choice import Choice
from vitascope.domain.loras import LoraFile
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.request import Lora
from vitascope.domain.residency import Residency
from vitascope.domain.step import Step

from .garbage import uncollected
from .placement import NO_WISHES, Wishes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Frames = NDArray[np.uint8]

Locate = Callable[[ModelSpec], str]
"""Tells where a model's weights are: a folder or a hub id. Handed in, because the engine does not know the catalog."""

FindLoras = Callable[[Sequence[Lora], ModelSpec], tuple[LoraFile, ...]]
"""Tells which adapters' files are applied to a model: those of its card, then the request's. May raise ModelUnavailable."""


def no_loras(_asked: Sequence[Lora], _spec: ModelSpec) -> tuple[LoraFile, ...]:
    """Know of no adapters."""
    return ()


@dataclass(frozen=True, slots=True)
class Clip:
    """What a model made, at the rate that is native to it."""

    #: uint8 RGB, (native_num_frames, *plan.made, 3)
    frames: Frames
    #: What the engine chose on its own: device, dtype, scheduler.
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Pictures that a video starts from, uint8 RGB, as the plan's mode needs them."""

    #: First frame, (native_height, native_width, 3).
    image: Frames | None = None
    #: Last frame, of the same shape.
    last_image: Frames | None = None
    #: What is changed, (native_num_frames, native_height, native_width, 3).
    video: Frames | None = None
    #: What is continued: its last frames, as many as the first window starts from, at the native size and rate.
    before: Frames | None = None
    #: Who or what appears: pictures of any size.
    references: tuple[Frames, ...] = ()
    #: The same at the second pass's size, without what is changed: that is the first result. None if there is no such pass.
    larger: Inputs | None = None


NO_INPUTS = Inputs()


@dataclass(frozen=True, slots=True)
class Devices:
    """Several devices that make one video."""

    #: torch's names of all of them; none for one device.
    names: tuple[str, ...] = ()
    #: What they share of a step: `auto`, `off`, `guidance` or `context`.
    parallel: str = "auto"
    #: How long one may keep the others waiting, before that is taken for its end.
    hang_seconds: float = 900.0


ONE_DEVICE = Devices()


class DeviceLost(RuntimeError):
    """A GPU answers nothing any more, which only another process changes."""


@dataclass(slots=True)
class Sharing:
    """How a generation shares forwards of the model with others that are open: between whoever drives the engine and the engine.

    A forward for several computes the same as one for each but for the lowest bits.
    """

    #: Told by who drives: it may be computed with others.
    is_allowed: bool = False
    #: Told by the engine: a forward that another one ran has answered for it too, so that its steps cost next to nothing until it
    #: stands before the next one.
    is_answered: bool = False
    #: Told by the engine while it stands before a forward: those of one group can have one together. None with nobody.
    group: Hashable | None = None
    #: Told by the engine: the group that it stood in last, and will stand in again after its next step. None before the first, and
    #: after the last.
    latest_group: Hashable | None = None
    #: Told by the engine: what it has chosen that the pictures depend on, as another try at the same needs it (`Plan.settled`).
    settled: dict[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """Makes clips; a few may be in the making at the same time.

    One thread drives an engine. It may advance the open generations in any order and stop between any two steps: each makes
    exactly what it makes alone. What is between two pauses belongs to one generation only, so the caller decides how the
    device's time is shared; a generation that stands still while it decodes holds the most memory.

    Several models may be loaded, and have generations open, as far as their memory and that of the work goes; where another
    one needs room, the least recently used one goes that has no open generation. Not in turn run generations whose weights
    change with the request: under offloading, where modules come and go. Different adapters
    (LoRA) are no hindrance: no request's are in another's modules.
    """

    @property
    def runs_on_cpu(self) -> bool:
        """Whether its work competes with other processes for the cores."""
        ...

    @property
    def device(self) -> str:
        """Kind of device, such as `cuda NVIDIA H200`: on devices of one kind a model takes the same time."""
        ...

    @property
    def loaded_models(self) -> tuple[str, ...]:
        """Ids of the models that would start at once, the least recently used one first."""
        ...

    @property
    def residency(self) -> Residency:
        """What is loaded with what it takes, and what became of it so far."""
        ...

    def capacity(self, spec: ModelSpec) -> int:
        """How many more generations of this model may be begun now; 0 where it has no room beside those that run."""
        ...

    def generate(
        self, plan: Plan, spec: ModelSpec, inputs: Inputs = NO_INPUTS, sharing: Sharing | None = None
    ) -> Generator[Step | Clip, None, None]:
        """Make the clip that `plan` describes, step by step.

        Closing the generator cancels: no further step runs, nothing is decoded, the memory is free again. It takes its
        place when it is first advanced, and gives it back before the Clip, on an error, or when it is closed.

        Args:
            plan: made by `domain.plan.plan` for `spec`.
            spec: the model's card.
            inputs: what the plan's mode starts from.
            sharing: with others that are open; None with nobody.

        Yields:
            Steps in the order of `domain.step.STAGE_STARTS`, with one for each denoising step; last the Clip.

        Raises:
            GenerationError: the model could not be loaded, or gave no picture.
            OutOfMemory: the memory was not enough, not even without the models that nothing runs of. All that the
                generation took is free again.
            EngineBusy: there is no `capacity` for it; nothing else has changed.
            DeviceLost: nothing more can be made in this process.
        """
        ...

    def load(self, spec: ModelSpec) -> None:
        """Load a model, so that its next generation starts at once; what is in its way and not in use is unloaded.

        Raises:
            GenerationError: it could not be loaded, or the memory was not enough.
            EngineBusy: it has no room beside what runs, or there is no place.
        """
        ...

    def prepare(self, spec: ModelSpec) -> bool:
        """Begin to load a model beside what runs, for its next generation to begin sooner; does not wait for it.

        What runs makes what it makes alone, and can be cancelled as quickly. Where the model has no room beside it, its
        files are read into main memory only. Whatever goes wrong is told by the generation or the `load` that needs it.

        Returns:
            Whether it was begun: it was not there, nothing else is being prepared, and no generation waits for its own model.
        """
        ...

    def unload(self, model_id: str) -> bool:
        """Unload a model; returns whether it was loaded.

        Raises:
            EngineBusy: a generation of it is open.
        """
        ...

    def aside(self) -> AbstractContextManager[None]:
        """Let other work of this process use torch for as long as the block, in a thread of its own, while no step is asked for."""
        ...

    def clear_caches(self) -> None:
        """Give back memory that is kept for speed only; loaded models stay."""
        ...

    def close(self) -> None:
        """Unload everything.

        Raises:
            EngineBusy: a generation is open.
        """
        ...


def open_engine(
    kind: Literal["diffusers", "fake"],
    locate: Locate,
    *,
    device: str = "auto",
    threads: int = 0,
    slots: int = 4,
    memory_gb: float = 0.0,
    wishes: Wishes = NO_WISHES,
    fake_step_seconds: float = 0.0,
    find_loras: FindLoras = no_loras,
    lora_cache_bytes: int = 0,
    embeddings_cache_bytes: int = 0,
    notes: Path | None = None,
    devices: Devices = ONE_DEVICE,
) -> Engine:
    """Make an engine of the kind that the settings name. Only the diffusers engine imports torch, and only here."""
    if kind == "fake":
        from .fake import FakeEngine

        return FakeEngine(step_seconds=fake_step_seconds, slots=slots, memory_gb=memory_gb)
    is_first = f"{__package__}.engine" not in sys.modules  # else there may be models already, which go again
    with uncollected(keep=is_first):
        from .lazy_packages import make_lazy
        from .modules_of_frames import told_by_frames
        from .postponed import postpone

        postpone()
        make_lazy()
        with told_by_frames():
            from .engine import DiffusersEngine
        from .meta_kernels import import_with_users

        import_with_users()

    return DiffusersEngine(
        locate,
        device=device,
        threads=threads,
        slots=slots,
        memory_gb=memory_gb,
        wishes=wishes,
        find_loras=find_loras,
        lora_cache_bytes=lora_cache_bytes,
        embeddings_cache_bytes=embeddings_cache_bytes,
        notes=notes,
        devices=devices,
    )

"""The diffusers engine: the models that fit are loaded, a few generations open at a time, each in a slot of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

import diffusers
import torch
import transformers

from vitascope.domain.choice import Choice
from vitascope.domain.cost import work_of
from vitascope.domain.errors import ModelTooLarge, ModelUnavailable, OutOfMemory
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.residency import Residency
from vitascope.domain.step import Step

from . import shortage
from .activations import Extent, largest_extent
from .activations import work_of as memory_of
from .attention import check_attention
from .background import Background, Turn
from .contract import NO_INPUTS, Clip, Inputs, Locate
from .device import (
    choose_device,
    choose_threads,
    device_kind,
    free_bytes,
    free_host_bytes,
    measure,
    total_bytes,
)
from .families import generic
from .loading import LoadedModel, load_model
from .meter import Meter
from .placement import NO_WISHES, VALUE_BYTES, Placement, Wishes, check, place
from .places import EngineBusy, Places
from .residence import GB, Residence
from .rising import Rising
from .sizes import Sizes, read_sizes
from .slots import Slot
from .torch_state import TorchState

logger = logging.getLogger(__name__)

_Making = Generator[Step | None, None, Clip]

RESERVE_SHARE, LEAST_RESERVE, MOST_RESERVE = 0.1, GB // 2, 4 * GB
"""Memory that is left free where what is free decides: for other programs, and for what an allocator cannot join."""

WAIT_SECONDS = 0.1
"""A generation that waits for its model can be cancelled so often."""

SHARE_READ_AHEAD = 0.5
"""Files that take more of the free main memory are not read ahead: they would drive out what is needed now."""

UNKNOWN_WORK_SHARE = 0.2
"""Memory that a model's work takes beside its weights, as a share of these, until it was measured or its card tells."""


class DiffusersEngine:
    """Drives real checkpoints.

    Args:
        locate: tells where a model's weights are.
        device: torch device, or "auto".
        threads: CPU threads of torch; 0 is one per physical core.
        slots: generations that may be open at the same time.
        memory_gb: what models and their work may take; 0 is what is free, but for a reserve.
        wishes: how models are to be loaded, where the operator does not leave it to what fits.
    """

    def __init__(
        self,
        locate: Locate,
        *,
        device: str = "auto",
        threads: int = 0,
        slots: int = 4,
        memory_gb: float = 0.0,
        wishes: Wishes = NO_WISHES,
    ) -> None:
        diffusers.utils.logging.set_verbosity_error()
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        diffusers.utils.logging.disable_progress_bar()
        self._locate = locate
        self._device, device_choice = choose_device(device)
        self._choices = (device_choice, choose_threads(threads))
        check(measure(self._device), wishes)
        check_attention(wishes.attention, self._device)
        self._places = Places(slots)
        self._meter = Meter(self._device)
        self._models = _Models(locate, self._device, device_choice, memory_gb, wishes)
        self._residence: Residence[LoadedModel] = Residence(self._models)
        self._turn = Turn()
        self._background = Background(self._turn, self._device)

    @property
    def runs_on_cpu(self) -> bool:
        return bool(self._device.type == "cpu")

    @property
    def device(self) -> str:
        return device_kind(self._device)

    @property
    def loaded_models(self) -> tuple[str, ...]:
        with self._turn:
            return self._residence.ids

    @property
    def residency(self) -> Residency:
        with self._turn:
            return self._residence.state()

    @property
    def _loaded(self) -> LoadedModel | None:
        """The model that was used last: measurements look at its modules."""
        return self._residence.latest

    def capacity(self, spec: ModelSpec) -> int:
        with self._turn:
            if self._models.takes_turns(spec):
                is_open = self._places.open(spec.id) > 0
                return 0 if is_open else self._residence.room_for(spec, min(1, self._places.free))
            return self._residence.room_for(spec, self._places.free)

    def generate(
        self, plan: Plan, spec: ModelSpec, inputs: Inputs = NO_INPUTS
    ) -> Generator[Step | Clip, None, None]:
        with self._places.take(spec.id):
            rising = Rising(self._turn)
            clip = yield from self._insist(plan, spec, rising, lambda: self._make(plan, spec, inputs))
            second, larger = plan.second, spec.second
            if second is not None and larger is not None and second.model != spec.id:
                first = clip
                clip = yield from self._insist(
                    second, larger, rising, lambda: self._make_larger(plan, larger, inputs, first)
                )
        yield clip

    def _insist(
        self, plan: Plan, spec: ModelSpec, rising: Rising, make: Callable[[], _Making]
    ) -> Generator[Step, None, Clip]:
        """Make a clip with a model; where the memory is not enough, once more without the models that nothing runs of."""
        if spec.id not in self.loaded_models:
            yield from self._without_background(rising)
        clip = yield from self._attempt(plan, spec, make(), rising)
        if isinstance(clip, OutOfMemory):
            yield from self._without_background(rising)
            if self._has_evicted_for(spec):
                clip = yield from self._attempt(plan, spec, make(), rising)
        if isinstance(clip, OutOfMemory):
            self._residence.note_out_of_memory()
            raise clip
        return clip

    def _without_background(self, rising: Rising) -> Generator[Step, None, None]:
        """Wait until nothing is loaded beside: perhaps it is this very model, and else there is no room for two to come."""
        while not self._background.wait(WAIT_SECONDS):
            yield rising.reached

    def _attempt(
        self, plan: Plan, spec: ModelSpec, making: _Making, rising: Rising
    ) -> Generator[Step, None, Clip | OutOfMemory]:
        """Make the clip, or tell that the memory was not enough, once all that it had taken is free again."""
        self._meter.forget_peak()
        try:
            return (yield from rising.of(making))
        except (RuntimeError, OSError, MemoryError, OutOfMemory, ModelUnavailable) as error:
            if not shortage.is_shortage(error):
                raise
            with self._turn:
                is_in_second = plan.second is not None and rising.reached.index > plan.first_steps
                short = self._short(error, spec, plan.second if is_in_second else plan, rising.stage)
        shortage.reclaim(self._device)
        return short

    def _make(self, plan: Plan, spec: ModelSpec, inputs: Inputs) -> _Making:
        yield Step("load")
        if spec.second is not None and plan.upscale is not None:
            self._locate(spec.second)  # one that is not there shall not be missed after half of the work
        self._make_way(plan, spec)
        with (
            self._residence.use(spec) as model,
            model.slots.take(plan.seed) as slot,
            self._meter.reading() as reading,
        ):
            yield Step("load", 1)
            tiling = model.choose_tiling(dataclasses.replace(plan, upscale=None), slot)
            frames = yield from generic.generate(plan, spec, slot, inputs)
            choices = (*model.choices, *tiling, *self._choices[1:], *_scheduler_choice(plan, slot))
            choices += generic.prompt_choice(plan, spec, slot)
            if plan.second is not None and plan.second.model == spec.id:
                choices += _named_second(model.choose_tiling(plan.second, slot))
                larger = NO_INPUTS if inputs.larger is None else inputs.larger
                frames = yield from generic.upscale(plan, spec, slot, larger, frames)
            if reading.is_alone:
                self._residence.learn_work(spec, work_of(plan), reading.work_bytes)
        return Clip(frames, choices)

    def _make_larger(self, plan: Plan, spec: ModelSpec, inputs: Inputs, first: Clip) -> _Making:
        """Make the second pass with a checkpoint of its own: the first one's slot is free by now, and its weights may go."""
        second = plan.second
        assert second is not None
        larger = NO_INPUTS if inputs.larger is None else inputs.larger
        self._make_way(second, spec)
        with contextlib.ExitStack() as held:
            while True:
                try:
                    model = held.enter_context(self._residence.use(spec))
                    break
                except EngineBusy:  # what else runs has all the memory: it goes on meanwhile
                    yield None
            slot = held.enter_context(model.slots.take(plan.seed))
            reading = held.enter_context(self._meter.reading())
            choices = _named_second((*model.choices, *model.choose_tiling(second, slot)))
            frames = yield from generic.upscale(plan, spec, slot, larger, first.frames)
            if reading.is_alone:
                self._residence.learn_work(spec, work_of(second), reading.work_bytes)
        return Clip(frames, first.choices + choices)

    def _make_way(self, plan: Plan, spec: ModelSpec) -> None:
        """Unload a model whose weights leave this plan too little memory: it is loaded again with some of them elsewhere."""
        if spec.id in self._residence.idle_ids and self._models.outgrows(plan, spec):
            self._residence.evict(spec.id)

    def prepare(self, spec: ModelSpec) -> bool:
        if self._background.is_busy:
            return False
        with self._turn:
            if spec.id in self._residence.ids:
                return False
            try:
                files = self._models.files(spec)
            except ModelUnavailable:
                return False
            has_room = self._residence.reserve(spec)
        self._background.begin(
            files, functools.partial(self._residence.bring_ahead, spec) if has_room else None
        )
        return True

    def load(self, spec: ModelSpec) -> None:
        with self._places.take(spec.id), self._alone():
            short = self._bring(spec)
            if short is not None and self._has_evicted_for(spec):
                short = self._bring(spec)
            if short is not None:
                self._residence.note_out_of_memory()
                raise short

    def _bring(self, spec: ModelSpec) -> OutOfMemory | None:
        """Load a model, or tell that the memory was not enough."""
        self._meter.forget_peak()
        try:
            self._residence.bring(spec)
        except (RuntimeError, OSError, MemoryError, ModelUnavailable) as error:
            if not shortage.is_shortage(error):
                raise
            short = self._short(error, spec, None, "load")
        else:
            return None
        shortage.reclaim(self._device)
        return short

    def _has_evicted_for(self, spec: ModelSpec) -> bool:
        """Unload what is only kept for others: it must not cost this model its video."""
        gone = self._residence.evict_idle(but=spec.id)
        if gone:
            logger.info(
                "once more, with the memory of other models", extra={"model": spec.id, "unloaded": gone}
            )
        return bool(gone)

    def unload(self, model_id: str) -> bool:
        with self._alone():
            return self._residence.evict(model_id)

    def clear_caches(self) -> None:
        shortage.reclaim(self._device)

    def close(self) -> None:
        self._places.require_idle("unload")
        with self._alone():
            self._residence.clear()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until nothing is loaded beside, and have the turn."""
        while not self._background.wait(WAIT_SECONDS):
            pass
        with self._turn:
            yield

    def _short(self, error: BaseException, spec: ModelSpec, plan: Plan | None, stage: str) -> OutOfMemory:
        """Say what is known of a lack of memory, and let go of all that the error holds."""
        state = self._residence.state()
        held = state.models.get(spec.id)
        idle = tuple(name for name, memory in state.models.items() if name != spec.id and not memory.num_open)
        found = shortage.describe(
            spec,
            plan,
            stage,
            peak_bytes=self._meter.peak_bytes(),
            asked=shortage.asked_bytes(error),
            weights_bytes=self._models.estimate(spec) if held is None else held.weights_bytes,
            total_bytes=state.budget_bytes or total_bytes(self._device),
            others=idle,
        )
        said = shortage.forget(error)
        logger.warning("out of memory", extra={"model": spec.id, "stage": stage, "traceback": said})
        return found


@dataclasses.dataclass(frozen=True)
class _Placed:
    """How a model is placed, and what for."""

    spec: ModelSpec
    sizes: Sizes
    extent: Extent
    placement: Placement

    def leaves_room_for(self, extent: Extent) -> bool:
        work = memory_of(self.sizes, extent, value_bytes=VALUE_BYTES[self.placement.dtype])
        return self.placement.leaves_room_for(work)


class _Models:
    """How this engine's models are loaded, and what they weigh: what `Residence` needs to know of them."""

    def __init__(
        self,
        locate: Locate,
        device: torch.device,
        device_choice: Choice,
        memory_gb: float,
        wishes: Wishes,
    ) -> None:
        self._locate = locate
        self._device = device
        self._device_choice = device_choice
        self._wishes = wishes
        self._found: dict[str, tuple[ModelSpec, str, dict[str, str]]] = {}
        self._placements: dict[str, _Placed] = {}
        self.budget_bytes = round(memory_gb * GB) or None

    def free_bytes(self, weights_bytes: int) -> int:
        total = total_bytes(self._device)
        reserve = min(max(round(total * RESERVE_SHARE), LEAST_RESERVE), MOST_RESERVE)
        # what is mapped from files counts as free until it is read: so not more than all without the weights
        return min(free_bytes(self._device), total - weights_bytes) - reserve

    def estimate(self, spec: ModelSpec) -> int:
        placement = self._placement(spec)
        return 0 if placement is None else placement.device_bytes

    def guess_work(self, spec: ModelSpec, weights_bytes: int) -> int:
        placement = self._placement(spec)
        if placement is not None and placement.peak_bytes > placement.device_bytes:
            return placement.peak_bytes - placement.device_bytes
        by_card = round(spec.memory_gb * GB) - weights_bytes if spec.memory_gb else 0
        return max(by_card, round(weights_bytes * UNKNOWN_WORK_SHARE))

    def takes_turns(self, spec: ModelSpec) -> bool:
        """Whether only one generation of a model can be open, because its weights come and go."""
        placement = self._placement(spec)
        return placement is not None and placement.takes_turns

    def outgrows(self, plan: Plan, spec: ModelSpec) -> bool:
        """Whether a plan needs more memory than its model, as it is placed, leaves, and another way to place it is known.

        That changes where weights wait, and nothing that a picture shows.
        """
        found = self._placed(spec)
        extent = largest_extent(spec, plan)
        if found is None or found.leaves_room_for(extent):
            return False
        better = self._place(spec, found.sizes, extent, found.placement.quantization)
        if better.placement.offload == found.placement.offload:
            return False
        self._placements[spec.id] = better
        return True

    def load(self, spec: ModelSpec) -> LoadedModel:
        location, parts = self._where(spec)
        placed = self._placed(spec)
        if placed is None:
            placed = self._place(spec, read_sizes(location, parts))
        else:  # what is free may have changed; what the pictures depend on stays
            placed = self._place(spec, placed.sizes, placed.extent, placed.placement.quantization)
        self._placements[spec.id] = placed
        del self._found[spec.id]  # the next time the files are looked at again
        with TorchState(0, self._device).entered():  # modules draw numbers where their weights then come
            return load_model(
                spec, location, self._device, self._device_choice, parts,
                placement=placed.placement, attention=self._wishes.attention,
            )  # fmt: skip

    def weigh(self, model: LoadedModel) -> int:
        return model.placement.device_bytes if model.placement.takes_turns else model.num_bytes

    def _placement(self, spec: ModelSpec) -> Placement | None:
        placed = self._placed(spec)
        return None if placed is None else placed.placement

    def _placed(self, spec: ModelSpec) -> _Placed | None:
        """How a model is or would be placed; None where it cannot be, which loading it says why."""
        found = self._placements.get(spec.id)
        if found is None or found.spec != spec:
            try:
                found = self._place(spec, read_sizes(*self._where(spec)))
            except (ModelUnavailable, ModelTooLarge):
                return None
            self._placements[spec.id] = found
        return found

    def _place(
        self, spec: ModelSpec, sizes: Sizes, extent: Extent | None = None, quantization: str = "auto"
    ) -> _Placed:
        extent = extent or largest_extent(spec)
        machine = measure(self._device, self.budget_bytes)
        return _Placed(spec, sizes, extent, place(spec, sizes, machine, self._wishes, extent, quantization))

    def reclaim(self) -> None:
        shortage.reclaim(self._device)

    def files(self, spec: ModelSpec) -> list[Path]:
        """Find the files that hold a model's weights, if main memory has room for them.

        Raises:
            ModelUnavailable: they are not there.
        """
        location, parts = self._where(spec)
        folders = [Path(folder) for folder in (location, *parts.values())]
        found = [
            path
            for folder in folders
            for path in (*folder.glob("*/*.safetensors"), *folder.glob("*.safetensors"))
        ]
        num_bytes = sum(path.stat().st_size for path in found)
        return found if num_bytes < free_host_bytes() * SHARE_READ_AHEAD else []

    def _where(self, spec: ModelSpec) -> tuple[str, dict[str, str]]:
        """Find a model's files; a moment later again from memory."""
        found = self._found.get(spec.id)
        if found is None or found[0] != spec:
            parts = {name: self._locate(part) for name, part in spec.parts.items()}
            self._found[spec.id] = found = (spec, self._locate(spec), parts)
        return found[1:]


def _named_second(choices: Iterable[Choice]) -> tuple[Choice, ...]:
    """Tell what was chosen for the second pass apart from what was for the first."""
    return tuple(dataclasses.replace(choice, name=f"upscale_{choice.name}") for choice in choices)


def _scheduler_choice(plan: Plan, slot: Slot) -> tuple[Choice, ...]:
    if plan.scheduler is not None:
        return ()
    name = type(slot.pipelines[plan.mode].scheduler).__name__
    return (Choice("scheduler", name, "the checkpoint's own"),)

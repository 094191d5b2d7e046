"""The diffusers engine: the models that fit are loaded, a few generations open at a time, each in a slot of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
import torch

from vitascope.domain.cost import work_of
from vitascope.domain.errors import ModelUnavailable, OutOfMemory
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import SECOND, Plan
from vitascope.domain.request import Lora
from vitascope.domain.residency import Residency
from vitascope.domain.step import Step

from . import shortage
from .adapters import Adapters
from .attention import check_attention
from .background import Background, Turn
from .company import Company, most_tokens
from .compiling import check_compile
from .contract import (
    NO_INPUTS,
    ONE_DEVICE,
    Clip,
    DeviceLost,
    Devices,
    FindLoras,
    Inputs,
    Locate,
    Sharing,
    no_loras,
)
from .denoising import Denoising
from .device import (
    answers,
    choose_devices,
    choose_first_device,
    choose_threads,
    device_kind,
    free_bytes,
    measure,
    total_bytes,
)
from .embeddings import Embeddings
from .families import generic
from .keeper import Models, Placed
from .kernel_times import KernelTimes
from .loading import LoadedModel
from .meter import Meter
from .parallel import NOBODY, Together, choose
from .placement import NO_WISHES, Wishes, check
from .places import EngineBusy, Places
from .postponed import when_imported
from .ranks import Begin, Facts, Setup
from .residence import GB, Residence
from .rising import Rising
from .slots import Slot
from .telling import (
    cache_choice,
    compile_choice,
    computed_in_full,
    named_second,
    scheduler_choice,
    settle,
    told,
)

if TYPE_CHECKING:
    from .contract import Frames
    from .leading import Leader

logger = logging.getLogger(__name__)


_Making = Generator[Step | None, None, Clip]

CPU_RESERVE_SHARE = 0.1
"""Main memory that is left free where several ranks share it."""

SAME_MEMORY_SHARE = 0.95
"""Devices whose free memory differs by less are alike: contexts and kernels take some, more or less."""

WAIT_SECONDS = 0.1
"""A generation that waits for its model can be cancelled so often."""


class DiffusersEngine:
    """Drives real checkpoints.

    Args:
        locate: tells where a model's weights are.
        device: torch device, or "auto".
        threads: CPU threads of torch; 0 is one per physical core.
        slots: generations that may be open at the same time.
        memory_gb: what models and their work may take; 0 is what is free, but for a reserve.
        wishes: how models are to be loaded, where the operator does not leave it to what fits.
        find_loras: tells which adapters are applied.
        lora_cache_bytes: of adapters, what is kept between requests.
        embeddings_cache_bytes: of what text encoders made, what is kept between requests.
        notes: folder where it keeps what it has measured; None measures anew.
        devices: several that make one video, and what they share of it.
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
        find_loras: FindLoras = no_loras,
        lora_cache_bytes: int = 0,
        embeddings_cache_bytes: int = 0,
        notes: Path | None = None,
        devices: Devices = ONE_DEVICE,
    ) -> None:
        diffusers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()
        when_imported("transformers", _quieten_transformers)
        self._locate = locate
        others = choose_devices(device, devices)
        self._device, device_choice = choose_first_device(device, devices)
        num_sharing = len(others) if self._device.type == "cpu" and others else 1
        self._choices = (device_choice, choose_threads(threads, num_sharing))
        self._find_loras = find_loras
        self._parallel = devices.parallel
        self._leader: Leader | None = None
        if others:
            from .leading import Leader  # one device needs nothing of it

            setup = functools.partial(
                Setup,
                threads=torch.get_num_threads(),
                memory_gb=memory_gb / num_sharing,
                slots=slots,
                wishes=wishes,
                lora_cache_bytes=lora_cache_bytes,
                embeddings_cache_bytes=embeddings_cache_bytes,
                notes=notes,
            )
            self._leader = Leader(others, setup, notes, devices.hang_seconds)
        check(measure(self._device), wishes)
        check_attention(wishes.attention, self._device)
        check_compile(wishes.compile, self._device)
        if self._leader is not None:
            memory_gb = _shared_memory_gb(memory_gb, self._leader.start(), others)
        self._places = Places(slots)
        self._meter = Meter(self._device)
        kernel_times = KernelTimes(None if notes is None else notes / "attention.json")
        self._models = Models(locate, self._device, device_choice, memory_gb, wishes, kernel_times)
        self._residence: Residence[LoadedModel] = Residence(self._models)
        self._turn = Turn()
        self._background = Background(self._turn, self._device)
        self._adapters = Adapters(find_loras, self._device, lora_cache_bytes)
        self._embeddings = Embeddings(embeddings_cache_bytes)
        self._company = Company(most_tokens(self._device))

    @property
    def runs_on_cpu(self) -> bool:
        return bool(self._device.type == "cpu")

    @property
    def device(self) -> str:
        kind = device_kind(self._device)
        return kind if self._leader is None else f"{self._leader.size} x {kind}"

    @property
    def torch_device(self) -> torch.device:
        return self._device

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
        self, plan: Plan, spec: ModelSpec, inputs: Inputs = NO_INPUTS, sharing: Sharing | None = None
    ) -> Generator[Step | Clip, None, None]:
        with self._places.take(spec.id):
            rising = Rising(self._turn, sharing)
            clip = yield from self._insist(
                plan, spec, rising, lambda: self._make(plan, spec, inputs, rising, sharing, None)
            )
            second, larger = plan.second, spec.second
            if second is not None and larger is not None and second.model != spec.id:
                first = clip
                clip = yield from self._insist(
                    second,
                    larger,
                    rising,
                    lambda: self._make_larger(plan, larger, inputs, first, sharing, None),
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
        while not self._background.wait(WAIT_SECONDS if rising.waits else 0.0):
            yield dataclasses.replace(rising.reached, is_waiting=not rising.waits)

    def _attempt(
        self, plan: Plan, spec: ModelSpec, making: _Making, rising: Rising
    ) -> Generator[Step, None, Clip | OutOfMemory]:
        """Make the clip, or tell that the memory was not enough, once all that it had taken is free again."""
        self._meter.forget_peak()
        try:
            return (yield from rising.of(making))
        except (RuntimeError, OSError, MemoryError, OutOfMemory, ModelUnavailable) as error:
            if not shortage.is_shortage(error):
                if not answers(self._device):
                    raise DeviceLost(str(error)) from error
                raise
            with self._turn:
                this = plan.second if plan.second is not None and rising.is_in_second else plan
                stage = shortage.stage_of(error) or rising.stage
                if isinstance(error, OutOfMemory):  # another device has said itself what it was short of
                    short = error
                    shortage.forget(error)  # what was made here is free before it is made once more
                else:
                    short = self._short(error, spec, this, stage)
        self._forget_kept()
        shortage.reclaim(self._device)
        return short

    def _make(
        self,
        plan: Plan,
        spec: ModelSpec,
        inputs: Inputs,
        rising: Rising,
        sharing: Sharing | None,
        part: Together | None,
    ) -> _Making:
        rising.is_in_second = False
        yield Step("load")
        self._check_second(plan, spec)
        card, spec = spec, self._models.as_settled(spec, dict(plan.settled))
        self._make_way(plan, spec)
        with (
            self._together(plan, spec, inputs, None, part) as together,
            self._residence.use(spec) as model,
            model.slots.take(plan.seed, together.arrangement) as slot,
            self._adapters.attached(plan.loras, spec, slot) as lora_choices,
            self._meter.reading() as reading,
            self._quickened(slot, sharing, together) as denoising,
        ):
            asked, plan = plan, computed_in_full(plan, together)
            yield Step("load", 1)
            tiling = model.choose_tiling(dataclasses.replace(plan, upscale=None), slot)
            settle(sharing, model.settled(tiling))
            frames = yield from generic.generate(plan, spec, slot, inputs)
            choices = (*told(model.choices, spec, card, together), *tiling, *self._choices[1:])
            choices += scheduler_choice(plan, slot)
            choices += generic.prompt_choice(plan, spec, slot) + lora_choices
            choices += (compile_choice(model, together), *slot.reuse.choices(plan.step_cache))
            choices += cache_choice(asked, plan)
            if plan.second is not None and plan.second.model == spec.id:
                tiling = model.choose_tiling(plan.second, slot)
                choices += named_second(tiling)
                settle(sharing, model.settled(tiling), SECOND)
                larger = NO_INPUTS if inputs.larger is None else inputs.larger
                rising.is_in_second = True
                frames = yield from generic.upscale(plan, spec, slot, larger, frames)
            choices += denoising.choices
            if reading.is_alone:
                self._residence.learn_work(spec, work_of(plan), reading.work_bytes)
        return Clip(frames, choices)

    def _make_larger(
        self,
        plan: Plan,
        spec: ModelSpec,
        inputs: Inputs,
        first: Clip,
        sharing: Sharing | None,
        part: Together | None,
    ) -> _Making:
        """Make the second pass with a checkpoint of its own: the first one's slot is free by now, and its weights may go."""
        second = plan.second
        assert second is not None
        larger = NO_INPUTS if inputs.larger is None else inputs.larger
        card, spec = spec, self._models.as_settled(spec, dict(second.settled))
        self._make_way(second, spec)
        with contextlib.ExitStack() as held:
            together = held.enter_context(self._together(plan, spec, inputs, first.frames, part))
            while True:
                try:
                    model = held.enter_context(self._residence.use(spec))
                    break
                except EngineBusy:  # what else runs has all the memory: it goes on meanwhile
                    yield Step("load", is_waiting=True)
            slot = held.enter_context(model.slots.take(plan.seed, together.arrangement))
            adapters = held.enter_context(self._adapters.attached(second.loras, spec, slot))
            reading = held.enter_context(self._meter.reading())
            denoising = held.enter_context(self._quickened(slot, sharing, together))
            tiling = model.choose_tiling(second, slot)
            settle(sharing, model.settled(tiling), SECOND)
            choices = named_second((*told(model.choices, spec, card, together), *tiling, *adapters))
            frames = yield from generic.upscale(plan, spec, slot, larger, first.frames)
            choices += named_second(denoising.choices)
            if reading.is_alone:
                self._residence.learn_work(spec, work_of(second), reading.work_bytes)
        return Clip(frames, first.choices + choices)

    @contextlib.contextmanager
    def _quickened(self, slot: Slot, sharing: Sharing | None, together: Together) -> Iterator[Denoising]:
        """Answer for a slot's denoisers and text encoders, where that makes the same in less time."""
        together.arrange(slot)
        denoising = Denoising(slot, self._company, sharing, together)
        with denoising.arranged(), self._embeddings.used(slot), together.in_step(slot):
            yield denoising

    def _together(
        self, plan: Plan, spec: ModelSpec, inputs: Inputs, first: Frames | None, part: Together | None
    ) -> contextlib.AbstractContextManager[Together]:
        """Have the other devices make the same, where there are any and the request is of that kind.

        Args:
            plan: of the request.
            spec: of the model that works.
            inputs: of the request.
            first: what it starts from, where this is a second pass with a checkpoint of its own.
            part: what this device does of it, where another one leads.
        """
        if part is not None or self._leader is None:
            return contextlib.nullcontext(part or NOBODY)
        this = plan if first is None or plan.second is None else plan.second
        kind, choice = choose(
            self._parallel,
            self._leader.size,
            self._models.denoisers(spec),
            has_guidance=this.guidance_scale > 1,
            takes_turns=self._models.takes_turns(spec),
        )
        facts = self._facts(spec, this.loras, None if plan.second is None else spec.second)
        quiet = dataclasses.replace(plan, preview_every=0)
        return self._leader.begun(
            kind, choice, lambda number: Begin(number, kind, quiet, spec, inputs, facts, first)
        )

    def _facts(self, spec: ModelSpec, loras: Sequence[Lora], second: ModelSpec | None) -> Facts:
        """Tell what other devices need to know of a model."""
        locations = self._models.locations(spec)
        if second is not None:
            locations |= self._models.locations(second)
        found = {(spec.id, tuple(loras)): self._find_loras(loras, spec)} if loras or spec.loras else {}
        return Facts(locations, self._models.placed(spec), found)

    def follow(
        self, plan: Plan, spec: ModelSpec, inputs: Inputs, first: Frames | None, part: Together
    ) -> Generator[Step, None, None]:
        """Make what another device makes, which leads; see `following`. Raises what is to be told of it."""
        rising = Rising(self._turn, None)
        if first is None:
            making = self._make(plan, spec, inputs, rising, None, part)
        else:
            making = self._make_larger(plan, spec, inputs, Clip(first, ()), None, part)
        clip = yield from self._attempt(plan, spec, making, rising)
        if isinstance(clip, OutOfMemory):
            raise clip

    def place_as(self, spec: ModelSpec, placed: Placed) -> None:
        """Place a model as the device has that leads."""
        self._models.place_as(spec, placed)

    def evict_idle(self, but: str) -> None:
        """Unload what is not in use, except one; for the device that leads."""
        self._residence.evict_idle(but=but)

    def _forget_kept(self) -> None:
        self._adapters.clear()
        self._embeddings.clear()

    def _check_second(self, plan: Plan, spec: ModelSpec) -> None:
        """A checkpoint for the second pass that is not there shall not be missed after half of the work.

        Raises:
            ModelUnavailable: it is not.
        """
        if plan.second is None or plan.second.model == spec.id:
            return
        if spec.second is None:
            raise ModelUnavailable(
                f"model `{plan.second.model}`, which makes the second pass, is not on this machine"
            )
        self._locate(spec.second)

    def _make_way(self, plan: Plan, spec: ModelSpec) -> None:
        """Unload a model whose weights leave this plan too little memory: it is loaded again with some of them elsewhere."""
        if spec.id in self._residence.idle_ids and self._models.outgrows(plan, spec):
            self._residence.evict(spec.id)

    def prepare(self, spec: ModelSpec) -> bool:
        if self._background.is_busy:
            return False
        with self._turn:
            is_one_about_to_load = self._places.num_taken > self._residence.num_open
            if is_one_about_to_load or spec.id in self._residence.ids:
                return False
            try:
                files = self._models.files(spec)
            except ModelUnavailable:
                return False
            # several devices load at the same time, at the beginning of a request
            has_room = self._leader is None and self._residence.reserve(spec)
        self._background.begin(files, functools.partial(self._bring_ahead, spec) if has_room else None)
        return True

    def _bring_ahead(self, spec: ModelSpec) -> None:
        with self._meter.something_else():
            self._residence.bring_ahead(spec)

    def aside(self) -> contextlib.AbstractContextManager[None]:
        return self._background.aside()

    def load(self, spec: ModelSpec) -> None:
        facts = functools.partial(self._facts, spec, (), None)
        with self._places.take(spec.id), self._others("load", spec, facts=facts), self._alone():
            short = self._bring(spec)
            if short is not None and self._has_evicted_for(spec):
                short = self._bring(spec)
            if short is not None:
                self._residence.note_out_of_memory()
                raise short

    @contextlib.contextmanager
    def _others(
        self, what: str, *arguments: object, facts: Callable[[], Facts] | None = None
    ) -> Iterator[None]:
        """Have the other devices do the same beside what is done here; what goes wrong there is raised at the end.

        Args:
            what: a method.
            arguments: of it.
            facts: that they need; without any they need not be there.
        """
        if self._leader is None:
            yield
            return
        if facts is not None:
            self._leader.have_started()
        with self._leader.doing(what, *arguments, facts=None if facts is None else facts()):
            yield

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
        with self._others("evict_idle", spec.id):
            gone = self._residence.evict_idle(but=spec.id)
        if gone:
            logger.info(
                "once more, with the memory of other models", extra={"model": spec.id, "unloaded": gone}
            )
        return bool(gone)

    def unload(self, model_id: str) -> bool:
        with self._alone():
            was_there = self._residence.evict(model_id)
        with self._others("unload", model_id):
            return was_there

    def clear_caches(self) -> None:
        with self._others("clear_caches"):
            self._forget_kept()
            shortage.reclaim(self._device)

    def close(self) -> None:
        self._places.require_idle("unload")
        with self._alone():
            self._residence.clear()
            self._forget_kept()
        if self._leader is not None:
            self._leader.stop()

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
            total_bytes=total_bytes(self._device),
            others=idle,
        )
        said = shortage.forget(error)
        logger.warning("out of memory", extra={"model": spec.id, "stage": stage, "traceback": said})
        return found


def _shared_memory_gb(asked: float, least_bytes: int, devices: Sequence[torch.device]) -> float:
    """Tell what models and their work may take on each of several devices: they are placed alike, so the fullest one counts."""
    if devices[0].type == "cpu":  # which have one memory
        share = asked or min(least_bytes, free_bytes(devices[0])) / GB * (1 - CPU_RESERVE_SHARE)
        return share / len(devices)
    is_fuller = least_bytes < free_bytes(devices[0]) * SAME_MEMORY_SHARE
    return least_bytes / GB if not asked and is_fuller else asked


def _quieten_transformers() -> None:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

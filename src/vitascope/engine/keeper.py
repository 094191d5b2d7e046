"""What residence needs of the diffusers engine: where models are, how each is placed, what it weighs, and its loading."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vitascope.domain.choice import Choice
from vitascope.domain.errors import ModelTooLarge, ModelUnavailable
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan

from . import shortage
from .activations import Extent, largest_extent, work_of
from .contract import Locate
from .device import free_bytes, free_host_bytes, measure, total_bytes
from .garbage import uncollected
from .kernel_times import KernelTimes
from .loading import LoadedModel, load_model
from .placement import VALUE_BYTES, Placement, Wishes, place
from .residence import GB
from .sizes import Sizes, components_of, read_sizes, role_of
from .torch_state import TorchState

RESERVE_SHARE, LEAST_RESERVE, MOST_RESERVE = 0.1, GB // 2, 4 * GB
"""Memory that is left free where what is free decides: for other programs, and for what an allocator cannot join."""

SHARE_READ_AHEAD = 0.5
"""Files that take more of the free main memory are not read ahead: they would drive out what is needed now."""

UNKNOWN_WORK_SHARE = 0.2
"""Memory that a model's work takes beside its weights, as a share of these, until it was measured or its card tells."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """How a model is placed, and what for."""

    spec: ModelSpec
    sizes: Sizes
    extent: Extent
    placement: Placement

    def leaves_room_for(self, extent: Extent) -> bool:
        work = work_of(self.sizes, extent, value_bytes=VALUE_BYTES[self.placement.dtype])
        return self.placement.leaves_room_for(work)


class Models:
    """How this engine's models are loaded, and what they weigh: what `Residence` needs to know of them."""

    def __init__(
        self,
        locate: Locate,
        device: torch.device,
        device_choice: Choice,
        memory_gb: float,
        wishes: Wishes,
        kernel_times: KernelTimes | None = None,
    ) -> None:
        self._locate = locate
        self._device = device
        self._device_choice = device_choice
        self._wishes = wishes
        self._kernel_times = kernel_times
        self._found: dict[str, tuple[ModelSpec, str, dict[str, str]]] = {}
        self._placements: dict[str, Placed] = {}
        #: How another device has placed models, which this one follows.
        self._told: dict[str, Placed] = {}
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
        found = self.placed(spec)
        if (told := self._told.get(spec.id)) is not None:
            is_other = found is not None and told.placement.offload != found.placement.offload
            self._placements[spec.id] = told
            return is_other
        extent = largest_extent(spec, plan)
        if found is None or found.leaves_room_for(extent):
            return False
        better = self._place(spec, found.sizes, extent, found.placement.quantization)
        if better.placement.offload == found.placement.offload:
            return False
        self._placements[spec.id] = better
        return True

    def as_settled(self, spec: ModelSpec, settled: Mapping[str, str]) -> ModelSpec:
        """Have a card say how an earlier try had its model loaded, where its pictures depend on that, it would be otherwise now, and can be done."""
        now = self.placed(spec) if settled else None
        if now is None:
            return spec
        wanted: dict[str, Any] = {
            name: settled[name]
            for name in ("dtype", "quantization")
            if name in settled and settled[name] != getattr(now.placement, name)
        }
        if not wanted:
            return spec
        other = dataclasses.replace(spec, **wanted)
        try:
            placement = self._place(other, now.sizes, now.extent).placement
        except ModelTooLarge:
            return spec
        return other if all(getattr(placement, name) == value for name, value in wanted.items()) else spec

    def load(self, spec: ModelSpec) -> LoadedModel:
        location, parts = self._where(spec)
        placed = self.placed(spec)
        if (told := self._told.get(spec.id)) is not None and told.spec == spec:
            placed = told
        elif placed is None:
            placed = self._place(spec, read_sizes(location, parts))
        else:  # what is free may have changed; what the pictures depend on stays
            placed = self._place(spec, placed.sizes, placed.extent, placed.placement.quantization)
        self._placements[spec.id] = placed
        del self._found[spec.id]  # the next time the files are looked at again
        # modules draw numbers where their weights then come
        with TorchState(0, self._device).entered(), uncollected():
            return load_model(
                spec, location, self._device, self._device_choice, parts,
                sizes=placed.sizes, placement=placed.placement, attention=self._wishes.attention,
                compiles=self._wishes.compile, channels_last=self._wishes.vae_channels_last,
                kernel_times=self._kernel_times,
            )  # fmt: skip

    def weigh(self, model: LoadedModel) -> int:
        return model.placement.device_bytes if model.placement.takes_turns else model.num_bytes

    def _placement(self, spec: ModelSpec) -> Placement | None:
        placed = self.placed(spec)
        return None if placed is None else placed.placement

    def placed(self, spec: ModelSpec) -> Placed | None:
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
    ) -> Placed:
        extent = extent or largest_extent(spec)
        machine = measure(self._device, self.budget_bytes)
        return Placed(spec, sizes, extent, place(spec, sizes, machine, self._wishes, extent, quantization))

    def place_as(self, spec: ModelSpec, placed: Placed) -> None:
        """Place a model as another device has, also where this one would have done otherwise."""
        self._told[spec.id] = placed
        if (found := self._placements.get(spec.id)) is None or found.spec != spec:
            self._placements[spec.id] = placed

    def denoisers(self, spec: ModelSpec) -> tuple[str, ...]:
        """Tell the classes of a model's denoisers.

        Raises:
            ModelUnavailable: its files are not there.
        """
        location, _ = self._where(spec)
        return tuple(kind for name, _, kind in components_of(location) if role_of(name) == "denoiser")

    def locations(self, spec: ModelSpec) -> dict[tuple[str, str], str]:
        """Tell where a model's files are, and those of its parts, by their cards' ids and sources.

        Raises:
            ModelUnavailable: they are not there.
        """
        location, parts = self._where(spec)
        found = {(part.id, part.source): parts[name] for name, part in spec.parts.items()}
        return {**found, (spec.id, spec.source): location}

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

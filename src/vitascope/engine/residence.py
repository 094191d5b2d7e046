"""Which models are loaded: several within a budget, the least recently used out first, never one that is in use.

Knows nothing of torch: what a model is, how it is loaded and what it weighs is told by the engine whose models they are.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.residency import ModelMemory, Residency

from .places import EngineBusy

Model = TypeVar("Model")

GB = 10**9


class Keeper(Protocol[Model]):
    """What residence needs of an engine."""

    @property
    def budget_bytes(self) -> int | None:
        """Bytes that models and their work may take; None where what is free decides."""
        ...

    def free_bytes(self, weights_bytes: int) -> int:
        """Measure what more models and their work may take now, beside loaded ones that weigh so much."""
        ...

    def estimate(self, spec: ModelSpec) -> int:
        """Tell what a model's weights will take; 0 if nobody knows."""
        ...

    def guess_work(self, spec: ModelSpec, weights_bytes: int) -> int:
        """Tell what a model's work may take beside weights of this size, until it was measured."""
        ...

    def load(self, spec: ModelSpec) -> Model:
        """Load a model, on the engine's thread."""
        ...

    def weigh(self, model: Model) -> int:
        """Measure what a loaded model's weights take."""
        ...

    def reclaim(self) -> None:
        """Give back the memory of models that nobody holds any more."""
        ...


@dataclass
class _Resident(Generic[Model]):
    """A loaded model."""

    spec: ModelSpec
    model: Model
    weights_bytes: int
    num_open: int = 0


@dataclass
class _Known:
    """What is remembered of a model, also after it has gone."""

    weights_bytes: int
    #: Most that work of so much took beside the weights: pixels times frames of a step.
    work_bytes: dict[int, int] = field(default_factory=dict)


class Residence(Generic[Model]):
    """The loaded models of one engine.

    Args:
        keeper: the engine.
    """

    def __init__(self, keeper: Keeper[Model]) -> None:
        self._keeper = keeper
        #: By id; the least recently used one is first.
        self._residents: dict[str, _Resident[Model]] = {}
        self._known: dict[str, _Known] = {}
        #: Bytes that are kept free for models that are being loaded beside what runs, by id.
        self._coming: dict[str, int] = {}
        self._loads = self._loads_ahead = self._hits = self._evictions = self._out_of_memory = 0
        self._load_seconds = 0.0

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the loaded models, the least recently used one first."""
        return tuple(self._residents)

    @property
    def idle_ids(self) -> tuple[str, ...]:
        """Ids of the loaded models that nothing runs of."""
        return tuple(found.spec.id for found in self._idle())

    @property
    def num_open(self) -> int:
        """Uses of all models that have not ended."""
        return sum(found.num_open for found in self._residents.values())

    @property
    def latest(self) -> Model | None:
        """The model that was used last, if it is there."""
        return self._residents[self.ids[-1]].model if self._residents else None

    def state(self) -> Residency:
        """Tell what is loaded, and the counts."""
        models = {
            name: ModelMemory(found.weights_bytes, self._measured_work(name), found.num_open)
            for name, found in self._residents.items()
        }
        return Residency(
            models,
            self._keeper.budget_bytes,
            self._loads,
            round(self._load_seconds, 3),
            self._loads_ahead,
            self._hits,
            self._evictions,
            self._out_of_memory,
        )

    @contextlib.contextmanager
    def use(self, spec: ModelSpec) -> Iterator[Model]:
        """Hold a model, which stays loaded for so long; it is loaded if it is not there.

        Raises:
            EngineBusy: it has no room beside the models that are in use.
            GenerationError: it could not be loaded.
        """
        resident = self._of(spec)
        if resident is None:
            resident = self._load(spec)
        else:
            self._hits += 1
        resident.num_open += 1
        try:
            yield resident.model
        finally:
            resident.num_open -= 1
            self._residents[spec.id] = self._residents.pop(spec.id)  # the most recent one is last

    def room_for(self, spec: ModelSpec, most: int) -> int:
        """Tell how many more generations of a model could be open, up to `most`, as far as memory goes."""
        in_use = [found for found in self._residents.values() if found.num_open]
        if not in_use:
            return most  # a single one may have everything; whether that is enough shows
        resident = self._of(spec)
        if resident is None and (other := self._residents.get(spec.id)) is not None and other.num_open:
            return 0  # a card that was changed meanwhile waits until nobody uses what it replaces
        idle_bytes = sum(found.weights_bytes for found in self._idle() if found is not resident)
        left = self._room() + idle_bytes - (0 if resident else self._weights(spec))
        return max(0, min(most, left // max(1, self._work(spec))))

    def evict(self, model_id: str) -> bool:
        """Unload a model; returns whether it was loaded.

        Raises:
            EngineBusy: it is in use.
        """
        found = self._residents.get(model_id)
        if found is None:
            return False
        if found.num_open:
            message = f"cannot unload `{model_id}`: {found.num_open} of its generations are open"
            raise EngineBusy(message)
        self._drop(found)
        return True

    def clear(self) -> None:
        """Unload everything."""
        for model_id in self.ids:
            self.evict(model_id)

    def evict_idle(self, but: str = "") -> list[str]:
        """Unload what is not in use, except one; returns what went."""
        gone = [found for found in self._idle() if found.spec.id != but]
        for found in gone:
            self._drop(found)
            self._evictions += 1
        return [found.spec.id for found in gone]

    def learn_work(self, spec: ModelSpec, work: int, num_bytes: int) -> None:
        """Note what work of so many pixels and frames took beside the weights."""
        if spec.id in self._known:
            seen = self._known[spec.id].work_bytes
            seen[work] = max(seen.get(work, 0), num_bytes)

    def note_out_of_memory(self) -> None:
        """Count a generation or a load that failed so."""
        self._out_of_memory += 1

    def reserve(self, spec: ModelSpec) -> bool:
        """Keep room for a model that is about to be loaded beside what runs; returns whether there is enough.

        What is not in use may go for it. `bring_ahead` or `give_up` ends it.
        """
        if spec.id in self._residents or spec.id in self._coming:
            return False
        need = self._weights(spec)
        if need > self._room() + sum(found.weights_bytes for found in self._idle()):
            return False
        self._evict_until(need)
        if need > self._room():
            return False
        self._coming[spec.id] = need
        return True

    def bring_ahead(self, spec: ModelSpec) -> None:
        """Load a model for which there is room; raises what `use` raises, and then keeps none.

        One that has come meanwhile, by whoever could not wait, stays.
        """
        try:
            if spec.id not in self._residents:
                self._add(spec)
                self._loads_ahead += 1
        finally:
            self._coming.pop(spec.id, None)

    def give_up(self, spec: ModelSpec) -> None:
        """Keep no room for a model any more."""
        self._coming.pop(spec.id, None)

    def bring(self, spec: ModelSpec) -> None:
        """Load a model if it is not there; raises what `use` raises."""
        if self._of(spec) is None:
            self._load(spec)

    def _load(self, spec: ModelSpec) -> _Resident[Model]:
        self.evict(spec.id)  # of another card
        self._make_room(spec)
        return self._add(spec)

    def _add(self, spec: ModelSpec) -> _Resident[Model]:
        started_at = time.monotonic()
        model = self._keeper.load(spec)
        self._load_seconds += time.monotonic() - started_at
        self._loads += 1
        if (found := self._of(spec)) is not None:
            return found  # another thread was first, and what it brought may be in use
        resident = _Resident(spec, model, self._keeper.weigh(model))
        known = self._known.setdefault(spec.id, _Known(resident.weights_bytes))
        known.weights_bytes = resident.weights_bytes
        self._residents[spec.id] = resident
        return resident

    def _make_room(self, spec: ModelSpec) -> None:
        """Unload what was not used for longest, until the model and its work fit or nothing more can go."""
        need = self._weights(spec) + self._work(spec)
        self._evict_until(need)
        in_use = [name for name, found in self._residents.items() if found.num_open]
        if in_use and need > self._room():
            names = ", ".join(f"`{name}`" for name in in_use)
            raise EngineBusy(f"cannot load model `{spec.id}`: it does not fit beside {names}")

    def _evict_until(self, need: int) -> None:
        """Unload what is not in use, the least recently used first, until so many bytes are free or nothing more can go."""
        while need > self._room() and (idle := self._idle()):
            self._drop(idle[0])
            self._evictions += 1

    def _drop(self, resident: _Resident[Model]) -> None:
        del self._residents[resident.spec.id]
        del resident.model
        self._keeper.reclaim()

    def _of(self, spec: ModelSpec) -> _Resident[Model] | None:
        found = self._residents.get(spec.id)
        return found if found is not None and found.spec == spec else None

    def _idle(self) -> list[_Resident[Model]]:
        return [found for found in self._residents.values() if not found.num_open]

    def _room(self) -> int:
        """Bytes for another model and its work, beside what is loaded and what the open generations may come to need."""
        weights = sum(found.weights_bytes for found in self._residents.values())
        weights += sum(self._coming.values())
        work = sum(found.num_open * self._work(found.spec) for found in self._residents.values())
        budget = self._keeper.budget_bytes
        return (self._keeper.free_bytes(weights) if budget is None else budget - weights) - work

    def _weights(self, spec: ModelSpec) -> int:
        known = self._known.get(spec.id)
        return self._keeper.estimate(spec) if known is None else known.weights_bytes

    def _work(self, spec: ModelSpec) -> int:
        measured = self._measured_work(spec.id)
        if measured is not None:
            return measured
        return self._keeper.guess_work(spec, self._weights(spec))

    def _measured_work(self, model_id: str) -> int | None:
        known = self._known.get(model_id)
        return max(known.work_bytes.values(), default=None) if known is not None else None

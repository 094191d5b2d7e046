"""What an engine has in memory, and what became of it: told by workers, shown to operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What a loaded model takes."""

    #: Of its weights.
    weights_bytes: int
    #: Most that its work has taken beside them so far; None before that was measured.
    work_bytes: int | None = None
    #: Generations that are open.
    num_open: int = 0


@dataclass(frozen=True, slots=True)
class Residency:
    """The models that an engine has loaded, and counts since it was started."""

    #: By id, the one that goes first where room is needed at the beginning.
    models: Mapping[str, ModelMemory] = field(default_factory=dict)
    #: Memory that models and their work may take; None where it is measured each time.
    budget_bytes: int | None = None
    loads: int = 0
    #: Seconds of all loads.
    load_seconds: float = 0.0
    #: How many of the loads were done while something else ran.
    loads_ahead: int = 0
    #: Generations whose model was there already.
    hits: int = 0
    #: Models that went because another needed the room.
    evictions: int = 0
    #: Generations and loads that failed because the memory was not enough.
    out_of_memory: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Make it JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Residency:
        """Read what `to_dict` made; what an older version did not tell is as if nothing was loaded."""
        known = {name: values[name] for name in Residency.__dataclass_fields__ if name in values}
        models = {name: ModelMemory(**memory) for name, memory in known.pop("models", {}).items()}
        return Residency(models=models, **known)

"""The models that a device has in its memory."""

from __future__ import annotations

import math
from collections.abc import Collection

from .trace import MODELS


class Residents:
    """Who was used least recently goes where another one needs the room, if nothing of it is open.

    Args:
        memory_gigabytes: for weights.
    """

    def __init__(self, memory_gigabytes: float) -> None:
        self._free = memory_gigabytes
        #: By when each is there, the least recently used first.
        self._there_at: dict[str, float] = {}
        self._loaded: frozenset[str] = frozenset()
        #: Until when `_loaded` is what is loaded.
        self._loaded_until = 0.0
        self.num_loads = 0

    @property
    def has_all(self) -> bool:
        return len(self._there_at) == len(MODELS)

    def loaded(self, now: float) -> frozenset[str]:
        if now >= self._loaded_until:
            self._loaded = frozenset(name for name, at in self._there_at.items() if at <= now)
            self._loaded_until = min((at for at in self._there_at.values() if at > now), default=math.inf)
        return self._loaded

    def is_coming(self, now: float) -> bool:
        """Whether one is loaded just now."""
        return any(at > now for at in self._there_at.values())

    def bring(self, name: str, now: float, in_use: Collection[str] = ()) -> float | None:
        """Have a model loaded; returns the seconds until it is there, None if there is no room for it.

        Args:
            name: of the model.
            now: the instant.
            in_use: models that have to stay.
        """
        if name in self._there_at:
            at = self._there_at[name] = self._there_at.pop(name)
            return max(0.0, at - now)
        model = MODELS[name]
        going = []
        free = self._free
        for other in self._there_at:
            if free >= model.gigabytes:
                break
            if other not in in_use:
                going.append(other)
                free += MODELS[other].gigabytes
        if free < model.gigabytes:
            return None
        for other in going:
            del self._there_at[other]
        self._free = free - model.gigabytes
        self._there_at[name] = now + model.load_seconds
        self._loaded_until = now
        self.num_loads += 1
        return model.load_seconds

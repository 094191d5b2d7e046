"""What was added while the server runs, as a process knows it: looked up now and then, or told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from vitascope.domain.added import AddedModel, ModelKind
from vitascope.domain.errors import StoreUnavailable
from vitascope.domain.model_spec import ModelSpec

from . import added

logger = logging.getLogger(__name__)

FRESH_SECONDS = 0.5
"""How long a look is good for. Only names that no card has cost one."""


class Added:
    """The newest of it. Safe to use from several threads."""

    def __init__(self) -> None:
        self._load: Callable[[], Sequence[AddedModel]] | None = None
        self._lock = threading.Lock()
        self._good_until = float("-inf")
        self.models: Sequence[AddedModel] = ()
        #: Pipelines that requests may name, and autoencoders that they may have.
        self.specs: Mapping[str, ModelSpec] = {}
        self.vaes: Mapping[str, AddedModel] = {}

    def watch(self, load: Callable[[], Sequence[AddedModel]]) -> None:
        """Look with `load` from now on."""
        self._load = load
        self.look_soon()

    def look_soon(self) -> None:
        """Look at the next question."""
        self._good_until = float("-inf")

    def refresh(self) -> None:
        """Look, if the last look is too old; where the store does not answer, what was known stays."""
        if self._load is None or time.monotonic() < self._good_until:
            return
        with self._lock:
            if time.monotonic() < self._good_until:
                return
            self._good_until = time.monotonic() + FRESH_SECONDS
            try:
                self.take(self._load())
            except StoreUnavailable as error:
                logger.warning("models that were added are not known: %s", error.message)

    def take(self, models: Sequence[AddedModel]) -> None:
        """Know this and nothing else."""
        if models == self.models:
            return
        ready = [model for model in models if model.card is not None]
        specs = {model.id: added.spec_of(model) for model in ready if model.kind is ModelKind.PIPELINE}
        self.specs = {name: spec for name, spec in specs.items() if spec is not None}
        self.vaes = {model.id: model for model in ready if model.kind is ModelKind.VAE}
        self.models = models

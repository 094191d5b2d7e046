"""Looking ahead while the engine makes jobs: the next job's model, and models that operators want loaded, come meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from vitascope.domain.command import Errand
from vitascope.domain.errors import ModelUnavailable, StoreUnavailable
from vitascope.store import Store

from .errands import Errands
from .messages import Message
from .shared_engine import SharedEngine

LOOK_SECONDS = 2.0
"""So often the queue is looked at. A look is one read; most models take longer to load than this is late."""


class Ahead:
    """What an engine does beside the jobs that it makes.

    Args:
        store: where the queue is.
        errands: of the worker.
        engine: what makes the jobs.
    """

    def __init__(self, store: Store, errands: Errands, engine: SharedEngine) -> None:
        self._store = store
        self._errands = errands
        self.engine = engine
        self._looked_at = time.monotonic()
        #: What the engine was asked to have ready.
        self._asked: str | None = None
        #: What an operator waits for, and what the engine has said of it.
        self._errand: Errand | None = None
        self._answer: Message | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether an operator waits for what may only come once the jobs have ended."""
        return self._errand is not None

    def look(self) -> None:
        """If it is time, have the engine load what will be needed; one that is dead is asked for nothing more."""
        if time.monotonic() - self._looked_at < LOOK_SECONDS or not (self.engine.is_alive or self.is_waiting):
            return
        self._looked_at = time.monotonic()
        with contextlib.suppress(StoreUnavailable):  # nothing depends on it
            self._look_at_errands()
            self._look_at_jobs(self.engine.device, self.engine.loaded)

    def heard(self, message: Message) -> None:
        """Take what the engine says of an errand."""
        if self._errand is not None and message["errand"] == self._errand.number:
            self._answer = message
            with contextlib.suppress(StoreUnavailable):
                self._write_down()

    def settle(self, wait: Callable[[SharedEngine, Errand], str]) -> None:
        """Once the jobs have ended, see to it that the errand ends.

        Args:
            wait: waits for the engine's answer.
        """
        errand, answer = self._errand, self._answer
        if errand is not None:
            self._errands.end(
                errand, lambda: wait(self.engine, errand) if answer is None else result_of(answer)
            )
            self._errand = None

    def _look_at_errands(self) -> None:
        if self._answer is not None:
            self._write_down()
        if self._errand is None and (errand := self._errands.next_load()) is not None:
            self._errand = errand
            self.engine.send({"do": "load", "errand": errand.number, "model": errand.model})

    def _look_at_jobs(self, device: str, loaded: frozenset[str]) -> None:
        model = self._store.next_model(device=device, warm_models=loaded)
        if model is not None and model not in loaded and model != self._asked:
            self._asked = model
            self.engine.send({"do": "prepare", "model": model})

    def _write_down(self) -> None:
        """Raises StoreUnavailable: a job is being made, so that it is tried again later."""
        assert self._errand is not None
        assert self._answer is not None
        failed = self._answer["problem"] is not None
        self._store.end_errand(self._errand.number, self._answer["message"], failed=failed)
        self._errand = self._answer = None


def result_of(answer: Message) -> str:
    """Read what an engine says of an errand.

    Raises:
        ModelUnavailable: it was not done.
    """
    if answer["problem"] is not None:
        raise ModelUnavailable(answer["message"])
    return str(answer["message"])

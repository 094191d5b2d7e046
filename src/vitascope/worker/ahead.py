"""Looking ahead while the engine makes a job: the next job's model, and models that operators want loaded, come meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from vitascope.domain.command import Errand
from vitascope.domain.errors import ModelUnavailable, StoreUnavailable
from vitascope.store import Store

from .engine_process import AnyEngine
from .errands import Errands
from .messages import Message

LOOK_SECONDS = 2.0
"""So often the queue is looked at. A look is one read; most models take longer to load than this is late."""


class Ahead:
    """What one job's engine does beside it.

    Args:
        store: where the queue is.
        errands: of the worker.
        engine: what makes the job.
    """

    def __init__(self, store: Store, errands: Errands, engine: AnyEngine) -> None:
        self._store = store
        self._errands = errands
        self._engine = engine
        self._looked_at = time.monotonic()
        #: What the engine was asked to have ready.
        self._asked: str | None = None
        #: What an operator waits for, and what the engine has said of it.
        self._errand: Errand | None = None
        self._answer: Message | None = None

    def look(self, device: str, loaded: frozenset[str]) -> None:
        """If it is time, have the engine load what will be needed; called whenever the engine has made a step.

        Args:
            device: the engine's kind of device.
            loaded: models that it has loaded.
        """
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        with contextlib.suppress(StoreUnavailable):  # nothing depends on it
            self._look_at_errands()
            self._look_at_jobs(device, loaded)

    def heard(self, message: Message) -> None:
        """Take what the engine says of an errand."""
        if self._errand is not None and message["errand"] == self._errand.number:
            self._answer = message
            with contextlib.suppress(StoreUnavailable):
                self._write_down()

    def settle(self, wait: Callable[[AnyEngine, Errand], str]) -> None:
        """Once the job has ended, see to it that the errand ends.

        Args:
            wait: waits for the engine's answer.
        """
        errand, answer = self._errand, self._answer
        if errand is not None:
            self._errands.end(
                errand, lambda: wait(self._engine, errand) if answer is None else result_of(answer)
            )
            self._errand = None

    def _look_at_errands(self) -> None:
        if self._answer is not None:
            self._write_down()
        if self._errand is None and (errand := self._errands.next_load()) is not None:
            self._errand = errand
            self._engine.send({"do": "load", "errand": errand.number, "model": errand.model})

    def _look_at_jobs(self, device: str, loaded: frozenset[str]) -> None:
        model = self._store.next_model(device=device, warm_models=loaded)
        if model is not None and model not in loaded and model != self._asked:
            self._asked = model
            self._engine.send({"do": "prepare", "model": model})

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

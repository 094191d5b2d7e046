"""What a worker does for operators, beside jobs: files of models in a thread, the rest through the engine between jobs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from vitascope import catalog
from vitascope.catalog import Progress, Report
from vitascope.domain.added import AddedModel, ModelKind
from vitascope.domain.command import DELETED, WITH_FILES, CommandKind, Errand
from vitascope.domain.errors import ModelUnavailable, StoreUnavailable, VitascopeError
from vitascope.domain.model_spec import ModelSpec
from vitascope.store import Store

logger = logging.getLogger(__name__)

CHANGES_FILES = frozenset({CommandKind.PULL, CommandKind.REMOVE, CommandKind.ADD})

REPORT_SECONDS = 0.5
"""Progress is written at most so often."""

BETWEEN_JOBS = frozenset(CommandKind) - WITH_FILES

NEEDS_ENGINE = BETWEEN_JOBS - {CommandKind.LOAD, CommandKind.RESTART_WORKER}

_WORDS = {
    "waiting": "another process downloads the same: waiting for it",
    "listing": "asking the hub what there is",
    "downloading": "downloading",
    "checking": "comparing checksums",
}


class Models(Protocol):
    """What is needed of the catalog."""

    def resolve(self, name: str | None) -> ModelSpec: ...

    def all(self) -> list[ModelSpec]: ...

    def available(self) -> frozenset[str]: ...

    def look_soon(self) -> None: ...

    def fetch(self, model: AddedModel, report: Report) -> dict[str, Any]: ...

    def remove_added(self, model: AddedModel) -> str: ...


class _GivenUp(Exception):
    """The worker stops, or the store says that nobody waits for this any more."""


class Errands:
    """The errands of one worker.

    Args:
        store: where they come from, and where it is written what came of them.
        models: the catalog.
        worker_id: whose they are.
        silence_seconds: other workers that were silent for so long have stopped; what they were told fails.
        on_files: called when files of models have come or gone.
    """

    def __init__(
        self,
        store: Store,
        models: Models,
        worker_id: str,
        silence_seconds: float,
        on_files: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_files = on_files
        self._store = store
        self._models = models
        self._worker_id = worker_id
        self._silence_seconds = silence_seconds
        self._thread: threading.Thread | None = None
        self._is_stopping = False

    def tidy(self) -> None:
        """Called a few times in the length of a lease, also while a job runs: begin with files, fail what others left."""
        self._store.sweep_commands(self._silence_seconds)
        self.begin()

    def begin(self) -> None:
        """Begin with the next errand that is about files, unless one is being done."""
        if self._thread is not None and self._thread.is_alive():
            return
        errand = self._store.take_errand(self._worker_id, WITH_FILES)
        if errand is not None:
            self._thread = threading.Thread(target=self._do, args=(errand,), name="errand", daemon=True)
            self._thread.start()

    def next_between_jobs(self) -> Errand | None:
        """Take the next errand that the caller does: with the engine, or by its own end."""
        return self._store.take_errand(self._worker_id, BETWEEN_JOBS)

    def next_waiting_for_jobs(self) -> Errand | None:
        """Take the next one that needs the engine for itself, while jobs are made: the caller does it once they have ended."""
        return self._store.take_errand(self._worker_id, NEEDS_ENGINE)

    def next_load(self) -> Errand | None:
        """Take the next wish that a model be loaded: the engine does it beside a job."""
        return self._store.take_errand(self._worker_id, {CommandKind.LOAD})

    def next_restart(self) -> Errand | None:
        """Take the wish that the worker process be started anew."""
        return self._store.take_errand(self._worker_id, {CommandKind.RESTART_WORKER})

    def stop(self) -> None:
        """Let a download stop where it is; it goes on from there when it is asked for again."""
        self._is_stopping = True

    def end(self, errand: Errand, work: Callable[[], str]) -> None:
        """Do the work of an errand and write down what came of it."""
        extra = {"command": errand.kind.value, "model": errand.model}
        try:
            message, failed = work(), False
        except VitascopeError as error:
            message, failed = _sentence(error, errand.kind), True
        except _GivenUp:
            return
        except Exception:
            logger.exception("command failed", extra=extra)
            message, failed = "An unexpected error occurred; the worker's log says more.", True
        logger.info("command failed" if failed else "command done", extra={**extra, "result": message})
        if errand.kind in CHANGES_FILES:
            self._on_files()
        self._insist(lambda: self._store.end_errand(errand.number, message, failed=failed))

    def _insist(self, write: Callable[[], None]) -> None:
        while not self._is_stopping:
            try:
                return write()
            except StoreUnavailable:
                time.sleep(1.0)
        return None

    def _do(self, errand: Errand) -> None:
        self.end(errand, lambda: self._with_files(errand))

    def _with_files(self, errand: Errand) -> str:
        report = _Reporter(self._store, errand, lambda: self._is_stopping)
        if errand.kind is CommandKind.ADD:
            return self._add(errand, report)
        spec = self._models.resolve(errand.model)
        if errand.kind is CommandKind.PULL:
            made = catalog.pull(spec, report, repair=errand.options.get("repair", False))
            of_revision = f", of revision {made.commit}" if made.commit else ""  # adapters alone have none
            return f"{len(made.files)} files, {made.num_bytes / 1e9:.2f} GB{of_revision}"
        problems = catalog.verify(spec, report)
        if problems:
            raise catalog.damaged(spec, problems)
        return "every file is as it was"

    def _add(self, errand: Errand, report: Report) -> str:
        """Fetch an added model's files, note what it is, and have a pipeline loaded next."""
        model = self._store.added_model(errand.model)
        if model is None or model.deleted_at is not None:
            raise ModelUnavailable("the model was deleted meanwhile")
        card = self._models.fetch(model, report)
        self._store.model_came(model.id, card)
        self._models.look_soon()
        if model.kind is ModelKind.PIPELINE:
            self._store.go_on_with(errand.number, "its files are here", CommandKind.LOAD)
        return "its files are here"

    def remove(self, errand: Errand) -> str:
        """Remove a model's files; those that are not there are none to remove."""
        if errand.options.get(DELETED):
            model = self._store.added_model(errand.model)
            if model is None or model.deleted_at is None:
                return "it was added anew meanwhile, and stays"
            self._models.look_soon()
            return self._models.remove_added(model)
        spec = self._models.resolve(errand.model)
        try:
            freed = catalog.remove(spec)
        except ModelUnavailable:  # of several workers some may never have had it
            return "nothing of it was on this machine"
        return f"{freed / 1e9:.2f} GB are free again"


def _sentence(error: VitascopeError, kind: CommandKind) -> str:
    """Join message and hint; where the message may go to a webhook's receiver, no hint that may hold a path."""
    is_shown = error.hint and (kind is not CommandKind.ADD or "/" not in error.hint)
    return f"{error.message}; {error.hint}" if is_shown else error.message


class _Reporter:
    """Writes progress to the store, seldom enough."""

    def __init__(self, store: Store, errand: Errand, is_stopping: Callable[[], bool]) -> None:
        self._store = store
        self._errand = errand
        self._is_stopping = is_stopping
        self._stage = ""
        self._report_at = 0.0

    def __call__(self, progress: Progress) -> None:
        if self._is_stopping():
            raise _GivenUp
        now = time.monotonic()
        if progress.stage == self._stage and now < self._report_at:
            return
        self._stage, self._report_at = progress.stage, now + REPORT_SECONDS
        words = _WORDS.get(progress.stage, progress.stage)
        message = f"{words} {progress.file}".rstrip()
        try:
            goes_on = self._store.report_errand(
                self._errand.number, message, progress.num_bytes, progress.total_bytes
            )
        except StoreUnavailable:
            return  # the download need not wait for it
        if not goes_on:
            raise _GivenUp

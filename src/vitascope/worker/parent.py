"""The worker: claims jobs and has a lane for each, over one engine process. Imports no torch.

The worker's own thread claims, tidies up, sweeps and does what operators want; it waits for no job. What needs the engine for
itself waits until the lanes are empty, and nothing is claimed meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import queue
import time
from collections.abc import Callable

from vitascope.domain.added import WITH_VAE
from vitascope.domain.beside import Beside
from vitascope.domain.command import SILENCE_LEASES, CommandKind, Errand
from vitascope.domain.errors import InternalError, ModelInUse, StoreUnavailable
from vitascope.domain.job import Lease
from vitascope.storage import Space
from vitascope.store import Store

from .ahead import Ahead, result_of
from .available import Available
from .engine_process import AnyEngine
from .errands import Errands, Models
from .heartbeat import STORE_RETRY_SECONDS
from .lane import Lane
from .messages import Message
from .patience import StepTimes
from .shared_engine import SharedEngine
from .sweep import Sweep, SweepElsewhere
from .waker import Waker
from .workplace import Files, WorkerConfig, Workplace, work_folder

__all__ = ["Files", "Worker", "WorkerConfig"]

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.1
"""One that waits for the engine's answer looks so often whether it shall stop."""

SWEEP_SECONDS = 10.0
"""A busy worker looks at some files so often; an idle one at any time."""

LOOK_SECONDS = 2.0
"""A busy worker asks so often for what operators want that needs the engine for itself."""

BESIDE_SECONDS = 0.25
"""And whether a job is worth to be begun beside those that need the device: a look at the queue costs some milliseconds."""

SHARE_SECONDS = 120.0
"""Jobs that share forwards may come one after the other without end: after so long only in turn, so that others get the device too."""

MAX_SUSPECTS = 1000
"""Jobs of which it is remembered that they are to be made alone."""


class Worker:
    """Works until `stop()` is called, then finishes or hands back what it has.

    Args:
        store: where jobs are.
        files: where finished videos go and inputs are.
        start_engine: starts an engine process.
        config: limits and folders.
        models: the catalog, for what operators want done with models.
    """

    #: URL of the server that makes the jobs; None where they are made here.
    peer: str | None = None
    #: Whether a job whose engine died is to blame for that.
    counts_attempts = True
    #: Whether several jobs may be made at a time.
    makes_several = True

    def __init__(
        self,
        store: Store,
        files: Files,
        start_engine: Callable[[], AnyEngine],
        config: WorkerConfig,
        models: Models,
    ) -> None:
        self._store = store
        self._start_engine = start_engine
        self._config = config
        self._place = Workplace(store, files, config)
        self._lanes: list[Lane] = []
        #: Jobs that were open in an engine that died, or did not find room beside others: they are made alone.
        self._suspects: dict[str, None] = {}
        self._engine: SharedEngine | None = None
        self._ahead: Ahead | None = None
        #: What the store was told of the engine.
        self._told: tuple[str, frozenset[str]] = ("", frozenset())
        self._available = Available(models.available)
        self._sweep = Sweep(store, files)
        self._sweep_elsewhere = SweepElsewhere(store, files)
        self._space = Space((config.work_folder,), config.min_free_bytes)
        self._errands = Errands(
            store, models, config.worker_id, SILENCE_LEASES * config.lease_seconds, self._files_changed
        )
        #: What waits for the lanes to be empty.
        self._errand: Errand | None = None
        #: What an operator waits for: that another process takes this one's place.
        self._restart: Errand | None = None
        self._is_told_to_stop = False
        #: When a job was begun on a device that nobody else needed.
        self._alone_at = time.monotonic()
        self._tidied_at = self._swept_at = self._looked_at = self._asked_at = float("-inf")
        self._waker = Waker()
        self._job_news = store.watch_jobs()

    def stop(self, *, at_once: bool = False) -> None:
        """Claim nothing more; running jobs have `drain_seconds` left, or none. Safe to call from a signal handler."""
        # nothing with a lock: the signal may have come while this very thread held it
        self._is_told_to_stop = True
        self._place.stop(0.0 if at_once else self._config.drain_seconds)
        self._waker.wake()

    @property
    def shall_restart(self) -> bool:
        """Whether an operator wants another process in this one's place, once it has stopped; not if it was told to stop meanwhile."""
        return self._restart is not None and not self._is_told_to_stop

    @property
    def _device(self) -> str:
        """Kind of the engine's device; empty until it has told."""
        return "" if self._engine is None else self._engine.device

    @property
    def _warm_models(self) -> frozenset[str]:
        return frozenset() if self._engine is None else self._engine.loaded

    def run(self) -> None:
        """Claim and run jobs until stopped.

        Raises:
            SettingsError: the engine cannot work with these settings on this machine.
        """
        with work_folder(self._config.work_folder):
            self._work()

    def _work(self) -> None:
        try:
            while not self._place.is_stopping or self._lanes:
                try:
                    self._work_once()
                except StoreUnavailable as error:
                    logger.warning("store unavailable: %s", error.message)
                    self._pause(STORE_RETRY_SECONDS)
        finally:
            self._errands.stop()
            self._end_lanes()
            self._job_news.close()
            with contextlib.suppress(StoreUnavailable):
                if self._restart is not None:
                    message = f"process {os.getpid()} of the worker has ended, and another is started"
                    self._store.end_errand(self._restart.number, message)
                self._store.worker_stopped(self._config.worker_id)

    def _end_lanes(self) -> None:
        """End the engine; jobs that run yet, because this thread has met something unforeseen, go back to the queue."""
        if self._lanes:
            self._place.stop(0.0)
        self._drop_engine()
        for lane in self._lanes:
            lane.join()

    def _pause(self, seconds: float) -> None:
        """Wait, but not for much longer than until something happens or the worker is told to stop."""
        until = time.monotonic() + seconds
        was_stopping = self._place.is_stopping
        while self._place.is_stopping == was_stopping and (left := until - time.monotonic()) > 0:
            if self._job_news.has_come():
                return
            if self._waker.wait(min(left, self._job_news.look_seconds), self._job_news.fileno()):
                return

    def _work_once(self) -> None:
        """Begin with the next job or errand, or wait a moment for one.

        Raises:
            SettingsError: the engine cannot work with these settings on this machine.
        """
        if self._engine is not None and self._engine.refusal is not None:
            raise self._engine.refusal
        self._collect_lanes()
        self._tidy()
        self._hear_engine()
        if self._lanes:
            self._work_beside()
        else:
            self._work_idle()

    def _work_idle(self) -> None:
        if self._ahead is not None:
            self._ahead.settle(self._await_answer)
            self._ahead = None
        if self._place.is_stopping:
            return
        self._ready_engine()
        self._errands.begin()
        errand, self._errand = self._errand or self._errands.next_between_jobs(), None
        if errand is not None:
            if errand.kind is CommandKind.RESTART_WORKER:
                self._begin_restart(errand)
            else:
                self._errands.end(errand, lambda: self._obey(errand))
            return
        self._sweep_if_due()  # before the claim: a slow storage must not hold a job
        if not self._begin_next(self._claim):
            if time.monotonic() - self._swept_at >= self._config.poll_seconds:
                self._sweep_some()
            self._pause(self._config.poll_seconds)

    def _work_beside(self) -> None:
        """Do what can be done while jobs are made."""
        if self._ahead is not None:
            self._ahead.look()
        if not self._place.is_stopping:
            if self._errand is None and time.monotonic() - self._looked_at >= LOOK_SECONDS:
                self._looked_at = time.monotonic()
                self._errand = self._errands.next_waiting_for_jobs()
            if self._may_begin_beside() and self._begin_next(self._claim_beside):
                return
        self._sweep_if_due()
        self._pause(self._config.poll_seconds)

    def _may_begin_beside(self) -> bool:
        """Whether there is place for another lane, and nobody waits for the lanes to be empty or is to be made alone."""
        is_waited = self._errand is not None or self._ahead is None or self._ahead.is_waiting
        is_any_alone = any(lane.is_alone and not lane.is_made for lane in self._lanes)
        at_device = sum(lane.needs_device for lane in self._lanes)
        is_full = at_device >= self._config.slots or len(self._lanes) >= 2 * self._config.slots
        return self.makes_several and not (is_waited or is_any_alone or is_full)

    def _claim_beside(self) -> Lease | None:
        """Take the next job if nobody needs the device any more, else one that is worth to be begun beside those who do."""
        at_device = [lane for lane in self._lanes if lane.needs_device]
        if not at_device:
            return self._claim()
        is_known = self._engine is not None and all(lane.is_begun for lane in at_device)
        if not is_known or time.monotonic() - self._asked_at < BESIDE_SECONDS:
            return None
        self._asked_at = time.monotonic()
        assert self._engine is not None
        beside = Beside(
            running=tuple(lane.candidate for lane in at_device),
            models=frozenset(model for model, room in self._engine.room.items() if room > 0),
            shared=frozenset(shared for lane in at_device if (shared := lane.shared) is not None),
            without=frozenset(self._suspects),
            shares_in_turn=time.monotonic() - self._alone_at >= SHARE_SECONDS,
        )
        job_id = self._store.next_beside(beside, device=self._device) if beside.models else None
        return None if job_id is None else self._claim(job_id)

    def _begin_next(self, claim: Callable[[], Lease | None]) -> bool:
        """Claim the next job and have it made; returns whether there was one."""
        asked_at = time.monotonic()
        lease = None if self._space.is_low else claim()
        if lease is None:
            return False
        engine = self._ready_engine()
        if self._ahead is None or self._ahead.engine is not engine:
            self._ahead = Ahead(self._store, self._errands, engine)
        if not any(lane.needs_device for lane in self._lanes):
            self._alone_at = time.monotonic()
        lane = Lane(
            self._place,
            lease,
            asked_at,
            engine,
            is_alone=lease.job.attempt > 1 or lease.job.id in self._suspects,
            counts_attempts=self.counts_attempts,
            more=self._more_of_order(lease),
            on_suspect=lambda: self._suspect(lease.job.id),
            on_end=self._waker.wake,
        )
        self._lanes.append(lane)
        lane.start()
        return True

    def _claim(self, job_id: str | None = None) -> Lease | None:
        """Take the job whose turn it is, or that one."""
        return self._store.claim(
            self._config.worker_id,
            self._config.lease_seconds,
            device=self._device,
            warm_models=self._warm_models,
            job_id=job_id,
        )

    def _more_of_order(self, lease: Lease) -> Message:
        """What the engine is told beside the plan: what decides whose turn it is there."""
        return {"priority": lease.job.request.priority, "seconds": lease.expected_seconds}

    def _collect_lanes(self) -> None:
        """Take leave of lanes that have ended.

        Raises:
            BaseException: what one of them has met that nobody foresaw. The worker ends, as nothing is known of what is left.
        """
        ended = [lane for lane in self._lanes if not lane.is_alive()]
        self._lanes = [lane for lane in self._lanes if lane not in ended]
        for lane in ended:
            job_id = lane.lease.job.id
            if lane.is_alone and lane.returned is None:
                self._suspects.pop(job_id, None)
            if lane.returned is not None:
                self._came_back(job_id, for_now=lane.returned)
            if lane.error is not None:
                raise lane.error

    def _suspect(self, job_id: str) -> None:
        """Remember to make a job alone; called before it is in the queue again."""
        self._suspects[job_id] = None
        while len(self._suspects) > MAX_SUSPECTS:
            self._suspects.pop(next(iter(self._suspects)))

    def _came_back(self, job_id: str, *, for_now: bool) -> None:
        """Note that a job went back to the queue."""

    def _files_changed(self) -> None:
        self._available.look_soon()
        self._tidied_at = float("-inf")  # let the store know soon

    def _sweep_if_due(self) -> None:
        if time.monotonic() - self._swept_at > SWEEP_SECONDS:
            self._sweep_some()

    def _sweep_some(self) -> None:
        self._swept_at = time.monotonic()
        self._sweep.advance()
        self._sweep_elsewhere.begin()

    def _tidy(self) -> None:
        """A few times in the length of a lease, and when the engine has changed: be seen, and queue what dead workers held again."""
        engine = self._engine
        now = (self._device, self._warm_models)
        is_due = time.monotonic() - self._tidied_at >= self._config.lease_seconds / 3
        if not is_due and now == self._told:
            return
        self._tidied_at = time.monotonic()
        available = self._available.news()
        if engine is not None and engine.device:
            told = (*now, engine.residency)
            self._store.worker_seen(self._config.worker_id, *told, available=available, peer=self.peer)
        else:
            self._store.worker_seen(self._config.worker_id, available=available, peer=self.peer)
        self._told = now
        self._available.was_told(available)
        own = [lane.lease.job.id for lane in self._lanes]
        self._place.forget(self._store.requeue_lapsed(self._config.max_attempts, without=own).unneeded)
        self._store.prune()
        self._errands.tidy()
        if not self._place.is_stopping and (restart := self._errands.next_restart()) is not None:
            self._begin_restart(restart)

    def _begin_restart(self, errand: Errand) -> None:
        """Stop as when a signal says so: running jobs have `drain_seconds` left, then they are handed back."""
        logger.info("the worker is to be started anew", extra={"pid": os.getpid()})
        self._restart = errand
        self._place.stop(self._config.drain_seconds)

    def _ready_engine(self) -> SharedEngine:
        """Return the engine process; starts one if there is none, or if it died.

        Called by the worker's own thread only: on Linux a process that is to die with its parent dies with the thread that started it.
        """
        if self._engine is not None and not self._engine.is_alive:
            self._drop_engine()
        if self._engine is None:
            self._place.step_times = StepTimes()
            self._engine = SharedEngine(self._start_engine(), self._config.hang_seconds, self._waker.wake)
            logger.info("engine started", extra={"pid": self._engine.pid})
        return self._engine

    def _hear_engine(self) -> None:
        """Take what the engine says of errands that it does beside jobs."""
        if self._ahead is not None:
            with contextlib.suppress(queue.Empty):
                while True:
                    self._ahead.heard(self._ahead.engine.answers.get_nowait())

    def _obey(self, errand: Errand) -> str:
        """Do what an operator wants, with the engine; returns how it went.

        Raises:
            VitascopeError: it was not done.
        """
        if errand.kind is CommandKind.RESTART:
            self._drop_engine()
            return f"the engine process was started anew as {self._ready_engine().pid}"
        if errand.kind is not CommandKind.REMOVE:
            return self._have_engine_obey(errand.kind, errand)
        # with another autoencoder it is loaded under another name
        loaded = [name for name in self._warm_models if errand.model in name.split(WITH_VAE)]
        if loaded and not errand.options.get("force", False):
            raise ModelInUse
        for name in loaded:
            self._have_engine_obey(CommandKind.UNLOAD, dataclasses.replace(errand, model=name))
        return self._errands.remove(errand)

    def _have_engine_obey(self, kind: CommandKind, errand: Errand) -> str:
        engine = self._ready_engine()
        order = {"do": kind.value, "errand": errand.number, "model": errand.model}
        engine.send({**order, "models": errand.options.get("models", False)})
        return self._await_answer(engine, errand)

    def _await_answer(self, engine: SharedEngine, errand: Errand) -> str:
        if engine is not self._engine:
            raise InternalError("The engine process ended before it was done.")
        while engine.silent_seconds < self._config.hang_seconds and not self._place.is_time_over:
            with contextlib.suppress(queue.Empty):
                answer = engine.answers.get(timeout=PAUSE_SECONDS)
                if answer["errand"] == errand.number:
                    with contextlib.suppress(StoreUnavailable):
                        self._tidy()  # who waits for this shall find it so
                    return result_of(answer)
            if not engine.is_alive:
                self._drop_engine()
                raise InternalError(
                    "The engine process died; a model that is too large for the memory does that."
                )
            with contextlib.suppress(StoreUnavailable):  # it may come back before the engine has done it
                self._tidy()
        self._drop_engine()
        reason = "the worker stops" if self._place.is_stopping else "the engine said nothing for too long"
        raise InternalError(f"It was not done: {reason}.")

    def _drop_engine(self) -> None:
        if self._engine is not None:
            self._engine.kill()
            self._engine = None

"""The worker: claim, have the engine process make it, store, finish. Imports no torch.

The loop of one job is `_run_one`. While it waits for the engine process it renews the lease and looks whether the job shall
stop; every write carries the lease's token, so that a worker which lost its lease changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from vitascope.domain.errors import LeaseLost, StorageError, StoreUnavailable
from vitascope.domain.job import JobError, Lease
from vitascope.domain.video import Video
from vitascope.store import Store

from .engine_process import EngineProcess
from .messages import Message

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.25
"""Progress is written at most so often: a fast model must not spend its time in the database."""

CANCEL_POLL_SECONDS = 0.5
"""How often a running job looks whether it shall stop."""

STORE_RETRY_SECONDS = 1.0
"""Pause before a store that did not answer is asked again."""

KILL_AFTER_SECONDS = 10.0
"""A cancelled engine that has not come back after so long is killed: its step may take minutes."""


class Files(Protocol):
    """What the worker needs of the storage."""

    def put(self, path: Path, key: str) -> None: ...

    def path_for(self, key: str) -> Path: ...

    def delete(self, key: str) -> None: ...


@dataclass(frozen=True)
class WorkerConfig:
    """See the worker's section of the settings."""

    worker_id: str
    work_folder: Path
    lease_seconds: float = 15.0
    poll_seconds: float = 0.25
    max_attempts: int = 3
    hang_seconds: float = 900.0
    drain_seconds: float = 30.0


class _HandBack(Exception):
    """The worker stops: the job goes back to the queue."""


class _EngineDied(Exception):
    """The engine process ended, or was killed because it hung."""


class Worker:
    """Works until `stop()` is called, then finishes or hands back what it has.

    Args:
        store: where jobs are.
        files: where finished videos go and inputs are.
        start_engine: starts an engine process.
        config: limits and folders.
    """

    def __init__(
        self, store: Store, files: Files, start_engine: Callable[[], EngineProcess], config: WorkerConfig
    ) -> None:
        self._store = store
        self._files = files
        self._start_engine = start_engine
        self._config = config
        self._engine: EngineProcess | None = None
        self._stopping = threading.Event()
        self._stop_at: float | None = None
        self._seen_at = float("-inf")

    def stop(self, *, at_once: bool = False) -> None:
        """Claim nothing more; a running job has `drain_seconds` left, or none. Safe to call from a signal handler."""
        self._stop_at = time.monotonic() + (0.0 if at_once else self._config.drain_seconds)
        self._stopping.set()

    def run(self) -> None:
        """Claim and run jobs until stopped."""
        self._config.work_folder.mkdir(parents=True, exist_ok=True)
        _sweep(self._config.work_folder)
        try:
            while not self._stopping.is_set():
                try:
                    self._work_once()
                except StoreUnavailable as error:
                    logger.warning("store unavailable: %s", error.message)
                    self._drop_engine()  # whose job's lease may run out meanwhile
                    self._stopping.wait(STORE_RETRY_SECONDS)
        finally:
            self._drop_engine()
            shutil.rmtree(self._config.work_folder, ignore_errors=True)
            with contextlib.suppress(StoreUnavailable):
                self._store.worker_stopped(self._config.worker_id)

    def _work_once(self) -> None:
        """Run the next job, or wait a moment for one."""
        if time.monotonic() - self._seen_at > self._config.lease_seconds / 3:
            self._store.worker_seen(self._config.worker_id)
            self._forget(self._store.requeue_lapsed(self._config.max_attempts).unneeded)
            self._store.prune()
            self._seen_at = time.monotonic()
        self._ready_engine()
        lease = self._store.claim(self._config.worker_id, self._config.lease_seconds)
        if lease is None:
            self._stopping.wait(self._config.poll_seconds)
        else:
            self._run_one(lease)

    def _ready_engine(self) -> EngineProcess:
        """Return the engine process; starts one if there is none, or if it died without a job."""
        if self._engine is not None and not self._engine.is_alive():
            logger.warning("engine died", extra={"pid": self._engine.pid})
            self._drop_engine()
        if self._engine is None:
            self._engine = self._start_engine()
            logger.info("engine started", extra={"pid": self._engine.pid})
        return self._engine

    def _run_one(self, lease: Lease) -> None:
        """Run one job to its end, whatever that is."""
        job = lease.job
        out = self._config.work_folder / f"{job.id}.{lease.token}.{job.plan.format}"
        try:
            ending = self._have_it_made(lease, out)
            self._finish(lease, ending, out)
        except LeaseLost:
            logger.warning("lease lost", extra={"job_id": job.id})
            self._drop_engine()  # it may still be at a job that is now another worker's
        except _HandBack:
            logger.info("job handed back", extra={"job_id": job.id})
            self._drop_engine()
            self._hand_back(lease, count_attempt=False)
        except _EngineDied:
            self._engine = None
            self._hand_back(lease, count_attempt=True)
        except StorageError as error:  # its first frame is gone
            self._forget(self._store.fail(lease, JobError(error.code, error.message)))
        finally:
            for (
                leftover
            ) in self._config.work_folder.iterdir():  # this worker's own, and it makes one job at a time
                leftover.unlink(missing_ok=True)

    def _have_it_made(self, lease: Lease, out: Path) -> Message:
        """Send the job to the engine process and wait for the message that ends it."""
        engine = self._ready_engine()
        engine.send(self._order(lease, out))
        watch = _Watch(lease, self._store, self._config, engine)
        while True:
            if self._stop_at is not None and time.monotonic() > self._stop_at:
                raise _HandBack
            try:
                message = engine.receive(watch.patience())
            except EOFError:
                status = engine.kill()
                logger.warning("engine died", extra={"job_id": lease.job.id, "status": status})
                raise _EngineDied from None
            watch.tick()
            if message is None or message["is"] == "ready":
                continue
            watch.heard(message)
            if message["is"] != "step":
                return message

    def _order(self, lease: Lease, out: Path) -> Message:
        plan = lease.job.plan.to_dict()
        if plan["image"] is not None:
            plan["image"] = str(self._files.path_for(plan["image"]))
        key = f"videos/{out.name}"
        return {"do": "make", "job": lease.job.id, "plan": plan, "out": str(out), "key": key}

    def _finish(self, lease: Lease, ending: Message, out: Path) -> None:
        """Store the file and write down how the job ended; then remove what nobody needs any more."""
        if ending["is"] == "made":
            unneeded = self._deliver(lease, ending, out)
        elif ending["is"] == "cancelled":
            unneeded = self._store.finish_cancelled(lease)
        else:
            unneeded = self._store.fail(lease, JobError(ending["code"], ending["message"]))
        self._forget(unneeded)

    def _deliver(self, lease: Lease, ending: Message, out: Path) -> list[str]:
        """Put the file into the storage, then tell the store: in this order, so that a job with a video has its file."""
        video = Video(**ending["video"])
        try:
            self._files.put(out, video.key)
        except StorageError as error:
            return self._store.fail(lease, JobError(error.code, error.message))
        try:
            return self._store.succeed(lease, video, ending["details"])
        except LeaseLost:
            self._files.delete(video.key)
            raise

    def _hand_back(self, lease: Lease, *, count_attempt: bool) -> None:
        """Let the job be queued again; if that was wished it is cancelled, and after too many attempts it fails."""
        try:
            limit = self._config.max_attempts
            self._forget(self._store.release(lease, count_attempt=count_attempt, max_attempts=limit))
        except LeaseLost:
            logger.warning("lease lost", extra={"job_id": lease.job.id})

    def _forget(self, keys: Sequence[str]) -> None:
        """Remove files that nobody needs any more; one that stays behind has no row and is swept later."""
        for key in keys:
            with contextlib.suppress(StorageError):
                self._files.delete(key)

    def _drop_engine(self) -> None:
        if self._engine is not None:
            self._engine.kill()
            self._engine = None


def _sweep(work_folder: Path) -> None:
    """Remove what workers of this machine left behind when they were killed: folders named after a process that is gone."""
    host = work_folder.name.rpartition("-")[0]
    for folder in work_folder.parent.glob(f"{host}-*"):
        pid = folder.name.rpartition("-")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


class _Watch:
    """What a worker does beside waiting: heartbeat, progress, cancel, and the limit on silence."""

    def __init__(self, lease: Lease, store: Store, config: WorkerConfig, engine: EngineProcess) -> None:
        self._lease = lease
        self._store = store
        self._config = config
        self._engine = engine
        now = time.monotonic()
        self._checked_at = self._heard_at = now
        self._reported_at = float("-inf")
        self._stage = ""
        self._cancel_sent_at: float | None = None

    def patience(self) -> float:
        """Seconds to wait for a message before `tick` is due."""
        return min(CANCEL_POLL_SECONDS, self._config.lease_seconds / 3)

    def tick(self) -> None:
        """Renew the lease, pass a wish to cancel on, and kill an engine that is silent for too long."""
        now = time.monotonic()
        if now - self._checked_at >= self.patience():
            self._checked_at = now
            is_cancelled = self._store.renew(self._lease, self._config.lease_seconds)
            if is_cancelled and self._cancel_sent_at is None:
                self._engine.send({"do": "cancel", "job": self._lease.job.id})
                self._cancel_sent_at = now
        if self._cancel_sent_at is not None and now - self._cancel_sent_at > KILL_AFTER_SECONDS:
            self._kill("engine did not stop")
        if now - self._heard_at > self._config.hang_seconds:
            self._kill("engine hung")

    def heard(self, message: Message) -> None:
        """Note that the engine is alive and write its progress down, but not too often."""
        now = time.monotonic()
        self._heard_at = now
        if message["is"] != "step":
            return
        if message["stage"] != self._stage or now - self._reported_at >= PROGRESS_SECONDS:
            self._reported_at = now
            self._stage = message["stage"]
            self._store.report(self._lease, message["percent"], message["stage"])

    def _kill(self, why: str) -> None:
        logger.warning(why, extra={"job_id": self._lease.job.id})
        self._engine.kill()
        raise _EngineDied

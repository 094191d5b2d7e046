"""The worker: claim, have the engine process make it, store, finish. Imports no torch.

The loop of one job is `_run_one`. While it waits for the engine process it renews the lease and looks whether the job shall
stop (`watch`); every write carries the lease's token, so that a worker which lost its lease changes nothing. A store that is
away for a while costs nothing: the engine goes on, and what became of the job is written down as soon as the store answers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, BinaryIO, Protocol, TypeVar

from vitascope.domain.added import WITH_VAE
from vitascope.domain.command import SILENCE_LEASES, CommandKind, Errand
from vitascope.domain.cost import effort_of, measured, runs_of
from vitascope.domain.errors import (
    InternalError,
    JobNotFound,
    LeaseLost,
    ModelInUse,
    StorageError,
    StoreUnavailable,
)
from vitascope.domain.job import JobError, Lease
from vitascope.domain.marks import OPERATORS_IMAGE
from vitascope.domain.residency import Residency
from vitascope.domain.video import Video, stored_keys
from vitascope.storage import Space, StoredFile
from vitascope.store import Store

from .ahead import Ahead, result_of
from .available import Available
from .engine_process import AnyEngine
from .errands import Errands, Models
from .heartbeat import STORE_RETRY_SECONDS, Heartbeat
from .messages import Message
from .patience import Patience, StepTimes
from .sweep import Sweep, SweepElsewhere
from .transfer import Cancelled, insist
from .watch import EngineDied, Watch

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE_SECONDS = 0.1
"""An idle worker looks so often whether it shall stop."""

SWEEP_SECONDS = 10.0
"""A busy worker looks at some files so often, between two jobs; an idle one at any time."""


FOLDER = "videos"
"""Where the storage has finished files."""

FORGET_SECONDS = 1.0
"""What removing files may take of the worker's time; it goes on beside its other work."""


class Files(Protocol):
    """What the worker needs of the storage."""

    def put(self, path: Path, key: str) -> None: ...

    def path_for(self, key: str) -> Path | None: ...

    def fetch(self, key: str, path: Path) -> None: ...

    def delete(self, key: str) -> None: ...

    def open(self, key: str) -> BinaryIO: ...

    def put_bytes(self, data: bytes, key: str) -> None: ...

    def files_in(self, folder: str) -> Iterator[StoredFile]: ...

    def key_for_new(self, key: str) -> str: ...

    def elsewhere(self) -> Sequence[str]: ...


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
    #: How long a storage that is away is waited for.
    patience_seconds: float = 900.0
    min_free_bytes: int = 0


class _HandBack(Exception):
    """The worker stops: the job goes back to the queue."""


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

    def __init__(
        self,
        store: Store,
        files: Files,
        start_engine: Callable[[], AnyEngine],
        config: WorkerConfig,
        models: Models,
    ) -> None:
        self._store = store
        self._files = files
        self._start_engine = start_engine
        self._config = config
        self._engine: AnyEngine | None = None
        #: Kind of the engine's device; empty until it has told.
        self._device = ""
        self._warm_models: frozenset[str] = frozenset()
        self._residency = Residency()
        self._available = Available(models.available)
        self._step_times = StepTimes()
        self._sweep = Sweep(store, files)
        self._sweep_elsewhere = SweepElsewhere(store, files)
        self._space = Space((config.work_folder,), config.min_free_bytes)
        self._errands = Errands(
            store, models, config.worker_id, SILENCE_LEASES * config.lease_seconds, self._files_changed
        )
        self._ahead: Ahead | None = None
        self._stop_at: float | None = None
        #: What an operator waits for: that another process takes this one's place.
        self._restart: Errand | None = None
        self._is_told_to_stop = False
        self._tidied_at = self._swept_at = float("-inf")

    def stop(self, *, at_once: bool = False) -> None:
        """Claim nothing more; a running job has `drain_seconds` left, or none. Safe to call from a signal handler."""
        # nothing with a lock: the signal may have come while this very thread held it
        self._is_told_to_stop = True
        self._stop_at = time.monotonic() + (0.0 if at_once else self._config.drain_seconds)

    @property
    def shall_restart(self) -> bool:
        """Whether an operator wants another process in this one's place, once it has stopped; not if it was told to stop meanwhile."""
        return self._restart is not None and not self._is_told_to_stop

    def _pause(self, seconds: float) -> None:
        """Wait, but not for much longer than until the worker is told to stop."""
        until = time.monotonic() + seconds
        while self._stop_at is None and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, PAUSE_SECONDS))

    def run(self) -> None:
        """Claim and run jobs until stopped."""
        with _lock(self._config.work_folder) as lock:
            self._config.work_folder.mkdir(exist_ok=True)
            _remove_abandoned(self._config.work_folder)
            self._work()
            Path(lock.name).unlink(missing_ok=True)

    def _work(self) -> None:
        try:
            while self._stop_at is None:
                try:
                    self._work_once()
                except StoreUnavailable as error:
                    logger.warning("store unavailable: %s", error.message)
                    self._pause(STORE_RETRY_SECONDS)
        finally:
            self._errands.stop()
            self._drop_engine()
            shutil.rmtree(self._config.work_folder, ignore_errors=True)
            with contextlib.suppress(StoreUnavailable):
                if self._restart is not None:
                    message = f"process {os.getpid()} of the worker has ended, and another is started"
                    self._store.end_errand(self._restart.number, message)
                self._store.worker_stopped(self._config.worker_id)

    def _work_once(self) -> None:
        """Run the next job, or wait a moment for one."""
        self._tidy()
        if self._ahead is not None:
            self._ahead.settle(self._await_answer)
            self._ahead = None
        self._hear_idle_engine(self._ready_engine())
        self._errands.begin()
        if (errand := self._errands.next_between_jobs()) is not None:
            if errand.kind is CommandKind.RESTART_WORKER:
                self._begin_restart(errand)
            else:
                self._errands.end(errand, lambda: self._obey(errand))
            return
        if time.monotonic() - self._swept_at > SWEEP_SECONDS:
            self._sweep_some()  # before the claim: while a lease is held, a slow storage must not hold the worker
        asked_at = time.monotonic()
        lease = None if self._space.is_low else self._claim()
        if lease is None:
            self._sweep_some()
            self._pause(self._config.poll_seconds)
        else:
            self._run_one(lease, asked_at)

    def _claim(self) -> Lease | None:
        return self._store.claim(
            self._config.worker_id,
            self._config.lease_seconds,
            device=self._device,
            warm_models=self._warm_models,
        )

    def _files_changed(self) -> None:
        self._available.look_soon()
        self._tidied_at = float("-inf")  # let the store know soon

    def _sweep_some(self) -> None:
        self._swept_at = time.monotonic()
        self._sweep.advance()
        self._sweep_elsewhere.begin()

    def _tidy(self) -> None:
        """A few times in the length of a lease: be seen, and queue what dead workers held again."""
        if time.monotonic() - self._tidied_at < self._config.lease_seconds / 3:
            return
        self._tidied_at = time.monotonic()
        available = self._available.news()
        if self._device:
            told = (self._device, self._warm_models, self._residency)
            self._store.worker_seen(self._config.worker_id, *told, available=available, peer=self.peer)
        else:
            self._store.worker_seen(self._config.worker_id, available=available, peer=self.peer)
        self._available.was_told(available)
        self._forget(self._store.requeue_lapsed(self._config.max_attempts).unneeded)
        self._store.prune()
        self._errands.tidy()
        if self._stop_at is None and (restart := self._errands.next_restart()) is not None:
            self._begin_restart(restart)

    def _begin_restart(self, errand: Errand) -> None:
        """Stop as when a signal says so: a running job has `drain_seconds` left, then it is handed back."""
        logger.info("the worker is to be started anew", extra={"pid": os.getpid()})
        self._restart = errand
        self._stop_at = time.monotonic() + self._config.drain_seconds

    def _ready_engine(self) -> AnyEngine:
        """Return the engine process; starts one if there is none, or if it died without a job."""
        if self._engine is not None and not self._engine.is_alive():
            logger.warning("engine died", extra={"pid": self._engine.pid})
            self._drop_engine()
        if self._engine is None:
            self._engine = self._start_engine()
            self._residency = Residency()
            if self._warm_models:
                self._warm_models = frozenset()
                self._tidied_at = float("-inf")
            self._step_times = StepTimes()
            logger.info("engine started", extra={"pid": self._engine.pid})
        return self._engine

    def _hear_idle_engine(self, engine: AnyEngine) -> None:
        """Take what an engine says on its own, which is that it is ready."""
        with contextlib.suppress(EOFError):  # it has died, which the next look finds out
            if (message := engine.receive(0)) is not None:
                self._know_engine(message)

    def _know_engine(self, message: Message) -> None:
        """Note on what kind of device the engine works, and which models it has loaded."""
        self._residency = Residency.from_dict(message["residency"])
        loaded = frozenset(message["loaded"])
        if (self._device, self._warm_models) != (message["device"], loaded):
            self._device, self._warm_models = message["device"], loaded
            self._tidied_at = float("-inf")  # let the store know soon

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

    def _await_answer(self, engine: AnyEngine, errand: Errand) -> str:
        if engine is not self._engine:
            raise InternalError("The engine process ended before it was done.")
        silent_seconds = 0.0
        while silent_seconds < self._config.hang_seconds and not self._is_time_over():
            try:
                message = engine.receive(PAUSE_SECONDS)
            except EOFError:
                self._drop_engine()
                raise InternalError(
                    "The engine process died; a model that is too large for the memory does that."
                ) from None
            with contextlib.suppress(StoreUnavailable):  # it may come back before the engine has done it
                self._tidy()
            if message is None:
                silent_seconds += PAUSE_SECONDS
                continue
            self._know_engine(message)
            if message["is"] == "obeyed" and message["errand"] == errand.number:
                with contextlib.suppress(StoreUnavailable):
                    self._tidy()  # who waits for this shall find it so
                return result_of(message)
        self._drop_engine()
        reason = "the worker stops" if self._stop_at is not None else "the engine said nothing for too long"
        raise InternalError(f"It was not done: {reason}.")

    def _run_one(self, lease: Lease, leased_at: float) -> None:
        """Run one job to its end, whatever that is."""
        job = lease.job
        heartbeat = Heartbeat(lease, leased_at, self._config.lease_seconds, self._store, self._tidy)
        try:
            ending = self._have_it_made(heartbeat)
            if ending["is"] == "made":
                self._keep(heartbeat, ending)
        except Cancelled:
            self._settle(lease, lambda: self._store.finish_cancelled(lease))
        except LeaseLost:
            logger.warning("lease lost", extra={"job_id": job.id})
            self._drop_engine()  # it may still be at a job that is now another worker's
        except (_HandBack, StoreUnavailable) as reason:
            logger.info("job handed back", extra={"job_id": job.id, "reason": type(reason).__name__})
            self._drop_engine()
            self._hand_back(lease, count_attempt=False)
        except EngineDied:
            self._engine = None
            self._hand_back(lease, count_attempt=self.counts_attempts)
        except StorageError as error:  # its first frame is gone, or its file cannot be kept
            self._fail(lease, JobError(StorageError.code, error.message))
        else:
            self._finish(lease, ending)
        finally:
            self._clear_work_folder()

    def _clear_work_folder(self) -> None:
        """Remove what the job left: the folder is this worker's own, and it makes one job at a time."""
        with contextlib.suppress(OSError):  # the disk may be full, or the folder gone: the next job says so
            self._config.work_folder.mkdir(parents=True, exist_ok=True)
            for leftover in self._config.work_folder.iterdir():
                leftover.unlink(missing_ok=True)

    def _have_it_made(self, heartbeat: Heartbeat) -> Message:
        """Send the job to the engine process and wait for the message that ends it."""
        job = heartbeat.lease.job
        plan = job.plan
        order = self._order(heartbeat)  # may wait for the storage
        engine = self._ready_engine()
        engine.send(order)
        known_step_seconds = self._step_times.of(plan)
        patience = Patience(runs_of(plan), known_step_seconds, self._config.hang_seconds)
        watch = Watch(heartbeat, engine, patience)
        self._ahead = ahead = Ahead(self._store, self._errands, engine)
        while True:
            self._check_time()
            try:
                message = engine.receive(heartbeat.pause_seconds)
            except EOFError:
                status = engine.kill()
                logger.warning("engine died", extra={"job_id": job.id, "status": status})
                raise EngineDied from None
            if message is not None and message["is"] not in ("step", "enhanced"):
                self._know_engine(message)
                if message["is"] == "obeyed":
                    ahead.heard(message)
                elif message["is"] != "ready":
                    self._step_times.learn(plan, patience.step_seconds)
                    return message
            watch.tick(message)
            if message is not None:
                ahead.look(self._device, self._warm_models)

    def _is_time_over(self) -> bool:
        return self._stop_at is not None and time.monotonic() > self._stop_at

    def _check_time(self) -> None:
        if self._is_time_over():
            raise _HandBack

    def _order(self, heartbeat: Heartbeat) -> Message:
        job, token = heartbeat.lease.job, heartbeat.lease.token
        plan = job.plan.to_dict()
        for name in ("image", "last_image", "video", "continues"):
            if plan[name] is not None:
                plan[name] = self._at_hand(heartbeat, plan[name])
        plan["enhanced_prompts"] = job.enhanced_prompts
        plan["references"] = [self._at_hand(heartbeat, key) for key in plan["references"]]
        mark = plan["watermark"]
        if mark is not None and mark["image"] not in (None, OPERATORS_IMAGE):
            mark["image"] = self._at_hand(heartbeat, mark["image"])
        names = [f"{job.id}.{token}.{index}.{job.plan.format}" for index in range(job.plan.num_videos)]
        outs = [str(self._config.work_folder / name) for name in names]
        return {"do": "make", "job": job.id, "plan": plan, "outs": outs, "folder": FOLDER}

    def _at_hand(self, heartbeat: Heartbeat, key: str) -> str:
        """Find an input on this machine, where it is fetched to if need be: engines read files only."""
        path = self._files.path_for(key)
        if path is None:
            copy = path = self._config.work_folder / key.replace("/", "-")
            self._with_storage(
                heartbeat, "load", lambda: self._files.fetch(key, copy), lambda: copy.unlink(missing_ok=True)
            )
        return str(path)

    def _keep(self, heartbeat: Heartbeat, ending: Message) -> None:
        """Put finished files into the storage, before the store is told: so a job with videos has their files.

        Afterwards the message has the keys that they are kept under.
        """
        videos = _videos_of(ending)
        kept: dict[str, str] = {}
        try:
            for key in stored_keys(videos):
                kept[key] = self._put(heartbeat, key)
        except BaseException:
            self._forget(list(kept.values()))
            raise
        ending["videos"] = [asdict(video.with_keys(kept)) for video in videos]

    def _put(self, heartbeat: Heartbeat, key: str) -> str:
        """Put a file where new ones go at that moment: an operator may change that while the storage is away."""
        path = self._config.work_folder / key.rpartition("/")[2]
        tried: list[str] = []

        def put() -> None:
            tried.append(self._files.key_for_new(key))
            self._files.put(path, tried[-1])

        def undo() -> None:
            for one in tried:
                self._files.delete(one)

        self._with_storage(heartbeat, "store", put, undo)
        return tried[-1]

    def _with_storage(
        self, heartbeat: Heartbeat, stage: str, act: Callable[[], None], undo: Callable[[], None]
    ) -> None:
        insist(act, undo, stage, heartbeat, self._config.patience_seconds, self._check_time)

    def _finish(self, lease: Lease, ending: Message) -> None:
        """Write down how the job ended; if it has a file, that is kept."""
        if ending["is"] == "made":
            self._deliver(lease, ending)
        elif ending["is"] == "cancelled":
            self._settle(lease, lambda: self._store.finish_cancelled(lease))
        elif ending["is"] == "returned":
            self._hand_back(lease, count_attempt=False)
        else:
            self._fail(lease, JobError(ending["code"], ending["message"]))

    def _deliver(self, lease: Lease, ending: Message) -> None:
        videos = _videos_of(ending)
        details = ending["details"]
        is_whole = len(videos) == lease.job.plan.num_videos  # else nobody knows how far the others came
        speed = measured(effort_of(lease.job.plan), details["seconds"]) if is_whole else None
        is_told = self._settle(
            lease,
            lambda: self._store.succeed(lease, videos, details, speed=speed, device=self._device),
        )
        # the store may have taken it down although its answer was lost; then the job has ended, and the files are its videos
        if not is_told and not self._insist(lambda: self._is_video(videos[0].key, lease.job.id)):
            self._forget(stored_keys(videos))

    def _is_video(self, key: str, job_id: str) -> bool:
        try:
            video = self._store.get(job_id).video
        except JobNotFound:
            return False
        return video is not None and video.key == key

    def _fail(self, lease: Lease, error: JobError) -> None:
        self._settle(lease, lambda: self._store.fail(lease, error))

    def _hand_back(self, lease: Lease, *, count_attempt: bool) -> None:
        """Let the job be queued again; if that was wished it is cancelled, and after too many attempts it fails."""
        limit = self._config.max_attempts
        self._settle(
            lease, lambda: self._store.release(lease, count_attempt=count_attempt, max_attempts=limit)
        )

    def _settle(self, lease: Lease, end: Callable[[], list[str]]) -> bool:
        """Write down how the job leaves this worker, and remove what nobody needs any more.

        Returns:
            Whether the store has said so; if not, the job is another worker's, or the answer to an earlier try was lost.
        """
        try:
            unneeded = self._insist(end)
        except LeaseLost:
            logger.warning("lease lost", extra={"job_id": lease.job.id})
            return False
        self._forget(unneeded)
        return True

    def _insist(self, ask: Callable[[], T]) -> T:
        """Ask the store until it answers: until then there is nothing else to do. A stopping worker gives up in time.

        Raises:
            StoreUnavailable: the time to stop is over.
        """
        while True:
            try:
                return ask()
            except StoreUnavailable as error:
                if self._is_time_over():
                    raise
                logger.warning("%s: asked again", error.message)
                time.sleep(STORE_RETRY_SECONDS)

    def _forget(self, keys: Sequence[str]) -> None:
        """Remove files that nobody needs any more; one that stays behind has no row and is swept later.

        Waits a moment only: while a storage is away, a job that runs must not lose its lease for this.
        """

        def forget() -> None:
            with contextlib.suppress(StorageError):
                for key in keys:
                    self._files.delete(key)

        if keys:
            thread = threading.Thread(target=forget, name="forget", daemon=True)
            thread.start()
            thread.join(FORGET_SECONDS)

    def _drop_engine(self) -> None:
        if self._engine is not None:
            self._engine.kill()
            self._engine = None


def _videos_of(ending: Message) -> list[Video]:
    return [Video.from_dict(values) for values in ending["videos"]]


def _lock(work_folder: Path) -> IO[bytes]:
    """Mark a work folder as in use for as long as this process lives. Kept beside it: the folder is emptied after each job."""
    path = work_folder.with_name(f"{work_folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # another worker took it for abandoned in between
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _remove_abandoned(work_folder: Path) -> None:
    """Remove what killed workers left behind: folders whose lock nobody holds.

    Names and process ids would say nothing: workers in containers, and on machines that share the data folder, may have the same.
    """
    for path in work_folder.parent.glob("*.lock"):
        with contextlib.suppress(OSError), path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink()

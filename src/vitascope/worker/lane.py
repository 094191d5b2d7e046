"""One job at a worker, from its lease to its end, in a thread: inputs fetched, made by the engine, stored, finished.

While it waits for the engine or the storage it renews the lease and looks whether the job shall stop; every write carries
the lease's token, so that a worker which lost its lease changes nothing. A store that is away for a while costs nothing: the
engine goes on, and what became of the job is written down as soon as the store answers.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable

from vitascope.domain.arbiter import Candidate
from vitascope.domain.cost import runs_of, work_of
from vitascope.domain.errors import LeaseLost, StorageError, StoreUnavailable
from vitascope.domain.job import JobError, Lease
from vitascope.domain.marks import OPERATORS_IMAGE

from .heartbeat import Heartbeat
from .leaving import Leaving
from .messages import Message
from .patience import Patience
from .shared_engine import ENDINGS, EngineDied, MustWait, Seat, SharedEngine
from .transfer import Cancelled, insist
from .watch import KILL_AFTER_SECONDS, DidNotStop, Watch
from .workplace import HandBack, Workplace

logger = logging.getLogger(__name__)

FOLDER = "videos"
"""Where the storage has finished files."""

LOOK_SECONDS = 0.1
"""Who is to be made alone looks so often whether the others have left the engine, and others whether it has."""


HELD_UP_SECONDS = 1.0
"""A job whose inputs have not come after so long does not keep the device from others any more."""


class Lane(threading.Thread):
    """One job.

    Args:
        place: the worker's.
        lease: the worker's right to the job.
        leased_at: when it was asked for, on the monotonic clock.
        engine: the engine process, which the worker's own thread has started: it would end with a lane that had done that.
        is_alone: whether it is made without others: it may have been the reason why an engine died.
        counts_attempts: whether a job whose engine died is to blame for that.
        more: what its order has beside the plan.
        on_suspect: called if the job goes back to the queue because it did not get on with others: it is to be made alone.
        on_end: called at its end.
    """

    def __init__(
        self,
        place: Workplace,
        lease: Lease,
        leased_at: float,
        engine: SharedEngine,
        *,
        is_alone: bool = False,
        counts_attempts: bool = True,
        more: Message | None = None,
        on_suspect: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(name=f"lane-{lease.job.id}", daemon=True)
        self.lease = lease
        self.is_alone = is_alone
        self._place = place
        self._heartbeat = Heartbeat(lease, leased_at, place.config.lease_seconds, place.store)
        self._heartbeat.stood = lambda: self._stood_seconds
        self._leaving = Leaving(place, lease)
        self._engine = engine
        self._counts_attempts = counts_attempts
        self._more = more or {}
        self._on_suspect = on_suspect
        self._on_end = on_end
        self._name = f"{lease.job.id}.{lease.token}"
        self._folder = place.config.work_folder / self._name
        self._seat: Seat | None = None
        self._leased_at = leased_at
        self._fetching_since: float | None = None
        self._ordered_at: float | None = None
        #: Whether the engine is done with it.
        self.is_made = False
        #: The job went back to the queue; whether it may come again soon.
        self.returned: bool | None = None
        #: What was not foreseen.
        self.error: BaseException | None = None

    @property
    def needs_device(self) -> bool:
        """Whether it has steps to make yet."""
        return not (self.is_made or self._is_held_up) and (self._seat is None or self._seat.needs_device)

    @property
    def _is_held_up(self) -> bool:
        """Whether it has to wait for the storage. Not who is to be made alone: others that are begun meanwhile would be beside it."""
        since = self._fetching_since
        return since is not None and not self.is_alone and time.monotonic() >= since + HELD_UP_SECONDS

    @property
    def is_begun(self) -> bool:
        """Whether the engine has made a step of it, and knows since then how much room it leaves."""
        return self._seat is not None and self._seat.is_begun

    @property
    def _stood_seconds(self) -> float:
        """For which it could not have the device: until its order was sent, and while others had it."""
        before = (self._ordered_at or time.monotonic()) - self._leased_at
        return before + (0.0 if self._seat is None else self._seat.stood_seconds)

    @property
    def candidate(self) -> Candidate:
        """What of it decides whether another job is begun beside it."""
        job = self.lease.job
        seconds = self.lease.expected_seconds if self._seat is None else self._seat.seconds_left
        return Candidate(job.id, job.key_id, job.plan.model, seconds, 0.0, job.request.priority)

    @property
    def shared(self) -> tuple[str, int] | None:
        """Model and work that another job must have to be computed together with it; None if none can be."""
        if self._seat is None or not self._seat.is_shared:
            return None
        return self.lease.job.plan.model, work_of(self.lease.job.plan)

    def run(self) -> None:
        try:
            self._run()
        except StoreUnavailable as error:  # and the time is over: the lease runs out
            logger.warning("store unavailable: %s", error.message, extra={"job_id": self.lease.job.id})
        except BaseException as error:  # noqa: BLE001  raised again in the worker's own thread
            self.error = error
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._on_end()

    def _run(self) -> None:
        extra = {"job_id": self.lease.job.id}
        try:
            ending = self._have_it_made()
            self.is_made = True
            if ending["is"] == "made":
                self._leaving.keep(self._heartbeat, ending, self._folder)
        except Cancelled:
            self._leaving.finish_cancelled(self._stood_seconds)
        except LeaseLost:
            logger.warning("lease lost", extra=extra)
        except (HandBack, StoreUnavailable) as reason:
            logger.info("job handed back", extra={**extra, "reason": type(reason).__name__})
            self._hand_back(count_attempt=False)
        except EngineDied as died:
            if self._seat is not None and not died.is_to_blame:
                self._on_suspect()
            self._hand_back(count_attempt=died.is_to_blame and self._counts_attempts)
        except StorageError as error:  # its first frame is gone, or its file cannot be kept
            self._leaving.fail(JobError(StorageError.code, error.message), self._stood_seconds)
        else:
            self._finish(ending)

    def _have_it_made(self) -> Message:
        """Send the job to the engine process and wait for the message that ends it."""
        with contextlib.suppress(OSError):  # the disk may be full: what writes there says so
            self._folder.mkdir(parents=True, exist_ok=True)
        self._fetching_since = time.monotonic()
        order = self._order()  # may wait for the storage
        self._fetching_since = None
        engine, plan = self._engine, self.lease.job.plan
        times = self._place.step_times
        seat = self._seat = self._begin(order)
        self._ordered_at = time.monotonic()
        try:
            ending = self._await_ending(seat)
        except BaseException as error:
            self._leave_engine(engine, seat, error)
            raise
        times.learn(plan, seat.patience.step_seconds)
        return ending

    def _await_ending(self, seat: Seat) -> Message:
        watch = Watch(self._heartbeat, seat)
        while True:
            self._place.check_time()
            message = seat.receive(self._heartbeat.pause_seconds)
            if message is not None and message["is"] in ENDINGS:
                return message
            try:
                watch.tick(message)
            except DidNotStop:
                self._give_up(seat)
                raise Cancelled from None

    def _give_up(self, seat: Seat) -> None:
        """Do without the engine's word that a job has stopped: kill it, if it is that job that it does not come back from."""
        if seat.has_device or len(self._engine.seats) == 1:
            logger.warning("engine did not stop", extra={"job_id": self.lease.job.id})
            self._engine.kill()

    def _leave_engine(self, engine: SharedEngine, seat: Seat, error: BaseException) -> None:
        """See to it that a job which is not this worker's any more is not made any more either."""
        try:
            if isinstance(error, EngineDied | Cancelled):
                return
            if isinstance(error, LeaseLost | StoreUnavailable) and len(engine.seats) > 1:
                self._stop_making(seat)
            else:
                engine.kill()
        finally:
            engine.leave(seat)

    def _stop_making(self, seat: Seat) -> None:
        """Stop this job and leave the others alone."""
        seat.cancel()
        until = time.monotonic() + KILL_AFTER_SECONDS
        with contextlib.suppress(EngineDied):
            while (left := until - time.monotonic()) > 0:
                message = seat.receive(left)
                if message is not None and message["is"] in ENDINGS:
                    return
            self._give_up(seat)

    def _begin(self, order: Message) -> Seat:
        """Have it made, as soon as it may: who is made alone is joined by none whose inputs have come meanwhile either."""
        plan, times = self.lease.job.plan, self._place.step_times
        while True:
            patience = Patience(runs_of(plan), times.of(plan), self._place.config.hang_seconds)
            try:
                return self._engine.begin(order, patience, is_alone=self.is_alone)
            except MustWait:
                self._place.check_time()
                self._heartbeat.beat()
                if self._heartbeat.is_cancelled:
                    raise Cancelled from None
                time.sleep(LOOK_SECONDS)

    def _order(self) -> Message:
        job = self.lease.job
        plan = job.plan.to_dict()
        for name in ("image", "last_image", "video", "continues"):
            if plan[name] is not None:
                plan[name] = self._at_hand(plan[name])
        plan["enhanced_prompts"] = job.enhanced_prompts
        plan["settled"] = job.settled
        plan["references"] = [self._at_hand(key) for key in plan["references"]]
        mark = plan["watermark"]
        if mark is not None and mark["image"] not in (None, OPERATORS_IMAGE):
            mark["image"] = self._at_hand(mark["image"])
        names = [f"{self._name}.{index}.{job.plan.format}" for index in range(job.plan.num_videos)]
        outs = [str(self._folder / name) for name in names]
        who = {"making": self._name, "job": job.id, "key": job.key_id, "model": job.plan.model}
        return {"do": "make", **who, "plan": plan, "outs": outs, "folder": FOLDER, **self._more}

    def _at_hand(self, key: str) -> str:
        """Find an input on this machine, where it is fetched to if need be: engines read files only."""
        files = self._place.files
        path = files.path_for(key)
        if path is None:
            copy = path = self._folder / key.replace("/", "-")
            patience, check_time = self._place.config.patience_seconds, self._place.check_time
            insist(
                lambda: files.fetch(key, copy),
                lambda: copy.unlink(missing_ok=True),
                "load",
                self._heartbeat,
                patience,
                check_time,
            )
        return str(path)

    def _finish(self, ending: Message) -> None:
        """Write down how the job ended; if it has a file, that is kept."""
        if ending["is"] == "made":
            self._leaving.deliver(ending, self._engine.device)
        elif ending["is"] == "cancelled":
            self._leaving.finish_cancelled(self._stood_seconds)
        elif ending["is"] == "returned":
            self._on_suspect()
            self._hand_back(count_attempt=False, for_now=ending["for_now"])
        else:
            self._leaving.fail(JobError(ending["code"], ending["message"]), self._stood_seconds)

    def _hand_back(self, *, count_attempt: bool, for_now: bool = True) -> None:
        self.returned = for_now
        self._leaving.hand_back(self._stood_seconds, count_attempt=count_attempt)

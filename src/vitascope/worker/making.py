"""One open job of the engine process: it is advanced step by step, and says what is to be told of it."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Generator
from dataclasses import asdict

from vitascope.domain.arbiter import Candidate
from vitascope.domain.cost import work_of
from vitascope.domain.errors import (
    InternalError,
    ModelTooLarge,
    ModelUnavailable,
    OutOfMemory,
    UnknownModel,
    UnreadableImage,
    UnreadableVideo,
    VitascopeError,
)
from vitascope.domain.job import JobError
from vitascope.domain.plan import Plan
from vitascope.domain.step import Step, percent
from vitascope.engine import DeviceLost

from .messages import Message
from .opening import Enhanced
from .outputs import Failed, details_of
from .produce import LEAST_STOOD_SECONDS, Product
from .reins import LOOK_SECONDS, STOOD_STILL, Reins

logger = logging.getLogger(__name__)

Events = Generator[Step | Enhanced | Product | Failed, None, None]

SAME_FOR_ALL = (ModelTooLarge, ModelUnavailable, UnknownModel, UnreadableImage, UnreadableVideo)
"""Whatever keeps one video of a job from being made like this keeps all of them: the others are not tried."""

SHORT_OF_MEMORY = (OutOfMemory, MemoryError, ModelTooLarge)
"""What beside others may come of them."""

AFTER_DEVICE = "write_video"
"""From this stage of its last video on a job does not need the device any more."""


class Making:
    """A job between its order and its ending.

    Args:
        order: of the parent; see `messages`.
        begin: opens what makes it.
        wake: called from any thread when there is something to do for it again.
        gathers: whether it pays to wait for others, to have forwards together with them.
    """

    def __init__(
        self,
        order: Message,
        begin: Callable[[Reins], Events],
        wake: Callable[[], None],
        *,
        gathers: bool = True,
    ) -> None:
        self.name: str = order["making"]
        self._order = order
        self._wake = wake
        self.reins = Reins(wake=self._woken)
        self._events = begin(self.reins)
        self._products: list[Product] = []
        self._failed: dict[int, JobError] = {}
        self._enhanced: tuple[str, ...] = ()
        #: What another one must be like to have forwards together with it; None if it has them alone.
        self._kind = _kind_of(order) if gathers else None
        #: Whether others had a place in the engine while it had one.
        self.had_company = False
        self.is_waiting = False
        self._look_at = 0.0
        self._is_woken = self._is_cancelled = False
        #: Device seconds that it has had.
        self.used_seconds = 0.0
        #: Of forwards that others have run for it too, since it has last said something of a step.
        self.answered_seconds = 0.0
        self._settled: dict[str, str] = {}
        self._used_before_steps: float | None = None
        self._done = 0.0

    @property
    def key(self) -> str:
        """Whose it is."""
        return str(self._order["key"])

    @property
    def is_begun(self) -> bool:
        """Whether its model has made a step, and so is loaded."""
        return self._done > 0.0

    @property
    def is_answered(self) -> bool:
        """Whether its next step costs next to nothing, because another one's forward was its own too."""
        sharing = self.reins.sharing
        return sharing is not None and sharing.is_answered

    @property
    def _is_shared(self) -> bool:
        """Whether another one like it is welcome: it has stood before a forward for several, and has not begun to decode."""
        sharing = self.reins.sharing
        is_before_more = sharing is not None and sharing.is_allowed and sharing.latest_group is not None
        return self._kind is not None and is_before_more

    def may_join(self, other: Making) -> bool:
        """Whether it can come to stand where another one stands, with no more work than what leads to a forward: they then have it together."""
        own, theirs = self.reins.sharing, other.reins.sharing
        is_alike = self is not other and self._kind is not None and self._kind == other._kind
        if not is_alike or theirs is None or theirs.group is None:
            return False
        if own is None or own.latest_group is None:  # it has not stood yet, or not since it began to decode
            return not self.is_begun
        return own.group is None and own.latest_group == theirs.group

    @property
    def is_due(self) -> bool:
        """Whether it waits and wants to be looked at."""
        return self.is_waiting and (self._is_woken or time.monotonic() >= self._look_at)

    @property
    def candidate(self) -> Candidate:
        """What the arbiter looks at."""
        order = self._order
        waited = self.reins.stood_seconds
        return Candidate(self.name, self.key, order["model"], self._seconds_left, waited, order["priority"])

    @property
    def _seconds_left(self) -> float | None:
        """By its own pace, once it has one."""
        if self._done and self._used_before_steps is not None:
            return (self.used_seconds - self._used_before_steps) * (1 - self._done) / self._done
        expected: float | None = self._order["seconds"]
        return None if expected is None else max(0.0, expected - self.used_seconds)

    def _woken(self) -> None:
        self._is_woken = True
        self._wake()

    def advance(self) -> Message | None:
        """Do the next piece of work; returns what is to be said of it, the ending too."""
        self._is_woken = False  # before it is looked at: what happens meanwhile is not missed
        if self._is_cancelled:
            return self.cancel()
        try:
            event = next(self._events)
        except StopIteration:
            return self._ending()
        self.is_waiting = isinstance(event, Step) and event.is_waiting
        self._look_at = time.monotonic() + LOOK_SECONDS
        if isinstance(event, Step):
            return self._told(event)
        if isinstance(event, Enhanced):
            self._enhanced = event.texts
            return self._say("enhanced", texts=event.texts)
        if isinstance(event, Product):
            self._products.append(event)
            return None
        return self._take_failed(event)

    def cancel(self) -> Message | None:
        """End it where it stands; returns None while its file comes to its end in a thread, and it is to be advanced until then."""
        self._is_cancelled = True
        self._look_at = time.monotonic() + LOOK_SECONDS
        if self.reins.halt is not None and not self.reins.halt():
            return None
        self._events.close()
        return self._say("cancelled")

    def _take_failed(self, failed: Failed) -> Message | None:
        if isinstance(failed.error, DeviceLost):
            raise failed.error  # no other job would come to more
        if self.had_company and isinstance(failed.error, SHORT_OF_MEMORY):
            self._events.close()
            extra = {"job_id": self._order["job"], "video": failed.index}
            logger.warning("too little memory beside others: to be made alone", extra=extra)
            return self._say("returned", for_now=True)
        self._failed[failed.index] = _told_error(failed, self._order["job"])
        if not isinstance(failed.error, SAME_FOR_ALL):
            return None
        self._events.close()
        return self._ending()

    def _ending(self) -> Message:
        if not self._products:
            return self._say("failed", **asdict(next(iter(self._failed.values()))))
        videos = [asdict(product.video) for product in self._products]
        details = details_of(self._products, self._failed.items())
        if self._enhanced:
            details["enhanced_prompts"] = self._enhanced
        if self.reins.stood_seconds >= LEAST_STOOD_SECONDS:
            # all of it: what stages tell leaves out what was before the first one, and between two videos
            details["seconds"][STOOD_STILL] = round(self.reins.stood_seconds, 3)
        return self._say("made", videos=videos, details=details)

    def _told(self, step: Step) -> Message:
        if step.stage == "denoise":
            if self._used_before_steps is None:
                self._used_before_steps = self.used_seconds
            self._done = (step.video + step.index / max(1, step.of)) / step.num_videos
        needs_device = not (step.stage == AFTER_DEVICE and step.video + 1 == step.num_videos)
        preview = None if step.preview is None else base64.b64encode(step.preview).decode()
        told = {"stage": step.stage, "index": step.index, "percent": percent(step), "preview": preview}
        answered, self.answered_seconds = self.answered_seconds, 0.0
        now = {"needs_device": needs_device, "is_shared": self._is_shared, "answered_seconds": answered}
        return self._say("step", **told, **now, **self._newly_settled())

    def _newly_settled(self) -> dict[str, dict[str, str]]:
        sharing = self.reins.sharing
        if sharing is None or sharing.settled.items() <= self._settled.items():
            return {}
        self._settled = {**self._settled, **sharing.settled}
        return {"settled": self._settled}

    def _say(self, what: str, **more: object) -> Message:
        stood = round(self.reins.stood_seconds, 3)
        return {"is": what, "making": self.name, "job": self._order["job"], "stood_seconds": stood, **more}


def _kind_of(order: Message) -> tuple[str, int] | None:
    plan = Plan.from_dict(order["plan"])
    return (plan.model, work_of(plan)) if plan.may_share_forwards else None


def _told_error(failed: Failed, job_id: str) -> JobError:
    """Log why a video was not made, and say as much of it as its client may know."""
    extra = {"job_id": job_id, "video": failed.index}
    error = (
        OutOfMemory("this machine ran out of memory")
        if isinstance(failed.error, MemoryError)
        else failed.error
    )
    if not isinstance(error, VitascopeError):
        logger.error("video failed", extra=extra, exc_info=error)
        return JobError(InternalError.code, InternalError().message)
    logger.warning("video failed", extra={**extra, "code": error.code}, exc_info=error.__cause__)
    return JobError(error.code, sentence_of(error))


def sentence_of(error: VitascopeError) -> str:
    """Join message and hint, but no hint that may hold a path; a command may hold a hub's name."""
    is_shown = error.hint and ("/" not in error.hint or error.hint.startswith("`vitascope "))
    return f"{error.message}; {error.hint}" if is_shown else error.message

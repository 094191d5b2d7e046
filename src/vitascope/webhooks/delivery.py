"""Delivering: takes messages out of the outbox, sends them, writes down what came of it. Any number of processes may do so."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from vitascope.domain.errors import StoreUnavailable, UrlRefused, VitascopeError
from vitascope.domain.job import Job
from vitascope.domain.secret import Secret
from vitascope.domain.webhook import Due, EventType, Outcome, Outgoing

from .schedule import delay_after, retry_after_of
from .signing import new_secret, signed_headers
from .writing import written

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 0.5
PRUNE_SECONDS = 600.0
ATTEMPT_SECONDS = 15.0
LEASE_SECONDS = 60.0
"""Twice the longest attempt: who has not said by then what came of it has died."""

MAX_IN_FLIGHT = 32
PER_LANE = 8
"""Of them to one receiver; to one that failed the last time, one."""

MAX_TO_FAILING = MAX_IN_FLIGHT // 2
"""Attempts at receivers that failed the last time: however many of them let us wait, half of the places stay for others."""

LANES_REMEMBERED = 1000
"""Receivers that failed the last time."""

DRAIN_SECONDS = 5.0
"""For attempts that are under way when the process stops; the others are sent again by whoever comes next."""

GONE = 410

FAILING_FOR = timedelta(days=5)
"""An endpoint to which a message was given up is disabled where nothing has arrived for so long: that of one message is a little over three
days, which a long weekend is too. Standard Webhooks recommends it without a number; five days is what others take."""

SWITCHED_OFF = "URLs are not called by this server"
UNKNOWN_FORMAT = "no dialect of this server writes the format `{}`"
UNWRITTEN = "its body could not be written, by an error on the server"


@dataclass(frozen=True, slots=True)
class Format:
    """How a dialect tells the end of a job, and how long it lets a receiver take to answer."""

    #: Returns a message's body as plain JSON values.
    render: Callable[[EventType, Job], Mapping[str, Any]]
    seconds: float = ATTEMPT_SECONDS
    #: Adds the dialect's own headers at each attempt: from the body, the time, and the secrets that are good then.
    headers: Callable[[bytes, datetime, Sequence[Secret]], Mapping[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What an attempt has led to."""

    #: Why it was no success; empty if it was.
    reason: str
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Whether it is the receiver's doing rather than this server's.
    is_receivers: bool = False


class Outbox(Protocol):
    """What delivering needs of the store."""

    def due_messages(self, per_lane: int, full_lanes: Collection[str]) -> list[Due]: ...

    def claim_messages(
        self,
        numbers: Collection[int],
        lease_seconds: float,
        render: Callable[[str, EventType, Job], bytes | str],
    ) -> list[Outgoing]: ...

    def signing_secrets(self, message: Outgoing, make: Callable[[], str]) -> tuple[Secret, ...]: ...

    def end_attempt(
        self,
        message: Outgoing,
        outcome: Outcome,
        *,
        retry_seconds: float | None = None,
        is_gone: bool = False,
        failing_for: timedelta | None = None,
    ) -> str: ...

    def release_messages(self, sent: Collection[Outgoing]) -> None: ...

    def prune_messages(self, after: timedelta) -> int: ...


class Post(Protocol):
    """The way out: raises UrlRefused where there is no answer."""

    async def __call__(
        self, url: str, content: bytes, headers: Mapping[str, str], *, seconds: float
    ) -> tuple[int, Mapping[str, str]]: ...


class Run(Protocol):
    """Where the store is called, which may block."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]: ...


class Deliverer:
    """Sends what is due, several at once, fairly between receivers.

    Args:
        outbox: where messages wait.
        post: the way out; None if it is switched off, which is then written down as the reason.
        formats: how each format is written, by its name.
        read: calls what only reads the outbox.
        write: calls what writes to it.
        keep: how long it can be read what became of a message.
        clock: the wall clock, which receivers compare with theirs.
        chance: draws from 0 to 1.
    """

    def __init__(
        self,
        outbox: Outbox,
        post: Post | None,
        formats: Mapping[str, Format],
        *,
        read: Run = asyncio.to_thread,
        write: Run = asyncio.to_thread,
        keep: timedelta = timedelta(days=30),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._outbox = outbox
        self._post = post
        self._formats = formats
        self._read = read
        self._write = write
        self._keep = keep
        self._clock = clock
        self._chance = chance
        self._in_flight: dict[asyncio.Task[None], Outgoing] = {}
        #: Lanes whose last attempt failed, the newest at the end.
        self._failing: dict[str, None] = {}
        self._closing = asyncio.Event()
        self._prune_at = 0.0

    async def run(self) -> None:
        """Deliver until closed."""
        while not self._closing.is_set():
            try:
                await self.send_due()
                await self._prune()
            except StoreUnavailable as error:
                logger.warning("store unavailable: %s", error.message)
            except Exception:
                logger.exception("webhooks could not be delivered")  # no other task would do it: it goes on
            await self._wait()
        await self._drain()

    def close(self) -> None:
        """Take nothing new; `run` ends when what is under way has ended, or soon."""
        self._closing.set()

    async def send_due(self) -> int:
        """Begin to send what is due, as far as there is room; returns how many attempts were begun."""
        room = MAX_IN_FLIGHT - len(self._in_flight)
        if room <= 0 or self._closing.is_set():
            return 0
        free = self._free_places()
        full = [lane for lane, places in free.items() if places <= 0]
        due = await self._read(lambda: self._outbox.due_messages(PER_LANE, full))
        chosen = self._chosen(due, free, room)
        if not chosen:
            return 0
        taken = await self._write(lambda: self._outbox.claim_messages(chosen, LEASE_SECONDS, self._body))
        for message in taken:
            task = asyncio.create_task(self._send(message))
            self._in_flight[task] = message
            task.add_done_callback(lambda done: self._in_flight.pop(done, None))
        return len(taken)

    async def settle(self) -> None:
        """Wait until something that is under way has ended; returns at once if nothing is."""
        if self._in_flight:
            await asyncio.wait(self._in_flight, return_when=asyncio.FIRST_COMPLETED)

    @property
    def num_in_flight(self) -> int:
        return len(self._in_flight)

    def _free_places(self) -> dict[str, int]:
        """Count how many more may go to each receiver of which anything is known."""
        busy = Counter(message.lane for message in self._in_flight.values())
        free = {lane: (1 if lane in self._failing else PER_LANE) - count for lane, count in busy.items()}
        rest = self._rest_for_failing(busy)
        for lane in self._failing:
            free[lane] = min(rest, 1 - busy[lane])
        return free

    def _rest_for_failing(self, busy: Mapping[str, int]) -> int:
        return MAX_TO_FAILING - sum(count for lane, count in busy.items() if lane in self._failing)

    def _chosen(self, due: Sequence[Due], free: dict[str, int], room: int) -> list[int]:
        busy = Counter(message.lane for message in self._in_flight.values())
        rest = self._rest_for_failing(busy)
        chosen: list[int] = []
        for message in due:
            is_failing = message.lane in self._failing
            if free.setdefault(message.lane, PER_LANE) <= 0 or (is_failing and rest <= 0):
                continue
            free[message.lane] -= 1
            rest -= is_failing
            chosen.append(message.number)
            if len(chosen) == room:
                break
        return chosen

    def _body(self, name: str, event: EventType, job: Job) -> bytes | str:
        form = self._formats.get(name)
        if form is None:
            return UNKNOWN_FORMAT.format(name)
        body = written(form.render, event, job)
        return UNWRITTEN if body is None else body

    async def _send(self, message: Outgoing) -> None:
        """Make one attempt and write down what came of it."""
        begun = time.monotonic()
        answer = await self._attempt(message)
        is_delivered = not answer.reason
        outcome = Outcome(
            is_delivered=is_delivered,
            status=answer.status,
            reason=answer.reason,
            duration_seconds=time.monotonic() - begun,
        )
        self._remember(message.lane, is_delivered)
        is_gone = answer.status == GONE
        retry_after = retry_after_of(answer.headers, self._clock())
        delay = None if is_gone else delay_after(message.tries + 1, retry_after, self._chance())
        # what was read here is not kept for long enough to tell how long nothing has arrived
        failing_for = FAILING_FOR if answer.is_receivers and self._keep >= FAILING_FOR else None
        extra = {"webhook": message.id, "attempt": message.attempt, "status": answer.status, "reason": answer.reason}  # fmt: skip
        logger.info("webhook delivered" if is_delivered else "webhook not delivered", extra=extra)
        try:
            disabled = await self._write(
                lambda: self._outbox.end_attempt(
                    message, outcome, retry_seconds=delay, is_gone=is_gone, failing_for=failing_for
                )
            )
        except StoreUnavailable as error:  # it will be sent again when its lease has run out
            logger.warning("store unavailable: %s", error.message)
        else:
            if disabled:
                what = {"endpoint": message.endpoint_id, "reason": disabled}
                logger.warning("webhook endpoint disabled", extra=what)

    async def _attempt(self, message: Outgoing) -> _Answer:
        """Send a message."""
        if self._post is None or message.problem:
            return _Answer(message.problem or SWITCHED_OFF)
        form = self._formats.get(message.format)
        seconds = ATTEMPT_SECONDS if form is None else form.seconds
        try:
            good = await self._write(lambda: self._outbox.signing_secrets(message, new_secret))
            now = self._clock()
            headers = signed_headers(message.id, message.body, now, good)
            if form is not None and form.headers is not None:
                headers |= form.headers(message.body, now, good)
            status, answered = await self._post(message.url, message.body, headers, seconds=seconds)
        except UrlRefused as error:
            return _Answer(error.rule, is_receivers=True)
        except VitascopeError as error:
            return _Answer(f"it could not be signed: {error.message}")
        except Exception:
            logger.exception("webhook could not be sent", extra={"webhook": message.id})
            return _Answer("an unexpected error occurred on the server")
        return _Answer(_verdict(status), status, answered, is_receivers=True)

    def _remember(self, lane: str, is_delivered: bool) -> None:
        self._failing.pop(lane, None)
        if not is_delivered:
            self._failing[lane] = None
            while len(self._failing) > LANES_REMEMBERED:
                del self._failing[next(iter(self._failing))]

    async def _prune(self) -> None:
        if time.monotonic() >= self._prune_at:
            pruned = await self._write(lambda: self._outbox.prune_messages(self._keep))
            self._prune_at = time.monotonic() + (0.0 if pruned else PRUNE_SECONDS)

    async def _wait(self) -> None:
        """Wait for a moment, or until a place is free, or until closed."""
        closing = asyncio.ensure_future(self._closing.wait())
        await asyncio.wait(
            [closing, *self._in_flight], timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        closing.cancel()

    async def _drain(self) -> None:
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=DRAIN_SECONDS)
        if left := await self.break_off():
            try:
                await self._write(lambda: self._outbox.release_messages(left))
            except StoreUnavailable as error:  # their leases run out
                logger.warning("store unavailable: %s", error.message)

    async def break_off(self) -> list[Outgoing]:
        """Break off what is under way, and tell nobody; returns it."""
        left = dict(self._in_flight)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return list(left.values())


def _verdict(status: int) -> str:
    """Say why an answer is no success; empty if it is one."""
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return f"its server answers {status}, and redirects are not followed"
    if status == GONE:
        return "its server answers 410 (Gone): it wants nothing any more"
    return f"its server answers {status}"

"""One engine process and the jobs that are open in it: messages are handed out, silence is noticed, and who is to blame told."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from vitascope.domain.errors import SettingsError
from vitascope.domain.residency import Residency

from .engine_process import AnyEngine
from .messages import Message
from .patience import Patience

logger = logging.getLogger(__name__)

LISTEN_SECONDS = 0.1
"""Silence is counted in such pieces."""

ENDINGS = frozenset({"made", "failed", "cancelled", "returned"})


class EngineDied(Exception):
    """The engine process ended, or was killed.

    Args:
        is_to_blame: whether the job that hears of it may have been the reason.
    """

    def __init__(self, *, is_to_blame: bool) -> None:
        super().__init__()
        self.is_to_blame = is_to_blame


class MustWait(Exception):
    """A job cannot be begun yet: it, or one that is open, is to be made alone."""


class Seat:
    """What one making has of the engine, from its order to its ending.

    Args:
        engine: in which it is made.
        order: as in `messages`.
        patience: how long its steps may take.
        is_alone: whether no other may be open beside it.
    """

    def __init__(
        self, engine: SharedEngine, order: Message, patience: Patience, *, is_alone: bool = False
    ) -> None:
        self.name: str = order["making"]
        self.patience = patience
        self.is_alone = is_alone
        #: Whether it has steps to make yet; if not, it is only written.
        self.needs_device = True
        #: Whether it has made a step.
        self.is_begun = False
        #: Of the device; None if that is not known.
        self.seconds_left: float | None = order.get("seconds")
        #: For how long it stood still, and since when it does now; changed as one, as other threads read it.
        self._standing: tuple[float, float | None] = (0.0, None)
        #: Whether another one could have its forwards together with it.
        self.is_shared = False
        self._engine = engine
        self._inbox: queue.SimpleQueue[Message | EngineDied] = queue.SimpleQueue()
        self._had_seconds = 0.0
        self._has_since: float | None = None

    def receive(self, timeout_seconds: float) -> Message | None:
        """Wait for what is said of this making; None when the time is over.

        Raises:
            EngineDied: nothing more will be said.
        """
        try:
            message = self._inbox.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
        if isinstance(message, EngineDied):
            raise message
        return message

    def cancel(self) -> None:
        self._engine.send({"do": "cancel", "making": self.name})

    @property
    def stood_seconds(self) -> float:
        """For which others had the device, or it needed it no more: as it was told, and since then."""
        seconds, since = self._standing
        return seconds + (0.0 if since is None else time.monotonic() - since)

    @property
    def has_device(self) -> bool:
        """Whether nothing else can be done before it has made its step."""
        return self._has_since is not None

    # in the thread that listens

    def hear(self, message: Message | EngineDied) -> None:
        if not isinstance(message, EngineDied) and self.needs_device and "stood_seconds" in message:
            is_standing = self._standing[1] is not None
            self._standing = (message["stood_seconds"], time.monotonic() if is_standing else None)
        if not isinstance(message, EngineDied) and message["is"] == "step":
            # what another one ran for it would have taken it as long: it has to run the next itself if that one leaves
            self._had_seconds += message.get("answered_seconds", 0.0)
            self.patience.heard(message["stage"], message["index"], self._clock())
            self.needs_device = message.get("needs_device", True)
            self.seconds_left = message.get("seconds_left", self.seconds_left)
            self.is_shared = message.get("is_shared", False)
        self._inbox.put(message)

    def stand(self, *, is_still: bool) -> None:
        """Note whether it stands still from now on; who needs the device no more always does."""
        is_still = is_still or not self.needs_device
        self._standing = (self.stood_seconds, time.monotonic() if is_still else None)

    def turn(self, *, is_its: bool) -> None:
        """Note whether it has the device from now on."""
        self._had_seconds = self._clock()
        self._has_since = time.monotonic() if is_its else None

    def _clock(self) -> float:
        """Seconds for which it has had the device: others' steps make it no slower."""
        return self._had_seconds + (0.0 if self._has_since is None else time.monotonic() - self._has_since)


class SharedEngine:
    """An engine process, listened to in a thread from now until it has ended. Safe to use from several threads.

    Args:
        engine: the process.
        hang_seconds: how long it may be silent, where nothing tighter is known.
        on_news: called from a thread when there is something for the worker's own thread to look at.
    """

    def __init__(self, engine: AnyEngine, hang_seconds: float, on_news: Callable[[], None]) -> None:
        self._engine = engine
        self._hang_seconds = hang_seconds
        self._on_news = on_news
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._seats: dict[str, Seat] = {}
        self._holder: Seat | None = None
        self._is_given_up = False
        self.is_dead = False
        #: Why it did not even begin: a setting is wrong for this machine.
        self.refusal: SettingsError | None = None
        #: What it said of errands.
        self.answers: queue.SimpleQueue[Message] = queue.SimpleQueue()
        #: Kind of its device; empty until it has told.
        self.device = ""
        self.loaded: frozenset[str] = frozenset()
        self.residency = Residency()
        #: How many more of each loaded model could be begun.
        self.room: dict[str, int] = {}
        self.silent_seconds = 0.0
        self._listening = threading.Thread(target=self._listen, name="engine", daemon=True)
        self._listening.start()

    @property
    def pid(self) -> int:
        return self._engine.pid

    @property
    def is_alive(self) -> bool:
        return not self.is_dead and self._engine.is_alive()

    @property
    def seats(self) -> tuple[Seat, ...]:
        """What is open in it."""
        with self._lock:
            return tuple(self._seats.values())

    def send(self, order: Message) -> None:
        """Send an order; that it is gone is noticed by who listens."""
        self._reset_silence()
        with self._sending:
            self._engine.send(order)

    def begin(self, order: Message, patience: Patience, *, is_alone: bool = False) -> Seat:
        """Have a job made; alone, if no other may be open beside it.

        Raises:
            EngineDied: it has ended meanwhile.
            MustWait: others are open that it may not be beside, or that may not be beside it.
        """
        seat = Seat(self, order, patience, is_alone=is_alone)
        with self._lock:
            if self.is_dead:
                raise EngineDied(is_to_blame=False)
            if self._seats and (is_alone or any(other.is_alone for other in self._seats.values())):
                raise MustWait
            self.silent_seconds = 0.0  # at once: for how long it had nothing to do is no silence
            self._seats[seat.name] = seat
            seat.stand(is_still=self._holder is not None)
        self.send(order)
        return seat

    def leave(self, seat: Seat) -> None:
        """Listen no more to what is said of a making."""
        with self._lock:
            self._seats.pop(seat.name, None)

    def kill(self) -> None:
        """End it; no job is to blame for that."""
        self._is_given_up = True
        self._engine.kill()
        self._listening.join()

    def _reset_silence(self) -> None:
        with self._lock:
            self.silent_seconds = 0.0

    # in the thread that listens

    def _listen(self) -> None:
        try:
            while True:
                self._hear_next()
        except EOFError:
            pass
        except Exception:
            logger.exception("the engine said what cannot be understood")
        self._end()

    def _hear_next(self) -> None:
        """Raises EOFError: the engine has ended."""
        message = self._engine.receive(LISTEN_SECONDS)
        if message is not None:
            self._reset_silence()
            self._hear(message)
            return
        with self._lock:  # not between two halves of what another thread does
            # what is counted is the waiting itself: a paused machine is no silence
            self.silent_seconds += LISTEN_SECONDS
            is_hung = self.silent_seconds > self._limit_seconds()
        if is_hung:
            extra = {"makings": [seat.name for seat in self.seats], "silent_seconds": self.silent_seconds}
            logger.warning("engine hung", extra=extra)
            self._engine.kill()

    def _limit_seconds(self) -> float:
        """How long it may be silent now: only who has the device can hang it. One that does nothing has nothing to say."""
        if not self._seats:
            return float("inf")
        holder = self._holder
        return self._hang_seconds if holder is None else holder.patience.limit_seconds

    def _hear_of_engine(self, message: Message) -> None:
        if "device" in message:
            self.residency = Residency.from_dict(message["residency"])
            self.loaded, self.device = frozenset(message["loaded"]), message["device"]
            self.room = message.get("room", {})
            self._on_news()
        if message["is"] == "refused":
            self.refusal = SettingsError(message["message"], hint=message["hint"])
        if message["is"] == "obeyed":
            self.answers.put(message)

    def _hear(self, message: Message) -> None:
        self._hear_of_engine(message)
        if (name := message.get("making")) is None:
            if message["is"] == "turn":
                self._give_turn(None)
            return
        with self._lock:
            seat = self._seats.get(name)
        if message["is"] == "turn":
            self._give_turn(seat)
        elif seat is not None and message["is"] == "begun":
            seat.is_begun = True
        elif seat is not None:
            needed = seat.needs_device
            seat.hear(message)
            if message["is"] in ENDINGS:
                self.leave(seat)
                seat.stand(is_still=True)  # what is to be done with it yet needs no device
            if needed and not seat.needs_device:
                self._on_news()

    def _give_turn(self, seat: Seat | None) -> None:
        if self._holder is not None:
            self._holder.turn(is_its=False)
        if seat is not None:
            seat.turn(is_its=True)
        self._holder = seat
        for each in self.seats:
            each.stand(is_still=seat is not None and each is not seat)

    def _end(self) -> None:
        """Tell all that are open; who had the device is to blame, or any of them if nobody had it."""
        status = self._engine.kill()
        self._engine.close()
        with self._lock:
            self.is_dead = True
            seats, self._seats = tuple(self._seats.values()), {}
        holder = self._holder if self._holder in seats else None
        is_nobodys_fault = self._is_given_up or self.refusal is not None
        blamed = () if is_nobodys_fault else seats if holder is None else (holder,)
        extra = {"pid": self.pid, "status": status, "makings": [seat.name for seat in seats]}
        if self._is_given_up:
            logger.info("engine ended", extra=extra)
        else:
            logger.warning("engine died", extra=extra)
        for seat in seats:
            seat.hear(EngineDied(is_to_blame=seat in blamed))
        self._on_news()

"""A further device of an engine: a process of its own that makes what the leading one makes, as far as that needs it.

Started as `python -m vitascope.engine.following FD`. It makes a request at its own pace, and stands still before each forward that
devices share until the leader says to go on. Whatever goes wrong is told; it ends with the leader.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import NoReturn

from vitascope.domain.errors import ModelUnavailable
from vitascope.domain.loras import LoraFile
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import Lora
from vitascope.domain.step import Step

from . import ranks
from .contract import DeviceLost
from .device import free_bytes
from .engine import DiffusersEngine
from .generation import pause
from .lifeline import die_with_parent
from .parallel import Group, Kind, Together, join, leave

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
"""Whoever waits for memory looks so often whether it is there."""

Send = Callable[[ranks.News], None]


def main(fd: int) -> NoReturn:
    """Serve the leader until it is gone.

    Args:
        fd: our end of the conversation, inherited.
    """
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever leads decides what it means
    connection = Connection(fd)
    sending = threading.Lock()

    def send(news: ranks.News) -> None:
        with sending, contextlib.suppress(OSError):  # that it is gone is noticed where it is listened to
            connection.send(news)

    setup: ranks.Setup = connection.recv()
    logging.basicConfig(handlers=[_ToLeader(send, setup)], level=setup.log_level, force=True)
    known = _Known()
    try:
        engine = DiffusersEngine(
            known.locate,
            device=setup.device,
            threads=setup.threads,
            memory_gb=setup.memory_gb,
            slots=setup.slots,
            wishes=setup.wishes,
            find_loras=known.find_loras,
            lora_cache_bytes=setup.lora_cache_bytes,
            embeddings_cache_bytes=setup.embeddings_cache_bytes,
            notes=setup.notes,
        )
    except Exception as error:  # noqa: BLE001  the leader says it
        send(ranks.Ready(problem=ranks.Trouble.of(error)))
        sys.exit(1)
    inbox: queue.SimpleQueue[ranks.Order] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), name="listen", daemon=True).start()
    follower = Follower(engine, setup, known, inbox, send)
    send(ranks.Ready(free_bytes(engine.torch_device)))
    follower.serve()


def _listen(connection: Connection, inbox: queue.SimpleQueue[ranks.Order]) -> NoReturn:
    """Take orders while the engine works; a closed pipe means that the leader is gone."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            inbox.put(connection.recv())
    os._exit(0)


class _ToLeader(logging.handlers.QueueHandler):
    """Has the leader log what is logged here: there is one log."""

    def __init__(self, send: Send, setup: ranks.Setup) -> None:
        super().__init__(queue.SimpleQueue())
        self._send = send
        self._setup = setup

    def enqueue(self, record: logging.LogRecord) -> None:
        record.rank, record.device = self._setup.rank, self._setup.device
        self._send(ranks.Log(record))


class _Known:
    """What the leader has found out, in place of what an engine looks for."""

    def __init__(self) -> None:
        self._locations: dict[tuple[str, str], str] = {}
        self._loras: dict[tuple[str, tuple[Lora, ...]], tuple[LoraFile, ...]] = {}

    def hear(self, facts: ranks.Facts) -> None:
        self._locations |= facts.locations
        self._loras |= facts.loras

    def locate(self, spec: ModelSpec) -> str:
        try:
            return self._locations[spec.id, spec.source]
        except KeyError:
            raise ModelUnavailable(f"nobody has said where `{spec.id}` is") from None

    def find_loras(self, asked: Sequence[Lora], spec: ModelSpec) -> tuple[LoraFile, ...]:
        return self._loras.get((spec.id, tuple(asked)), ())


class _Abandoned(Exception):
    """Another device has not computed its part."""


class _Part(Together):
    """One request in this process.

    Args:
        begin: of the leader.
        group: of the ranks.
        inbox: where orders come.
        send: tells the leader.
    """

    def __init__(
        self, begin: ranks.Begin, group: Group, inbox: queue.SimpleQueue[ranks.Order], send: Send
    ) -> None:
        kind: Kind = begin.kind
        super().__init__(kind, None, group)
        self.number = begin.number
        self._inbox = inbox
        self._send = send
        self._count = 0
        #: Whether it waits for something else that is open, for its memory.
        self.is_waiting = False
        #: Whether it waits for the leader's word.
        self.is_standing = False
        self.was_exchanging = False
        self.steps: Generator[Step, None, None] | None = None

    def stand(self, what: Hashable) -> None:
        self._count += 1
        self.is_standing = True
        self._send(ranks.Standing(self.number, self._count, what))
        while self.is_standing:
            pause(None)

    def agree(self, error: Exception | None) -> None:
        self._send(ranks.Ran(self.number, error is None))
        # it says nothing else meanwhile: it is amid the same forward
        order = self._inbox.get()
        assert isinstance(order, ranks.Exchange | ranks.Abandon), order
        if error is not None:
            raise error
        if isinstance(order, ranks.Abandon):
            raise _Abandoned

    @contextlib.contextmanager
    def exchanging(self) -> Iterator[None]:
        self.was_exchanging = True
        yield
        self.was_exchanging = False  # not where it has failed


class Follower:
    """Makes what it is told to, one piece after the other.

    Args:
        engine: of this process.
        setup: of the leader.
        known: what the leader has found out.
        inbox: where orders come.
        send: tells the leader.
    """

    def __init__(
        self,
        engine: DiffusersEngine,
        setup: ranks.Setup,
        known: _Known,
        inbox: queue.SimpleQueue[ranks.Order],
        send: Send,
    ) -> None:
        self._engine = engine
        self._setup = setup
        self._known = known
        self._inbox = inbox
        self._send = send
        self._group: Group | None = None
        #: What is open; the next that may work first.
        self._parts: dict[int, _Part] = {}

    def serve(self) -> NoReturn:
        while True:
            able = [part for part in self._parts.values() if not part.is_standing]
            order = self._next_order(able)
            if order is not None:
                self._obey(order)
            elif able:
                part = able[0]
                self._parts[part.number] = self._parts.pop(part.number)
                self._advance(part)

    def _next_order(self, able: Sequence[_Part]) -> ranks.Order | None:
        """Take an order if there is one; wait for one as long as there is nothing else to do."""
        seconds = LOOK_SECONDS if all(part.is_waiting for part in able) else 0.0
        try:
            return self._inbox.get(timeout=seconds if able else None)
        except queue.Empty:
            return None

    def _obey(self, order: ranks.Order) -> None:
        if isinstance(order, ranks.Quit):
            leave()
            os._exit(0)
        if isinstance(order, ranks.Begin):
            self._begin(order)
        elif isinstance(order, ranks.Go):
            part = self._parts[order.number]
            part.is_standing = False
            self._advance(part)
        elif isinstance(order, ranks.Close):
            part_or_none = self._parts.pop(order.number, None)
            if part_or_none is not None and part_or_none.steps is not None:
                self._close(part_or_none.steps)
        elif isinstance(order, ranks.Join | ranks.Do):
            self._send(ranks.Done(self._try(order)))

    def _begin(self, order: ranks.Begin) -> None:
        assert self._group is not None, "it has joined one"
        self._hear(order.spec, order.facts)
        part = _Part(order, self._group, self._inbox, self._send)
        part.steps = self._engine.follow(order.plan, order.spec, order.inputs, order.first, part)
        self._parts[part.number] = part

    def _advance(self, part: _Part) -> None:
        """Do the next piece of a request; where it stands still again, or is over, is told."""
        assert part.steps is not None
        try:
            part.is_waiting = next(part.steps).is_waiting
        except DeviceLost:
            logger.critical("device lost: this process ends", exc_info=True)
            os._exit(1)
        except StopIteration:
            del self._parts[part.number]  # the leader has one too
        except Exception as error:
            del self._parts[part.number]
            trouble = ranks.Trouble.of(error)
            logger.info("a request failed here", exc_info=error)
            self._send(ranks.Failed(part.number, trouble, part.was_exchanging))

    def _close(self, steps: Generator[Step, None, None]) -> None:
        try:
            steps.close()
        except Exception:
            logger.exception("a request did not end as it should")

    def _try(self, order: ranks.Join | ranks.Do) -> ranks.Trouble | None:
        try:
            if isinstance(order, ranks.Join):
                leave()
                setup = self._setup
                self._group = join(
                    order.folder,
                    setup.rank,
                    setup.size,
                    self._engine.torch_device,
                    order.number,
                    order.seconds,
                )
            else:
                if order.facts is not None:
                    self._hear(order.arguments[0], order.facts)
                getattr(self._engine, order.what)(*order.arguments)
        except Exception as error:
            logger.info("an order failed here", exc_info=error)
            return ranks.Trouble.of(error)
        return None

    def _hear(self, spec: ModelSpec, facts: ranks.Facts) -> None:
        self._known.hear(facts)
        if facts.placed is not None:
            self._engine.place_as(spec, facts.placed)


if __name__ == "__main__":
    main(int(sys.argv[1]))

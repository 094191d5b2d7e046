"""The first device of an engine that has several: it starts a process for each further one, and has all make the same.

What is between two shared forwards every rank does at its own pace; before one the leader waits until all stand there, and then
they run it together. One that fails is heard of there, and the request ends on all of them. One that dies or hangs ends this process
too, whose jobs then are made again: nobody knows what the others wait for.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO

import torch

from vitascope.domain.choice import Choice
from vitascope.domain.errors import SettingsError
from vitascope.domain.step import Step

from . import ranks
from .generation import pause
from .parallel import Group, Kind, Together, abandon, join, leave
from .shortage import is_shortage

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "vitascope.engine.following")

_LOCK = "lock"

LOOK_SECONDS = 0.05
"""Whoever waits for the other ranks can be cancelled so often."""

TELL_SECONDS = 5.0
"""A rank that failed amid an exchange has said so before the exchange fails here; one that died is noticed within this time."""

STOP_SECONDS = 10.0
"""A rank that was told to end is killed after so long."""


def end_process(message: str) -> None:
    """End this process and all ranks at once: whoever started it has its work done by another one."""
    logger.critical("%s", message)
    logging.shutdown()
    os._exit(1)


@dataclass(eq=False)
class _Follower:
    """A further rank, as it is seen from here."""

    rank: int
    device: str
    process: subprocess.Popen[bytes]
    connection: Connection
    ready: ranks.Ready | None = None
    standing: dict[int, ranks.Standing] = field(default_factory=dict)
    ran: dict[int, bool] = field(default_factory=dict)
    failed: dict[int, ranks.Trouble] = field(default_factory=dict)
    done: deque[ranks.Done] = field(default_factory=deque)

    @property
    def name(self) -> str:
        return f"device {self.rank} of the engine, `{self.device}`"

    def forget(self, number: int) -> None:
        for about in (self.standing, self.ran, self.failed):
            about.pop(number, None)


class Leader:
    """The further devices of this engine. Used from the engine's thread only.

    Args:
        devices: all of them, this process's first.
        setup: of another rank's engine, by its number and device, their number and the level of its log.
        notes: folder of the engine; None takes one for temporary files.
        hang_seconds: how long a rank may keep the others waiting.
        end: called from any thread when a rank has died or hangs; does not return.
    """

    def __init__(
        self,
        devices: Sequence[torch.device],
        setup: Callable[[int, str, int, int], ranks.Setup],
        notes: Path | None,
        hang_seconds: float,
        end: Callable[[str], None] = end_process,
    ) -> None:
        self._devices = devices
        self._setup = setup
        self._notes = notes
        self._hang_seconds = hang_seconds
        self._end = end
        self._changed = threading.Condition()
        self._followers: list[_Follower] = []
        self._listening: threading.Thread | None = None
        self._folder: Path | None = None
        self._lock: IO[bytes]
        self._group: Group | None = None
        self._num_groups = self._num_parts = 0
        #: Numbers of the requests that are made together.
        self._open: set[int] = set()
        #: Since when this thread is amid an exchange.
        self._exchanging_since: float | None = None
        self._is_stopping = False
        #: Whether a rank failed amid an exchange: then all are gone but this one.
        self._is_broken = False

    @property
    def size(self) -> int:
        return len(self._devices)

    def start(self) -> int:
        """Start the other ranks; returns when all are there.

        Returns:
            Bytes that are free on the fullest of their devices.

        Raises:
            SettingsError: one cannot work.
        """
        self._is_stopping = self._is_broken = False
        self._folder, self._lock = _meeting_folder(self._notes)
        self._followers = [
            self._start(rank, str(device)) for rank, device in enumerate(self._devices) if rank
        ]
        self._listening = threading.Thread(target=self._listen, name="ranks", daemon=True)
        self._listening.start()
        try:
            self._await("started", lambda each: each.ready is not None)
            self._check_started()
            self._join()
        except BaseException:
            self.stop()
            raise
        return min(each.ready.free_bytes for each in self._followers if each.ready is not None)

    def _start(self, rank: int, device: str) -> _Follower:
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            # in the process group of this one, so that whoever kills that takes it along
            process = subprocess.Popen(
                [*COMMAND, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        with contextlib.suppress(OSError):  # one that has died at once is noticed by who listens
            ours.send(self._setup(rank, device, self.size, logging.getLogger().getEffectiveLevel()))
        return _Follower(rank, device, process, ours)

    def _check_started(self) -> None:
        for each in self._followers:
            if each.ready is not None and (problem := each.ready.problem) is not None:
                raise SettingsError(f"{each.name} cannot work: {problem.message}", hint=problem.hint)

    def _join(self) -> None:
        assert self._folder is not None
        self._num_groups += 1
        order = ranks.Join(self._folder, self._num_groups, self._hang_seconds)
        self._tell(order)
        with self._exchange():
            self._group = join(order.folder, 0, self.size, self._devices[0], order.number, self._hang_seconds)
        self._collect()

    def stop(self) -> None:
        """End the other ranks. They are started again when they are needed."""
        if not self._followers:
            return
        self._is_stopping = True
        self._group = None
        for each in self._followers:
            if self._is_broken:
                each.process.kill()
        if self._is_broken:
            abandon()
        self._tell_quit()
        leave()
        for each in self._followers:
            try:
                each.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()
        if self._listening is not None:
            self._listening.join()
        for each in self._followers:
            each.connection.close()
        self._followers = []
        self._open.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._lock.close()
            self._folder = None

    def _tell_quit(self) -> None:
        self._tell(ranks.Quit())

    # what is asked of all ranks

    @contextlib.contextmanager
    def begun(self, kind: Kind, choice: Choice, begin: Callable[[int], ranks.Begin]) -> Iterator[Together]:
        """Have all ranks make a request, for as long as the block.

        Args:
            kind: what they share.
            choice: why.
            begin: makes the order of its number.
        """
        if kind == "off":
            yield Together(kind, choice)
            return
        self.have_started()
        assert self._group is not None
        self._num_parts += 1
        number = self._num_parts
        self._open.add(number)
        try:
            self._tell(begin(number))
            yield _Part(number, kind, choice, self._group, self)
        finally:
            self._close(number)

    def _close(self, number: int) -> None:
        with self._changed:
            self._open.discard(number)
            for each in self._followers:
                each.forget(number)
        if not self._is_broken:
            self._tell(ranks.Close(number))

    @contextlib.contextmanager
    def doing(self, what: str, *arguments: object, facts: ranks.Facts | None = None) -> Iterator[None]:
        """Have the other ranks call a method of their engines beside the block; raises what went wrong in one of them."""
        if self._group is None or self._is_broken:
            yield  # nothing is loaded there
            return
        self._tell(ranks.Do(what, arguments, facts))
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong here is told
                self._collect()
            raise
        self._collect()

    def have_started(self) -> None:
        """Start the other ranks if they are not there."""
        if self._is_broken:
            self.stop()
        if self._group is None:
            self.start()

    def _tell(self, order: ranks.Order) -> None:
        for each in self._followers:
            with contextlib.suppress(OSError):  # one that is gone is noticed by who listens
                each.connection.send(order)

    def _collect(self) -> None:
        """Wait until all have obeyed; raises what went wrong in one of them."""
        self._await("obeyed", lambda each: bool(each.done))
        with self._changed:
            troubles = [(each, each.done.popleft().trouble) for each in self._followers]
        for each, trouble in troubles:
            if trouble is not None:
                raise trouble.to_error(each.name)

    def _await(self, what: str, is_so: Callable[[_Follower], bool]) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: all(map(is_so, self._followers)), self._hang_seconds):
                late = next(each for each in self._followers if not is_so(each))
                self._end(f"{late.name} has not {what} within {self._hang_seconds:.0f} s")

    # of one request

    def all_stand(self, number: int, count: int, what: Hashable, since: float) -> bool:
        """Wait a moment until all ranks stand before a forward; returns whether they do.

        Raises:
            Exception: one makes no more of this request.
        """

        def is_there(each: _Follower) -> bool:
            standing = each.standing.get(number)
            return each.failed.get(number) is not None or (standing is not None and standing.count == count)

        with self._changed:
            are_there = self._changed.wait_for(lambda: all(map(is_there, self._followers)), LOOK_SECONDS)
            self._raise_trouble(number)
            if self._is_broken:
                raise RuntimeError("the other devices are gone")
            if not are_there:
                if time.monotonic() - since > self._hang_seconds:
                    late = next(each for each in self._followers if not is_there(each))
                    self._end(f"{late.name} has kept the others waiting for {self._hang_seconds:.0f} s")
                return False
            if other := next((e for e in self._followers if e.standing[number].what != what), None):
                message = f"{other.name} does something else than the first"
                raise RuntimeError(message)
        return True

    def _raise_trouble(self, number: int) -> None:
        for each in self._followers:
            if (trouble := each.failed.get(number)) is not None:
                raise trouble.to_error(each.name)

    def go(self, number: int) -> None:
        with self._changed:
            for each in self._followers:
                each.ran.pop(number, None)
        self._tell(ranks.Go(number))

    def agree(self, number: int, error: Exception | None) -> None:
        """See whether all have computed theirs, and tell them; see `Together.agree`."""
        if error is None:
            self._await("computed its part", lambda each: number in each.ran)
        is_there = error is None and all(each.ran[number] for each in self._followers)
        self._tell(ranks.Exchange(number) if is_there else ranks.Abandon(number))
        if error is not None:
            raise error
        if not is_there:
            self._await("said why it failed", lambda each: each.ran[number] or number in each.failed)
            with self._changed:
                self._raise_trouble(number)

    @contextlib.contextmanager
    def exchanging(self, number: int) -> Iterator[None]:
        """Compute what needs the other ranks in its midst; see `Together.exchanging`."""
        try:
            with self._exchange():
                yield
        except Exception as error:
            self._tell_broken(number, error)
            with self._changed:
                self._raise_trouble(number)
            raise
        with self._changed:  # NCCL's kernels end with whatever they have
            self._raise_trouble(number)

    def _tell_broken(self, number: int, error: Exception) -> None:
        """See whether this rank failed, another one did, or another one is dead; the others wait for an exchange that will not come."""
        if not is_shortage(error):
            with self._changed:
                self._changed.wait_for(lambda: self._is_broken, TELL_SECONDS)
        if not self._is_broken:
            self._break_up(number)

    @contextlib.contextmanager
    def _exchange(self) -> Iterator[None]:
        self._exchanging_since = time.monotonic()
        try:
            yield
        finally:
            self._exchanging_since = None

    def _break_up(self, number: int) -> None:
        """End the other ranks, which wait for each other: no exchange of this group is whole any more."""
        with self._changed:
            others = self._open - {number}
            if others:
                self._end(
                    "a device failed amid a step, and others' videos are in the making: they are begun anew"
                )
            self._is_broken = True
            for each in self._followers:
                each.process.kill()
            self._changed.notify_all()
        abandon()

    # in the thread that listens

    def _listen(self) -> None:
        connections = {each.connection: each for each in self._followers}
        while connections:
            for ready in wait(list(connections), timeout=1.0):
                assert isinstance(ready, Connection)
                try:
                    self._hear(connections[ready], ready.recv())
                except (EOFError, OSError):
                    self._note_end(connections.pop(ready))
            since = self._exchanging_since
            if since is not None and time.monotonic() - since > self._hang_seconds:
                self._end(
                    f"the devices of the engine have waited for each other for {self._hang_seconds:.0f} s"
                )

    def _hear(self, each: _Follower, news: ranks.News) -> None:
        if isinstance(news, ranks.Log):
            logging.getLogger(news.record.name).handle(news.record)
            return
        with self._changed:
            if isinstance(news, ranks.Ready):
                each.ready = news
            elif isinstance(news, ranks.Done):
                each.done.append(news)
            elif news.number in self._open:
                self._note(each, news)
            self._changed.notify_all()
        if isinstance(news, ranks.Failed) and news.was_exchanging and not self._is_broken:
            self._break_up(news.number)

    def _note(self, each: _Follower, news: ranks.Standing | ranks.Ran | ranks.Failed) -> None:
        if isinstance(news, ranks.Standing):
            each.standing[news.number] = news
        elif isinstance(news, ranks.Ran):
            each.ran[news.number] = news.is_there
        else:
            each.failed[news.number] = news.trouble

    def _note_end(self, each: _Follower) -> None:
        if self._is_stopping or self._is_broken:
            return
        if each.ready is not None and each.ready.problem is not None:
            return  # it has said why
        status = each.process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        self._end(f"{each.name} {how}: the engine process ends, and its jobs are made again")


def _meeting_folder(notes: Path | None) -> tuple[Path, IO[bytes]]:
    """Make a folder in which ranks find each other; what engines that were killed have left beside it is removed.

    Returns:
        The folder, and its lock, which ends with this process, however that ends.
    """
    within = Path(tempfile.gettempdir()) / "vitascope-ranks" if notes is None else notes / "ranks"
    within.mkdir(parents=True, exist_ok=True)
    while True:
        folder = Path(tempfile.mkdtemp(dir=within))
        lock = (folder / _LOCK).open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / _LOCK).exists():  # else another engine has taken it for abandoned in between
            break
        lock.close()
    for other in within.glob(f"*/{_LOCK}"):
        # names and process ids would say nothing: engines in containers may have the same
        with contextlib.suppress(OSError), other.open("wb") as theirs:
            fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(other.parent, ignore_errors=True)
    return folder, lock


class _Part(Together):
    """One request, on the leading rank.

    Args:
        number: of the request.
        kind: what ranks share.
        choice: why.
        group: of the ranks.
        leader: of the engine.
    """

    def __init__(self, number: int, kind: Kind, choice: Choice, group: Group, leader: Leader) -> None:
        super().__init__(kind, choice, group)
        self._number = number
        self._leader = leader
        self._count = 0

    def stand(self, what: Hashable) -> None:
        self._count += 1
        since = time.monotonic()
        while not self._leader.all_stand(self._number, self._count, what, since):
            pause(Step("load", is_waiting=True))
        self._leader.go(self._number)

    def agree(self, error: Exception | None) -> None:
        self._leader.agree(self._number, error)

    def exchanging(self) -> contextlib.AbstractContextManager[None]:
        return self._leader.exchanging(self._number)

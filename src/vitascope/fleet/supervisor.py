"""Runs the processes of one machine: starts them, starts them again when they die, stops them all at the end."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from vitascope.domain.errors import ServerBusy, SettingsError

logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 0.5, 30.0
HEALTHY_SECONDS = 30.0
"""A process that ran for so long starts again without waiting."""


RESTART_STATUS = 75
"""A process that ends so wants to be started anew at once: it has not failed. `EX_TEMPFAIL` of sysexits.h, which no crash gives."""

REFUSED_STATUS = 2
"""A process that ends so at its first start says that a setting is wrong: to start it again would change nothing."""

TEND_SECONDS = 0.1
"""How often members and signals are looked at."""

HAND_BACK_SECONDS = 3.0
"""How long members have after a second signal: enough to write down that a job waits again."""

LAST_ANSWERS_SECONDS = 15.0
"""How long the members that end last may take: answers that are being sent have 10 s."""


@dataclass
class _Member:
    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    backoff_seconds: float = field(default=FIRST_BACKOFF_SECONDS)
    start_at: float = 0.0
    num_ends: int = 0


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the data folder for one server. The lock ends with this process, however that ends.

    Raises:
        ServerBusy: another server holds it.
        SettingsError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "serve.lock").open("w")
    except OSError as error:
        message = f"the data folder `{folder}` cannot be written: {error.strerror}"
        raise SettingsError(message, hint="set VITASCOPE_HOME to a folder of yours") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"another server is using the data folder `{folder}`"
            raise ServerBusy(message, hint="stop it, or set VITASCOPE_HOME to another folder") from None
        yield


class Supervisor:
    """Keeps named processes running until a signal says to stop.

    The members get a pipe as standard input that closes when this process ends, however it ends: they watch it and stop.

    Args:
        commands: command lines by name.
        environment: the members' whole environment.
        stop_seconds: how long members may take to stop before they are killed.
        ends_last: names of those that go on, though they are told at once, until all others have ended.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        environment: Mapping[str, str],
        stop_seconds: float,
        ends_last: Collection[str] = (),
    ) -> None:
        self._members = [_Member(name, command) for name, command in commands.items()]
        self._environment = dict(environment)
        self._stop_seconds = stop_seconds
        self._ends_last = ends_last
        self._signals = 0
        self._signals_told = 0
        self._first_signal = 0
        self._is_refused = False

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, which let running jobs finish; a second one makes them be handed back.

        Returns:
            The first signal; 0 if a member has refused its settings at its first start, and has said why.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            while self._signals == 0 and not self._is_refused:
                for member in self._members:
                    self._tend(member)
                time.sleep(TEND_SECONDS)
        finally:
            self._stop_all()
        return self._first_signal

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._first_signal = self._first_signal or number
        self._signals += 1  # no lock: the signal may have come while this very thread held it

    def _tend(self, member: _Member) -> None:
        """Start the member, or start it again after a pause that grows with each early death."""
        now = time.monotonic()
        if member.process is not None and member.process.poll() == RESTART_STATUS:
            logger.info("process is started anew", extra={"member": member.name})
            member.process = None
        elif member.process is not None and member.process.poll() == REFUSED_STATUS and not member.num_ends:
            self._is_refused = True
            return
        elif member.process is not None and member.process.poll() is not None:
            member.num_ends += 1
            lived = now - member.started_at
            if lived > HEALTHY_SECONDS:
                member.backoff_seconds = FIRST_BACKOFF_SECONDS
            logger.warning(
                "process ended",
                extra={
                    "member": member.name,
                    "status": member.process.returncode,
                    "restart_in": member.backoff_seconds,
                },
            )
            member.process = None
            member.start_at = now + member.backoff_seconds
            member.backoff_seconds = min(member.backoff_seconds * 2, LAST_BACKOFF_SECONDS)
        if member.process is None and now >= member.start_at:
            member.process = subprocess.Popen(
                member.command, env=self._environment, stdin=subprocess.PIPE, process_group=0
            )
            member.started_at = now
            logger.info("process started", extra={"member": member.name, "pid": member.process.pid})

    def _stop_all(self) -> None:
        """Tell all members to stop; those that end last are told a second time, by the end of their standard input."""
        if not self._is_refused:
            logger.info("stopping: running videos may finish; the same signal again hands them back")
        self._tell()
        last = [member for member in self._members if member.name in self._ends_last]
        self._await([member for member in self._members if member not in last], self._stop_seconds)
        for process in _running(last):
            assert process.stdin is not None
            process.stdin.close()
        self._await(last, LAST_ANSWERS_SECONDS)

    def _tell(self) -> None:
        """Pass a signal on to all members that still run."""
        self._signals_told = self._signals
        for process in _running(self._members):
            process.terminate()

    def _await(self, members: Sequence[_Member], seconds: float) -> None:
        """Wait until these have ended, and kill those that take longer."""
        deadline = time.monotonic() + seconds
        while _running(members) and time.monotonic() < deadline:
            if self._signals > self._signals_told:  # asked again: hand back what there is, at once
                self._tell()
                deadline = min(deadline, time.monotonic() + HAND_BACK_SECONDS)
            time.sleep(0.05)
        for process in _running(members):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _running(members: Sequence[_Member]) -> list[subprocess.Popen[bytes]]:
    return [m.process for m in members if m.process is not None and m.process.poll() is None]


def when_orphaned(act: Callable[[], None]) -> None:
    """In a member: call `act`, in a thread, when the supervisor's end of standard input closes."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        act()

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()

"""A real deployment on this machine: `vitascope serve`, and web processes and workers beside it on the same store."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

Kind = Literal["web", "worker", "engine", "supervisor"]

#: How a process is called on its command line, by what it is.
COMMANDS: dict[str, Kind] = {
    "serve": "supervisor",
    "web": "web",
    "worker": "worker",
    "engine-process": "engine",
}

STOP_SECONDS = 60.0
PORTS = range(20_000, 30_000)

RESTART_SECONDS = 1.0
"""Pause before a process that ended is started again: it may still be waiting for the port of the one before."""

LOST_PROCESS_SECONDS = 20.0
"""A process whose parent was killed has so long to end."""


@dataclass
class Member:
    """A process that is started again when it ends."""

    name: str
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    #: Not before this moment of the monotonic clock.
    start_at: float = 0.0

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Deployment:
    """Processes on one data folder.

    Args:
        folder: for the data folder and the log.
        settings: environment variables of all processes.
        num_webs: web processes beside the one of `serve`.
        num_workers: workers beside the one of `serve`.
    """

    def __init__(
        self, folder: Path, settings: dict[str, str], *, num_webs: int = 0, num_workers: int = 0
    ) -> None:
        self.home = folder / "home"
        self.log = folder / "log"
        self.ports = free_ports(num_webs + 1)
        scrubbed = {k: v for k, v in os.environ.items() if not k.startswith("VITASCOPE_")}
        scrubbed.pop("DATABASE_URL", None)
        # Python 3.11 does not notice when a full disk cuts a .pyc short, and trips over it ever after
        kept = {"VITASCOPE_HOME": str(self.home), "PYTHONDONTWRITEBYTECODE": "1"}
        self._environment = {**scrubbed, **kept, **settings}
        self.members = [self._member("serve", self.ports[0])]
        self.members += [self._member("web", port) for port in self.ports[1:]]
        self.members += [self._member("worker", None) for _ in range(num_workers)]

    def _member(self, name: str, port: int | None) -> Member:
        environment = {**self._environment}
        if port is not None:
            environment["VITASCOPE_SERVER__PORT"] = str(port)
        return Member(name, [sys.executable, "-m", "vitascope", name], environment)

    def tend(self) -> None:
        """Start what does not run."""
        with self.log.open("ab") as log:
            for member in self.members:
                if not member.is_running and time.monotonic() >= member.start_at:
                    member.start_at = time.monotonic() + RESTART_SECONDS
                    member.process = subprocess.Popen(
                        member.command,
                        env=member.environment,
                        cwd=self.log.parent,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )

    def processes(self) -> dict[Kind, list[psutil.Process]]:
        """Find all that runs now, by what it is; what has died and was not noticed yet is left out."""
        found: dict[Kind, list[psutil.Process]] = {kind: [] for kind in COMMANDS.values()}
        for member in self.members:
            if member.process is not None and member.process.poll() is None:
                for process in _family(member.process.pid):
                    if (kind := _kind(process)) is not None:
                        found[kind].append(process)
        return found

    def stop(self) -> list[str]:
        """Tell all to stop and wait. Returns what went wrong: processes that had to be killed, or outlived their parents."""
        problems = []
        running = [member for member in self.members if member.process is not None]
        for member in running:
            assert member.process is not None
            with contextlib.suppress(ProcessLookupError):
                member.process.send_signal(signal.SIGTERM)
        for member in running:
            assert member.process is not None
            try:
                member.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                problems.append(f"`{member.name}` did not stop within {STOP_SECONDS:.0f} s of SIGTERM")
                member.process.kill()
                member.process.wait()
        return problems + self._end_orphans()

    def run_until(
        self, name: Literal["web", "worker"], condition: Callable[[], bool], seconds: float
    ) -> None:
        """Run a web process or a worker alone until the condition is true or the time is over."""
        self.members = [self._member(name, self.ports[0] if name == "web" else None)]
        self.tend()
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.1)
        self.stop()

    def _end_orphans(self) -> list[str]:
        deadline = time.monotonic() + LOST_PROCESS_SECONDS
        while orphans := self._of_this_home():
            if time.monotonic() > deadline:
                for process in orphans:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                return [f"a process outlived its parent: {_kind(process)}" for process in orphans]
            time.sleep(0.1)
        return []

    def _of_this_home(self) -> list[psutil.Process]:
        """Find processes by the data folder in their environment, whoever is their parent now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_ours = process.environ().get("VITASCOPE_HOME") == str(self.home)
                if is_ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Make a folder that is removed at the end, unless it was moved away."""
    folder = Path(tempfile.mkdtemp(prefix=f"vitascope-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Find ports that nobody uses, outside the range from which clients' own ports are taken.

    Within it a client that tries a port while its server restarts will, once in some thousand times, be given this very port
    for its own end: TCP then connects it to itself, and the server finds its port taken.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return ports


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kind(process: psutil.Process) -> Kind | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        command = process.cmdline()
        return COMMANDS.get(command[3]) if len(command) > 3 and command[2] == "vitascope" else None
    except psutil.Error:
        return None

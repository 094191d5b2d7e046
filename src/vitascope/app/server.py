"""The web server: listens, drains, and ends."""

from __future__ import annotations

import gc
import logging
import math
import signal
import socket
import time
from contextlib import closing
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from vitascope.fleet.supervisor import when_orphaned
from vitascope.settings import Settings

from .checks import check_host, check_secrets, check_storage_and_tell, listen
from .opening import open_store
from .web import create_web_app

logger = logging.getLogger(__name__)


SHUTDOWN_SECONDS = 10
"""What answers may take that are being sent when the server stops, such as downloads."""

SILENT_SECONDS = 30.0
"""A connection on which no whole request head has ever come is closed after so long. uvicorn alone would wait for ever."""

KEEP_ALIVE_SECONDS = 75
"""One that has had an answer is kept for so long: longer than load balancers keep theirs (60 s mostly). Were ours the shorter time, we might
close a connection in the very moment in which they send a request on it, and their client would be told 502."""

LAST_LOOK_SECONDS = 1.0
"""How long a supervised web process outlives the workers: streams and who polls learn how the last jobs ended."""


def run_web(settings: Settings, *, supervised: bool = False) -> None:
    """Serve until a signal says to stop; then go on for a while, unready, and finish the answers that are being sent.

    Args:
        settings: all of them.
        supervised: go on until the supervisor closes standard input, which it does when the workers have ended.

    Raises:
        SettingsError: the address, the data folder or the database cannot be used.
    """
    app = create_web_app(settings)
    # what is wrong with the store shows here as one sentence, not as a traceback in the lifespan
    with closing(open_store(settings)) as store:
        check_host(settings, store)
        check_secrets(store)
    check_storage_and_tell(settings)
    listener = listen(settings.server.host, settings.server.port)
    config = uvicorn.Config(
        app,
        log_config=None,  # who starts the process has set up logging
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.server.trusted_proxies),
        forwarded_allow_ips=list(settings.server.trusted_proxies),
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    host, port = listener.getsockname()[:2]
    logger.info("listening", extra={"url": f"http://{f'[{host}]' if ':' in host else host}:{port}"})
    _collect_seldom()
    server = _Server(config, app, math.inf if supervised else settings.server.drain_seconds)
    if supervised:
        when_orphaned(server.end_soon)
    with listener:
        server.run(sockets=[listener])


def _collect_seldom() -> None:
    """Let Python look for cyclic garbage seldom: each full look stopped all answers for some 100 ms at 1,000 pollers.

    Measured there, once all were connected: p99 of a GET 138 ms with Python's own thresholds, 11 to 28 ms with these
    (docs/reliability.md), at the same memory.
    """
    gc.collect()
    gc.freeze()  # what the start has made stays
    gc.set_threshold(50_000, 20, 100)


class _Server(uvicorn.Server):
    """At the first signal it becomes unready but goes on answering; a second one ends it at once.

    Args:
        config: uvicorn's.
        app: the web app, which is told.
        drain_seconds: how long it goes on; then it ends as uvicorn does, with that first signal.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._signal: int = signal.SIGTERM
        self._end_at: float | None = None
        #: Connections on which nothing is being answered: their last request, and since when.
        self._silent: dict[Any, tuple[Any, float]] = {}

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # only notes: what follows must not happen in the middle of whatever the signal interrupted
        if self._end_at is None:
            self._signal = sig
            self._end_at = time.monotonic() + self._drain_seconds
        else:
            self._end_at = 0.0
            self.force_exit = True

    def end_soon(self) -> None:
        """End as soon as clients had a moment to learn the last news. Safe to call from any thread."""
        end_at = math.inf if self._end_at is None else self._end_at
        self._end_at = min(end_at, time.monotonic() + LAST_LOOK_SECONDS)

    def _close_silent_connections(self) -> None:
        """Close what has been open without a request for too long; what is being answered has its request."""
        now = time.monotonic()
        silent: dict[Any, tuple[Any, float]] = {}
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is None or cycle.response_complete:
                last_cycle, since = self._silent.get(connection, (None, now))
                if cycle is not last_cycle:  # there has been a request since the last look
                    since = now
                silent[connection] = cycle, since
                if now - since > (SILENT_SECONDS if cycle is None else KEEP_ALIVE_SECONDS):
                    connection.transport.close()
        self._silent = silent

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            self._close_silent_connections()
        if self._end_at is not None and not self._app.state.is_stopping:
            self._app.state.is_stopping = True
            logger.info("stopping: requests are answered for a while; the same signal again ends at once")
        if self._end_at is not None and time.monotonic() >= self._end_at and not self.should_exit:
            self._app.state.tail.close()  # else the shutdown would wait for the event streams
            super().handle_exit(self._signal, None)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if (
            self.force_exit
        ):  # then uvicorn leaves this out: writes that have begun would be cut, and a traceback logged
            await self.lifespan.shutdown()

"""One run: a deployment, its clients and its misfortunes, from the first start to the audit."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.client import Unreachable
from bench.deployment import Deployment
from tests.postgres import Server
from vitascope.store.for_expiry import GRACE, TRY_AGAIN

from . import requests
from .audit import audit, files_kept, files_left_over
from .clients import Clients, Record
from .findings import Findings
from .killer import Killer

STEP_SECONDS = 0.05
MAX_ATTEMPTS = 3
MAX_QUEUED = 64
"""Small, so that clients meet a full queue too."""

START_SECONDS = 60.0
END_SECONDS = 300.0
"""After the last kill all that was begun has so long to end."""

SWEPT_AFTER_SECONDS = 86_400.0
"""Any file without a job that is so old is removed by workers."""

DATABASE_AWAY_SECONDS = 2.0
SUBMITTERS = 4
LEAD = 0.05
"""Kills and jobs keep within this share of each other, so that neither happens to an idle server."""

STATUS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall happen."""

    kills: int
    jobs: int
    seed: int
    #: Ends the run early; what was not reached by then is left out.
    seconds: float | None
    lease_seconds: float
    pause_seconds: float
    workers: int
    webs: int
    database_restarts: int
    #: Files go so long after their job's end; None keeps them.
    expire_seconds: int | None = None


class Run:
    """A run on one data folder.

    Args:
        plan: what shall happen.
        folder: for everything.
        server: the PostgreSQL server, or None for SQLite.
        findings: what comes of it.
    """

    def __init__(self, plan: Plan, folder: Path, server: Server | None, findings: Findings) -> None:
        self._plan = plan
        self._server = server
        self._findings = findings
        self._home = folder / "home"
        self._url = server.create_database() if server else f"sqlite:///{self._home / 'vitascope.db'}"
        settings = {
            "VITASCOPE_STORE__URL": self._url,
            "VITASCOPE_STORE__MAX_QUEUED": str(MAX_QUEUED),
            "VITASCOPE_WORKER__LEASE_SECONDS": str(plan.lease_seconds),
            "VITASCOPE_WORKER__MAX_ATTEMPTS": str(MAX_ATTEMPTS),
            "VITASCOPE_WORKER__POLL_SECONDS": "0.1",
            "VITASCOPE_ENGINE__KIND": "fake",
            "VITASCOPE_ENGINE__FAKE_STEP_SECONDS": str(STEP_SECONDS),
        }
        if plan.expire_seconds is not None:
            settings["VITASCOPE_STORAGE__EXPIRE_SECONDS"] = str(plan.expire_seconds)
        self._deployment = Deployment(folder, settings, num_webs=plan.webs, num_workers=plan.workers)
        self._clients = Clients(self._deployment.ports, findings, self._rng("clients"))
        self._killer = Killer(self._deployment, findings, self._rng("kills"), plan.pause_seconds)
        self._lives: set[asyncio.Task[None]] = set()
        self._drafted = 0
        self._asked = 0
        self._restarts = 0
        self._is_over = False

    def _rng(self, purpose: str) -> random.Random:
        return random.Random(f"{self._plan.seed}/{purpose}")

    async def run(self) -> None:
        """Do it all, and audit what is left."""
        started = time.monotonic()
        try:
            async with self._kept_alive():
                await self._ready()
                await self._trouble()
                self._findings.facts["seconds of trouble"] = round(time.monotonic() - started)
                await self._settle()
        finally:
            self._clients.close()
            problems = await asyncio.to_thread(self._deployment.stop)
        for problem in problems:
            self._findings.break_promise("processes left over", problem)
        if self._plan.expire_seconds is not None:
            self._say("waiting until all files have expired")
            await asyncio.to_thread(self._let_expire, self._plan.expire_seconds)
        await asyncio.to_thread(self._let_sweep)
        self._findings.facts = {
            "kills": self._killer.kills,
            "database restarts": self._restarts,
            "jobs acknowledged": len(self._clients.records),
            **self._findings.facts,
        }
        audit(self._url, self._home, self._clients.records, MAX_ATTEMPTS, self._findings)
        self._findings.facts["seconds in all"] = round(time.monotonic() - started)

    @asynccontextmanager
    async def _kept_alive(self) -> AsyncIterator[None]:
        """Start what is not running, all the time."""

        async def tend() -> None:
            while True:
                self._deployment.tend()
                await asyncio.sleep(0.1)

        tending = asyncio.create_task(tend())
        try:
            yield
        finally:
            tending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await tending

    async def _ready(self) -> None:
        async with asyncio.timeout(START_SECONDS):
            await _until(self._is_ready)

    # trouble

    async def _trouble(self) -> None:
        """Let clients submit while processes are killed, until there were enough of both or the time is over."""
        killing = asyncio.create_task(self._killer.run(self._may_kill))
        restarting = asyncio.create_task(self._restart_database())
        reporting = asyncio.create_task(self._report())
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(SUBMITTERS):
                    group.create_task(self._submit(self._rng(f"jobs/{number}")))
                group.create_task(self._until_enough())
        finally:
            self._is_over = True
            for task in (killing, reporting):
                task.cancel()
            await restarting  # a database that is away comes back first
            await asyncio.gather(killing, reporting, return_exceptions=True)

    async def _until_enough(self) -> None:
        until = time.monotonic() + (self._plan.seconds or math.inf)
        while self._share_of_run() < 1 or self._restarts < self._plan.database_restarts:
            if time.monotonic() > until:
                break
            await asyncio.sleep(0.1)
        self._is_over = True

    def _share_of_kills(self) -> float:
        return self._killer.kills / self._plan.kills if self._plan.kills else 1.0

    def _share_of_jobs(self) -> float:
        return len(self._clients.records) / self._plan.jobs

    def _may_kill(self) -> bool:
        return (
            self._killer.kills < self._plan.kills and self._share_of_kills() <= self._share_of_jobs() + LEAD
        )

    async def _submit(self, rng: random.Random) -> None:
        """Be one of several clients that create jobs; what they do with them goes on beside."""
        while len(self._clients.records) + self._asked < self._plan.jobs and not self._is_over:
            if self._share_of_jobs() > self._share_of_kills() + LEAD:
                await asyncio.sleep(0.05)
                continue
            self._drafted += 1
            draft = requests.draw(rng, self._drafted)
            self._asked += 1
            record = await self._clients.create(draft)
            self._asked -= 1
            if record is None:
                await asyncio.sleep(rng.uniform(0, 1))
            else:
                self._lives.add(asyncio.create_task(self._clients.live(record, draft)))

    async def _restart_database(self) -> None:
        """Pull the database server's plug, evenly over the run."""
        for number in range(self._plan.database_restarts):
            while self._share_of_run() < (number + 0.5) / self._plan.database_restarts:
                if self._is_over:
                    return
                await asyncio.sleep(0.05)
            assert self._server is not None
            await asyncio.to_thread(self._server.stop, "immediate")
            await asyncio.sleep(DATABASE_AWAY_SECONDS)
            await asyncio.to_thread(self._server.start)
            self._restarts += 1

    def _share_of_run(self) -> float:
        return min(self._share_of_kills(), self._share_of_jobs())

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            self._say("")

    def _say(self, words: str) -> None:
        done = f"kills {self._killer.kills}/{self._plan.kills}, jobs {len(self._clients.records)}/{self._plan.jobs}"
        broken = sum(self._findings.broken.values())
        sys.stderr.write(
            f"{done}, database restarts {self._restarts}, broken promises {broken} {words}".rstrip() + "\n"
        )

    # afterwards

    async def _settle(self) -> None:
        """Wait until nothing waits or runs, then look at every job from the outside."""
        self._say("waiting for the rest")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await _until(self._is_idle)
                await asyncio.gather(*self._lives)
        for life in self._lives:  # of jobs that did not end; the audit will say so
            life.cancel()
        self._say("looking at every job")
        waiting = asyncio.Queue[Record]()
        for record in self._clients.records.values():
            waiting.put_nowait(record)
        async with asyncio.TaskGroup() as group:
            for _ in range(SUBMITTERS):
                group.create_task(self._look_at_all(waiting))

    def _let_expire(self, seconds: int) -> None:
        """Give a web process the time to remove all files: what the last kills have interrupted is begun anew, too."""
        until = seconds + (GRACE + TRY_AGAIN).total_seconds() + START_SECONDS
        self._deployment.run_until("web", lambda: not files_kept(self._url), until)
        for job_id in files_kept(self._url):
            self._findings.break_promise("files kept for too long", job_id)

    def _let_sweep(self) -> None:
        """Give a worker the time to remove what kills have left in the storage: it does so when a file is an hour old."""
        left = files_left_over(self._url, self._home)
        self._findings.count("files that kills left in the storage, for the sweep", len(left))
        long_ago = time.time() - SWEPT_AFTER_SECONDS
        for path in left:
            os.utime(path, (long_ago, long_ago))
        if left:
            self._deployment.run_until(
                "worker", lambda: not any(path.exists() for path in left), START_SECONDS
            )

    async def _is_ready(self) -> bool:
        with contextlib.suppress(Unreachable):
            return (await self._clients.pool().ask("GET", "/readyz")).status == 200
        return False

    async def _is_idle(self) -> bool:
        queue = (await self._clients.ask("GET", "/api/v1/queue")).json()
        return not queue["queued"] and not queue["running"]

    async def _look_at_all(self, records: asyncio.Queue[Record]) -> None:
        while not records.empty():
            await self._clients.look_closely(records.get_nowait())


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await condition():
            return
        await asyncio.sleep(0.2)

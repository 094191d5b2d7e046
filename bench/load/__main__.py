"""`python -m bench.load`: many clients against a real `vitascope serve`, on this machine.

    python -m bench.load --clients 1000 --streams 100 --creates 50 --seconds 300
    python -m bench.load --clients 1000 --streams 100 --creates 50 --seconds 60 --full-queue
    python -m bench.load --clients 1000 --streams 100 --creates 50 --seconds 300 --busy-cpu-engine

Clients poll one job each, once a second, on a connection of their own; streams follow the jobs that are next to be made;
creates come at a steady rate, whatever the answers take. The fake engine makes the videos, so that most of both cores is left to
the server and to this client, whose own cost is printed too: what its event loop comes late is part of every answer time.
Exits 1 if there was an answer of 500 or above.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from dataclasses import dataclass, field

import psutil
import uvloop
from rich.console import Console

from bench.client import Answer, Connection, Pool, Unreachable
from bench.deployment import Deployment, scratch_folder

from .measure import Measurements

START_SECONDS = 120.0
FIRST_JOBS = 50
FULL_QUEUE = 100
POLL_SECONDS = 1.0
STATUS_SECONDS = 10.0

SMALL = {"size": "32x32", "num_frames": 5}


@dataclass
class Load:
    """The clients of a run.

    Args:
        port: of the server.
        options: the command line.
        measured: where figures go.
    """

    port: int
    options: argparse.Namespace
    measured: Measurements
    pool: Pool = field(init=False)
    videos: list[str] = field(default_factory=list)
    is_over: bool = False

    def __post_init__(self) -> None:
        self.pool = Pool(self.port)

    async def run(self, web: psutil.Process) -> None:
        for _ in range(FIRST_JOBS):
            await self._create("first creates")
        watching = asyncio.create_task(self.measured.watch(web))
        reporting = asyncio.create_task(self._report())
        async with asyncio.TaskGroup() as group:
            for number in range(self.options.clients):
                group.create_task(self._poll(random.Random(number)))
            for number in range(self.options.streams):
                group.create_task(self._follow(number))
            group.create_task(self._create_steadily(group))
            await asyncio.sleep(self.options.seconds)
            self.is_over = True
            for task in (watching, reporting):
                task.cancel()
        await asyncio.gather(watching, reporting, return_exceptions=True)

    async def _poll(self, rng: random.Random) -> None:
        """Be a client that asks for a job once a second, and now and then for another one."""
        await asyncio.sleep(rng.uniform(0, POLL_SECONDS))
        connection = Connection(self.port)
        video = rng.choice(self.videos)
        while not self.is_over:
            due = time.monotonic() + POLL_SECONDS
            if rng.random() < 0.1:
                video = rng.choice(self.videos[-1000:])
            try:
                self.measured.add("GET", await connection.ask("GET", f"/v1/videos/{video}"))
            except Unreachable:
                self.measured.statuses["GET without an answer"] += 1
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        connection.close()

    async def _follow(self, number: int) -> None:
        """Follow jobs, one after the other, beginning with those that are next."""
        position = number % FIRST_JOBS
        while not self.is_over:
            video = self.videos[min(position, len(self.videos) - 1)]
            connection = Connection(self.port)
            try:
                async with (
                    asyncio.timeout(self.options.seconds),
                    contextlib.aclosing(connection.events(f"/api/v1/jobs/{video}/events")) as events,
                ):
                    async for event in events:
                        if isinstance(event, Answer):
                            self.measured.add("stream", event)
                            return
                        self.measured.statuses["events streamed"] += 1
                        if self.is_over:
                            return
                self.measured.statuses["streams read to their end"] += 1
            except (Unreachable, TimeoutError):
                self.measured.statuses["streams broken off"] += not self.is_over
            position += self.options.streams

    async def _create_steadily(self, group: asyncio.TaskGroup) -> None:
        if not self.options.creates:
            return
        due = time.monotonic()
        while not self.is_over:
            group.create_task(self._create("create"))
            due += 1 / self.options.creates
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _create(self, kind: str) -> None:
        body = json.dumps({"prompt": "a dog", "num_inference_steps": self.options.steps, **SMALL}).encode()
        try:
            answer = await self.pool.ask("POST", "/v1/videos", body, {"content-type": "application/json"})
        except Unreachable:
            self.measured.statuses[f"{kind} without an answer"] += 1
            return
        self.measured.add(kind, answer)
        if answer.status == 200:
            self.videos.append(answer.json()["id"])

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            seconds = self.measured.seconds["GET"][-10_000:]
            p99 = 1000 * sorted(seconds)[int(0.99 * len(seconds))] if seconds else 0
            sys.stderr.write(
                f"{sum(self.measured.statuses.values())} answers, p99 of the last GETs {p99:.0f} ms\n"
            )


def main() -> int:
    options = _options()
    measured = Measurements()
    with scratch_folder("load") as folder, contextlib.ExitStack() as stack:
        settings = _settings(options)
        if options.database == "postgresql":
            from tests.postgres import running

            settings["VITASCOPE_STORE__URL"] = stack.enter_context(running()).create_database()
        deployment = Deployment(folder, settings)
        try:
            uvloop.run(_run(deployment, options, measured))
        finally:
            problems = deployment.stop()
        for problem in problems:
            sys.stderr.write(problem + "\n")
        log = deployment.log.read_text(errors="replace")
        measured.facts["tracebacks in the log"] = log.count("Traceback")
    if options.json:
        sys.stdout.write(measured.to_json() + "\n")
    else:
        measured.print(Console())
    return 1 if measured.num_server_errors else 0


async def _run(deployment: Deployment, options: argparse.Namespace, measured: Measurements) -> None:
    deployment.tend()
    pool = Pool(deployment.ports[0])
    async with asyncio.timeout(START_SECONDS):
        while True:
            with contextlib.suppress(Unreachable):
                if (await pool.ask("GET", "/readyz")).status == 200:
                    break
            await asyncio.sleep(0.1)
    pool.close()
    web = deployment.processes()["web"][0]
    measured.facts["pid of the web process"] = web.pid
    sys.stderr.write(f"web process {web.pid}\n")
    await Load(deployment.ports[0], options, measured).run(web)
    late = sorted(measured.lateness)
    measured.facts["client's event loop late, ms, most"] = round(1000 * late[-1], 1) if late else None
    measured.facts["GETs a second"] = round(len(measured.seconds["GET"]) / options.seconds, 1)


def _settings(options: argparse.Namespace) -> dict[str, str]:
    most = FULL_QUEUE if options.full_queue else 100 * (options.creates + 10) * int(options.seconds + 10)
    settings = {"VITASCOPE_STORE__MAX_QUEUED": str(int(most))}
    if not options.busy_cpu_engine:
        settings["VITASCOPE_ENGINE__KIND"] = "fake"
        settings["VITASCOPE_ENGINE__FAKE_STEP_SECONDS"] = str(options.step_seconds)
    return settings


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.load", description="Many clients against one server."
    )
    add = parser.add_argument
    add("--clients", type=int, default=1000, help="clients that poll once a second")
    add("--streams", type=int, default=100, help="clients that follow jobs as server-sent events")
    add("--creates", type=float, default=50, help="creates a second")
    add("--seconds", type=float, default=300)
    add("--steps", type=int, default=10, help="denoising steps of each job")
    add("--step-seconds", type=float, default=0.02, help="of the fake engine")
    add("--full-queue", action="store_true", help="let few jobs wait, so that most creates are refused")
    add(
        "--busy-cpu-engine",
        action="store_true",
        help="make the videos with the model `pocket` on these cores",
    )
    add("--database", choices=["sqlite", "postgresql"], default="sqlite")
    add("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

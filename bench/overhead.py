"""What the server costs around the engine: `python -m bench.overhead` (about a minute on two cores).

A real server with the fake engine, whose step takes a set time: a client creates a job, follows its events and fetches the
file. What that took without the engine's own stages is the overhead: the request, the queue, the claim, text, frames, the file with its
pictures and its signature, storing, and telling the client. One job after the other, then several created at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.client import Answer, Connection, Unreachable
from bench.deployment import Deployment, scratch_folder
from tests import postgres

STEP_SECONDS = 0.02
STEPS = 25
AT_ONCE = 8

ENGINE_STAGES = ("load", "encode_prompt", "denoise", "decode_latents")
"""What a model would do in their place is no cost of the server."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument(
        "--nice", default="10", help="of the engine process; 0 where other programs are at work"
    )
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with scratch_folder("overhead") as folder, _database(asked.database) as settings:
        settings["VITASCOPE_WORKER__NICE"] = asked.nice
        found = asyncio.run(_measure(folder, settings, asked.jobs))
    if asked.json:
        print(json.dumps(found))
        return
    print(
        f"{asked.jobs} jobs of {STEPS} steps of {1000 * STEP_SECONDS:.0f} ms, 256x256, 25 frames, one after the other:"
    )
    for name, seconds in found["one after the other"].items():
        print(
            f"  {name:28} median {1000 * seconds['median']:6.0f} ms, longest {1000 * seconds['longest']:6.0f} ms"
        )
    print(f"{AT_ONCE} at once: {1000 * found['at once']:.0f} ms a job beside its steps")


@contextmanager
def _database(kind: str) -> Iterator[dict[str, str]]:
    if kind == "sqlite":
        yield {}
        return
    with postgres.running() as server:
        yield {"VITASCOPE_STORE__URL": server.create_database()}


async def _measure(folder: Path, settings: dict[str, str], num_jobs: int) -> dict[str, Any]:
    fake = {"VITASCOPE_ENGINE__KIND": "fake", "VITASCOPE_ENGINE__FAKE_STEP_SECONDS": str(STEP_SECONDS)}
    deployment = Deployment(folder, {**settings, **fake})
    tending = asyncio.create_task(_tend(deployment))
    connection = Connection(deployment.ports[0])
    try:
        await _ready(connection)
        for _ in range(3):  # code that is used for the first time has to be loaded
            await _one(connection)
        alone = [await _one(connection) for _ in range(num_jobs)]
        at_once = await _several(deployment.ports[0])
    finally:
        connection.close()
        tending.cancel()
        await asyncio.to_thread(deployment.stop)
    names = dict.fromkeys(name for one in alone for name in one)
    shown = {name: [one[name] for one in alone if name in one] for name in names}
    begin = sorted(names, key=lambda name: name not in ("overhead", "engine"))
    shown = {name: shown[name] for name in begin}
    summed = {name: {"median": statistics.median(each), "longest": max(each)} for name, each in shown.items()}
    return {"one after the other": summed, "at once": at_once}


async def _tend(deployment: Deployment) -> None:
    while True:
        deployment.tend()
        await asyncio.sleep(0.1)


async def _ready(connection: Connection) -> None:
    async with asyncio.timeout(60):
        while True:
            with suppress(Unreachable):
                if (await connection.ask("GET", "/readyz")).status == 200:
                    return
            await asyncio.sleep(0.1)


async def _one(connection: Connection) -> dict[str, float]:
    """Make one job; returns its seconds by part."""
    asked = {"prompt": "a dog", "width": 256, "height": 256, "num_frames": 25, "num_inference_steps": STEPS}
    begun_at = time.perf_counter()
    created = await connection.ask(
        "POST", "/api/v1/jobs", json.dumps(asked).encode(), {"content-type": "application/json"}
    )
    assert created.status == 201, created.body
    parts = {"overhead": 0.0, "of it: creating": time.perf_counter() - begun_at}
    path = f"/api/v1/jobs/{created.json()['id']}"
    last = time.perf_counter()
    before = "queued"
    async with aclosing(connection.events(f"{path}/events")) as events:
        async for event in events:
            assert not isinstance(event, Answer)
            stage = event.data.get("stage") or event.data["kind"]
            if stage != before:
                now = time.perf_counter()
                parts[f"until seen: {before} to {stage}"], last, before = now - last, now, stage
    assert before == "succeeded", before
    file = await connection.ask("GET", f"{path}/content")
    assert file.status == 200
    whole = time.perf_counter() - begun_at
    stages = (await connection.ask("GET", path)).json()["seconds_by_stage"]
    parts["engine"] = sum(stages.get(stage, 0.0) for stage in ENGINE_STAGES)
    parts["overhead"] = whole - parts["engine"]
    others = {stage: seconds for stage, seconds in stages.items() if stage not in ENGINE_STAGES}
    return parts | {f"of it: {stage}": seconds for stage, seconds in others.items()}


async def _several(port: int) -> float:
    """Make several jobs that are created at once; returns the seconds of each beside the engine's, whose jobs are made one after the other."""
    connections = [Connection(port) for _ in range(AT_ONCE)]
    begun_at = time.perf_counter()
    made = await asyncio.gather(*(_one(connection) for connection in connections))
    seconds = time.perf_counter() - begun_at
    for connection in connections:
        connection.close()
    return (seconds - sum(one["engine"] for one in made)) / AT_ONCE


if __name__ == "__main__":
    main()

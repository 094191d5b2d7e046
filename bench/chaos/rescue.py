"""How soon a dead worker's job runs again: `python -m bench.chaos.rescue --rounds 5`.

Two workers, the settings as they come (leases of 15 s), the fake engine on SQLite. Each round waits until a job runs, kills the
worker that has it with SIGKILL, which takes its engine along, and counts the seconds until the job runs again.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sqlite3
import statistics
import time
from collections.abc import Callable
from os import kill

import httpx

from bench.deployment import Deployment, scratch_folder

SETTINGS = {"VITASCOPE_ENGINE__KIND": "fake", "VITASCOPE_ENGINE__FAKE_STEP_SECONDS": "0.5"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with scratch_folder("rescue") as folder:
        deployment = Deployment(folder, SETTINGS, num_workers=1)
        deployment.tend()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{deployment.ports[0]}", trust_env=False) as client:
                seconds = [_round(deployment, client) for _ in range(arguments.rounds)]
        finally:
            deployment.stop()
    print(f"runs again after {statistics.median(seconds):.1f} s (median), {max(seconds):.1f} s at most")


def _round(deployment: Deployment, client: httpx.Client) -> float:
    _until(lambda: client.get("/api/v1/queue").json()["live_workers"] >= 2)
    body = {"prompt": "a", "num_inference_steps": 100}
    path = f"/api/v1/jobs/{client.post('/api/v1/jobs', json=body).json()['id']}"
    _until(lambda: client.get(path).json()["progress"] > 5)
    with contextlib.closing(sqlite3.connect(deployment.home / "vitascope.db")) as database:
        (worker_id,) = database.execute("SELECT worker_id FROM jobs WHERE status = 'running'").fetchone()
    killed_at = time.monotonic()
    kill(int(worker_id.split("-")[-2]), signal.SIGKILL)
    _until(lambda: (job := client.get(path).json())["status"] == "running" and job["attempt"] == 2)
    seconds = time.monotonic() - killed_at
    print(f"{worker_id} killed: the job ran again after {seconds:.1f} s", flush=True)
    client.delete(path)
    _until(lambda: client.get("/api/v1/queue").json()["running"] == 0)
    deployment.tend()
    return seconds


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(httpx.TransportError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


if __name__ == "__main__":
    main()

"""`python -m bench.chaos`: kill processes at random while clients submit, then check every promise.

    python -m bench.chaos --kills 1000 --jobs 10000 --seed 1
    python -m bench.chaos --kills 1000 --jobs 10000 --seed 1 --database postgresql --database-restarts 5

Exits 1 if a promise was broken; the data folder is then kept. The seed draws requests, victims and pauses; how the processes
meet is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path

from rich.console import Console

from bench.deployment import scratch_folder

from .findings import Findings
from .run import Plan, Run


def main() -> int:
    options = _options()
    plan = Plan(
        kills=options.kills,
        jobs=options.jobs,
        seed=options.seed,
        seconds=options.seconds,
        lease_seconds=options.lease_seconds,
        pause_seconds=options.pause,
        workers=options.workers,
        webs=options.webs,
        database_restarts=options.database_restarts,
        expire_seconds=options.expire_seconds,
    )
    findings = Findings()
    with scratch_folder("chaos") as folder, contextlib.ExitStack() as stack:
        server = None
        if options.database == "postgresql":
            from tests.postgres import running

            server = stack.enter_context(running())
        asyncio.run(Run(plan, folder, server, findings).run())
        if findings.broken:
            _keep(folder)
    if options.json:
        sys.stdout.write(findings.to_json() + "\n")
    else:
        findings.print(Console())
    return 1 if findings.broken else 0


def _keep(folder: Path) -> None:
    kept = folder.with_name(folder.name + "-broken")
    folder.rename(kept)
    sys.stderr.write(f"what is left of the deployment is kept in {kept}\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos", description="Kill processes while clients submit."
    )
    add = parser.add_argument
    add("--kills", type=int, default=1000, help="processes to kill")
    add("--jobs", type=int, default=10000, help="jobs to have acknowledged")
    add("--seed", type=int, default=1)
    add("--seconds", type=float, help="stop the trouble after so long, whatever was reached")
    add("--database", choices=["sqlite", "postgresql"], default="sqlite")
    add(
        "--database-restarts",
        type=int,
        default=0,
        help="pull the PostgreSQL server's plug so often, 2 s each",
    )
    add("--expire-seconds", type=int, help="keep files so long after their job's end, 60 or more")
    add("--lease-seconds", type=float, default=2.0)
    add("--pause", type=float, default=0.7, help="mean seconds between two kills")
    add("--workers", type=int, default=3, help="beside the one of `serve`")
    add("--webs", type=int, default=2, help="beside the one of `serve`")
    add("--json", action="store_true", help="print the counts as JSON")
    options = parser.parse_args()
    if options.database_restarts and options.database != "postgresql":
        parser.error("--database-restarts needs --database postgresql")
    return options


if __name__ == "__main__":
    sys.exit(main())

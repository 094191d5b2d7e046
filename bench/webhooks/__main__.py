"""`python -m bench.webhooks`: tell a receiver of 10,000 events that is away for a minute, 2, 24 and 72 hours.

    python -m bench.webhooks
    python -m bench.webhooks --events 1000 --away 60 7200 --database postgresql

The clock is simulated, the receiver is a real one on loopback; senders are stopped and killed while it is away and while it is there. Exits 1 if an event was
lost, told under two ids, or its signature verified by neither `standardwebhooks` nor OpenAI's SDK.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from rich.console import Console
from rich.table import Table

from bench.deployment import scratch_folder

from .run import Findings, run_one

AWAY = (60.0, 2 * 3600.0, 24 * 3600.0, 72 * 3600.0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.webhooks")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--away", type=float, nargs="+", default=AWAY, help="seconds of the simulated clock")
    parser.add_argument(
        "--restarts",
        type=int,
        default=40,
        help="of the sender: half of them kills, half while the receiver is there",
    )
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="outages, each in a process")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    with scratch_folder("webhooks") as folder, contextlib.ExitStack() as stack:
        server = None
        if options.database == "postgresql":
            from tests.postgres import running

            server = stack.enter_context(running())
        pool = stack.enter_context(ProcessPoolExecutor(options.at_once, multiprocessing.get_context("spawn")))
        # the longest first: the others fit in beside it
        runs = {
            away: pool.submit(run_one, (
                folder, options.events, away, options.restarts, options.seed,
                None if server is None else server.create_database(),
            ))
            for away in sorted(options.away, reverse=True)
        }  # fmt: skip
        found = [runs[away].result() for away in sorted(runs)]
    _show(found)
    return 0 if all(one.is_good for one in found) else 1


def _show(found: list[Findings]) -> None:
    table = Table(box=None, header_style="bold")
    names = ("away h", "events", "delivered", "distinct ids", "repeated", "attempts", "restarts", "kills", "told after h", "real s", "problems")  # fmt: skip
    for name in names:
        table.add_column(name, justify="right")
    for one in found:
        cells = (
            f"{one.away_seconds / 3600:.2f}", one.events, one.delivered, one.distinct, one.repeated, one.attempts,
            one.restarts, one.kills, f"{one.told_after_seconds / 3600:.2f}", f"{one.seconds:.0f}", len(one.problems),
        )  # fmt: skip
        table.add_row(*map(str, cells))
    console = Console(width=140)
    console.print(table)
    for one in found:
        for problem in one.problems[:5]:
            console.print(problem)


if __name__ == "__main__":
    sys.exit(main())

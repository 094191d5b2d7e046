"""`python -m bench.schema`: 20,000 requests made from /openapi.json against a real `vitascope serve`; prints what came of them.

    python -m bench.schema --cases 20000
    python -m bench.schema --cases 2000 --include "^/v1/"

Exits 1 if an answer was not as described. Each finding is printed with the request that makes it again.
"""

from __future__ import annotations

import argparse
import sys

from bench.deployment import scratch_folder

from .run import run

parser = argparse.ArgumentParser(prog="bench.schema", description=__doc__.splitlines()[0])
parser.add_argument("--cases", type=int, default=20_000, help="at least so many requests")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--include", metavar="REGEX", help="only operations whose path matches")
arguments = parser.parse_args()
with scratch_folder("schema") as folder:
    outcome = run(folder, arguments.cases, arguments.seed, include=arguments.include)
sys.stdout.write(outcome.text())
sys.exit(1 if outcome.problems else 0)

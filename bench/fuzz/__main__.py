"""`python -m bench.fuzz`: 10,000 damaged pictures and videos through the way in; prints what came of them.

The exit status is 1 if an error told more than it should. A file that ends badly can be made again from its number and
the seed.
"""

from __future__ import annotations

import argparse
import sys
import time

from .run import run

parser = argparse.ArgumentParser(prog="bench.fuzz", description=__doc__.splitlines()[0])
parser.add_argument("--files", type=int, default=10_000)
parser.add_argument("--seed", type=int, default=1)
arguments = parser.parse_args()
started = time.monotonic()
outcome = run(arguments.files, arguments.seed)
sys.stdout.write("\n".join(outcome.lines()) + f"\n{time.monotonic() - started:.0f} s\n")
sys.exit(1 if outcome.bad else 0)

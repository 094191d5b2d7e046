"""`python -m bench.simulation [--plots FOLDER] [--seeds N] [--quick]`: the arbiter against first come, first served.

Some two minutes on one core for each seed; `--quick` takes a tenth of the jobs, too few to judge by. Else it exits 1 if a goal is
missed: a mean at least 2 times better, a 99th percentile at most 1.2 times as long, and no key's mean more than 2 s above that of its
part of the devices alone.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from vitascope.media import chart

from . import fleet as fleets
from . import policies, trace
from .figures import Figures, figures_of, ideal_of
from .shares import evenly_shared, own_slices

MEAN_GOAL, P99_GOAL, SHARE_SLACK_SECONDS = 2.0, 1.2, 2.0
FIRST, ORDER, TURNS, IDEAL, SLICE = "first come", "claim order only", "arbiter", "even shares", "own slice"


@dataclass(frozen=True, slots=True)
class Case:
    """A deployment and a trace.

    A thousand devices have no queue at a steady load, under any rule: there it is a busy noon that decides, 33 % above what
    they can do.
    """

    name: str
    num_devices: int
    num_jobs: int
    load: float
    swing: float = 0.0
    period: float = 86400.0
    memory_gigabytes: float = policies.MEMORY_GIGABYTES
    customers: tuple[trace.Customer, ...] = trace.CUSTOMERS


CASES = (
    Case("1 device, load 0.8", 1, 6000, 0.8),
    Case("8 devices, load 0.85", 8, 24000, 0.85),
    Case("8 devices, load 0.9 ± 35 % in 4 h", 8, 20000, 0.9, 0.35, 14400.0),
    Case("8 devices, half of the models fit", 8, 12000, 0.85, memory_gigabytes=60.0),
    Case("1 device, embedded model", 1, 20000, 0.95, customers=trace.CHATS),
    Case("1,000 devices, load 0.95 ± 40 % in 1 h", 1000, 1, 0.95, 0.4, 3600.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.simulation")
    parser.add_argument("--plots", type=Path, help="folder for pictures")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--seeds", type=int, default=1, help="how many traces, from seed 1 on; pictures are of the first"
    )
    options = parser.parse_args()
    missed = []
    for seed in range(1, options.seeds + 1):
        print(f"\nseed {seed}")
        found = _play_all(seed, options.plots if seed == 1 else None, is_quick=options.quick)
        missed += [f"{name} (seed {seed})" for name, by in found.items() if not _holds(by)]
    if options.quick:
        return
    print(f"goals missed: {'; '.join(missed)}" if missed else "all goals hold")
    sys.exit(bool(missed))


def _play_all(seed: int, plots: Path | None, *, is_quick: bool) -> dict[str, dict[str, Figures]]:
    found: dict[str, dict[str, Figures]] = {}
    for case in CASES:
        num_jobs = case.num_jobs // 10 if is_quick else case.num_jobs
        found[case.name] = _play(case, num_jobs, seed, plots)
        _print(case, found[case.name])
    if plots is not None:
        _draw(plots, found)
    return found


def _play(case: Case, num_jobs: int, seed: int, plots: Path | None) -> dict[str, Figures]:
    jobs = trace.make(num_jobs, case.num_devices, case.load, case.swing, case.period, seed, case.customers)
    memory = case.memory_gigabytes
    outcome = policies.first_come(jobs, case.num_devices, memory)
    found = {FIRST: figures_of(outcome)}
    curves = {FIRST: _distribution([job.took for job in jobs])}
    for name, with_turns in ((ORDER, False), (TURNS, True)):
        fleet = fleets.Fleet(case.num_devices, with_turns=with_turns, memory_gigabytes=memory)
        outcome = fleet.run(jobs)
        found[name] = figures_of(outcome)
        curves[name] = _distribution([job.took for job in jobs])
    found[IDEAL] = ideal_of(evenly_shared(jobs, case.num_devices), outcome)
    found[SLICE] = ideal_of(own_slices(jobs, case.num_devices), outcome)
    if plots is not None and case is CASES[1]:
        note = f"{case.name}, {len(jobs):,} jobs of {len(case.customers)} keys, simulated"
        axes = ("seconds from request to file", "share of jobs that are done")
        chart.lines(plots / "simulation-completion.png", "How long jobs take", note, curves, axes)
    return found


def _distribution(took: list[float]) -> list[tuple[float, float]]:
    ranked = sorted(took)
    return [(ranked[round(i / 400 * (len(ranked) - 1))], i / 400) for i in range(401)]


def _holds(by: dict[str, Figures]) -> bool:
    first, turns = by[FIRST], by[TURNS]
    has_shares = all(
        seconds <= by[SLICE].by_key[key] + SHARE_SLACK_SECONDS for key, seconds in turns.by_key.items()
    )
    return first.mean >= MEAN_GOAL * turns.mean and turns.p99 <= P99_GOAL * first.p99 and has_shares


def _print(case: Case, by: dict[str, Figures]) -> None:
    print(f"\n{case.name}")
    print(f"  {'':18}{'mean':>9}{'median':>9}{'p95':>9}{'p99':>9}{'in use':>9}{'loads':>9}")
    for name, its in by.items():
        row = "".join(f"{value:9.1f}" for value in (its.mean, its.median, its.p95, its.p99))
        print(f"  {name:18}{row}{its.utilisation:9.3f}{its.num_loads:9}")
    first, turns = by[FIRST], by[TURNS]
    print(f"  mean {first.mean / turns.mean:.2f} times better, p99 {turns.p99 / first.p99:.2f} times as long")
    for key, seconds in turns.by_key.items():
        others = "".join(f"  {name} {by[name].by_key[key]:8.1f}" for name in (IDEAL, SLICE))
        print(f"    {key:10} first come {first.by_key[key]:8.1f}  arbiter {seconds:8.1f}{others}")
    sys.stdout.flush()


def _draw(folder: Path, found: dict[str, dict[str, Figures]]) -> None:
    note = "seconds from request to file; simulated, python -m bench.simulation"
    for what, title in (("mean", "Mean"), ("p99", "99th percentile")):
        groups = [
            chart.Group(
                name.replace(", ", ",\n", 1),
                {rule: getattr(its, what) for rule, its in by.items() if rule != SLICE},
            )
            for name, by in found.items()
        ]
        chart.bars(folder / f"simulation-{what}.png", f"{title} until a job is done", note, groups, "s")
    by = found[CASES[1].name]
    groups = [
        chart.Group(key, {rule: its.by_key[key] for rule, its in by.items()}) for key in by[TURNS].by_key
    ]
    title = f"Mean until a job is done, by key: {CASES[1].name}"
    chart.bars(folder / "simulation-keys.png", title, note, groups, "s")


if __name__ == "__main__":
    main()

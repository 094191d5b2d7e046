"""What is measured: answer times by kind, statuses, the server's memory, and the client's own cost."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from bench.client import Answer

SAMPLE_SECONDS = 1.0
MEBIBYTE = 1 << 20


@dataclass
class Measurements:
    """Everything that a run measured."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[str] = field(default_factory=Counter)
    #: Moments since the start, and the web process's resident memory and CPU share at them.
    memory: list[tuple[float, int]] = field(default_factory=list)
    #: How late the client's own event loop woke up, in seconds: what it adds to every answer time.
    lateness: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, kind: str, answer: Answer) -> None:
        """Count an answer; refusals are timed apart."""
        self.statuses[f"{kind} {answer.status}"] += 1
        refused = {429: " refused (429)", 503: " unavailable (503)"}.get(answer.status, "")
        self.seconds[kind + refused].append(answer.seconds)

    @property
    def num_server_errors(self) -> int:
        return sum(
            number for name, number in self.statuses.items() if name.rpartition(" ")[2].startswith("5")
        )

    async def watch(self, web: psutil.Process) -> None:
        """Sample the web process and this one until cancelled."""
        started = time.monotonic()
        mine = psutil.Process()
        begun = {"web process": web.cpu_times(), "this client": mine.cpu_times()}
        try:
            while True:
                self.memory.append((time.monotonic() - started, web.memory_info().rss))
                due = time.perf_counter() + SAMPLE_SECONDS
                await asyncio.sleep(SAMPLE_SECONDS)
                self.lateness.append(max(0.0, time.perf_counter() - due))
        finally:
            wall = time.monotonic() - started
            for name, process in (("web process", web), ("this client", mine)):
                now, before = process.cpu_times(), begun[name]
                used = now.user + now.system - before.user - before.system
                self.facts[f"share of a core used by the {name}"] = round(used / wall, 2)

    def to_json(self) -> str:
        times = {kind: _milliseconds(values) for kind, values in self.seconds.items()}
        memory = [(round(at), round(size / MEBIBYTE, 1)) for at, size in self.memory]
        return json.dumps(
            {"milliseconds": times, "statuses": self.statuses, "memory_mib": memory, **self.facts}, indent=2
        )

    def print(self, console: Console) -> None:
        table = Table("answers, ms", "number", "p50", "p90", "p99", "most", title="Load")
        for column in table.columns[1:]:
            column.justify = "right"
        for kind, values in sorted(self.seconds.items()):
            row = _milliseconds(values)
            table.add_row(
                kind, str(len(values)), *(f"{row[name]:.1f}" for name in ("p50", "p90", "p99", "most"))
            )
        console.print(table)
        for name, number in sorted(self.statuses.items()):
            console.print(f"{name}: {number}", highlight=False)
        for name, value in self.facts.items():
            console.print(f"{name}: {value}", highlight=False)
        console.print(f"memory of the web process: {self.memory_line()}", highlight=False, soft_wrap=True)

    def memory_line(self) -> str:
        """Tell the memory at ten moments."""
        step = max(1, len(self.memory) // 10)
        return ", ".join(f"{size / MEBIBYTE:.0f} MiB at {at:.0f} s" for at, size in self.memory[::step])


def _milliseconds(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)

    def at(share: float) -> float:
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)

    return {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "most": at(1.0)}

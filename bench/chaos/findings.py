"""What a run counts, and the promises that it found broken."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

from rich.console import Console
from rich.table import Table

#: Every promise that is checked, so that the report shows its zero.
PROMISES = (
    "acknowledged jobs lost",
    "jobs finished twice",
    "jobs that changed after their end",
    "requests that made two jobs",
    "jobs that did not end",
    "jobs with more attempts than allowed",
    "files missing or not as stated",
    "files left over",
    "files kept for too long",
    "streams with loss or repetition",
    "answers that contradict each other",
    "server errors",
    "requests refused without reason",
    "damage in the database",
    "processes left over",
)

MAX_EXAMPLES = 5


class Findings:
    """Counts by name, and examples of each broken promise."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.facts: dict[str, Any] = {}
        self.broken: Counter[str] = Counter()
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def count(self, name: str, number: int = 1) -> None:
        self.counts[name] += number

    def break_promise(self, promise: str, example: str) -> None:
        """Note that one of `PROMISES` does not hold."""
        assert promise in PROMISES, promise
        self.broken[promise] += 1
        if len(self._examples[promise]) < MAX_EXAMPLES:
            self._examples[promise].append(example)

    def to_json(self) -> str:
        broken = {promise: self.broken[promise] for promise in PROMISES}
        return json.dumps(
            {
                "broken": broken,
                "counts": dict(sorted(self.counts.items())),
                **self.facts,
                "examples": self._examples,
            },
            indent=2,
        )

    def print(self, console: Console) -> None:
        table = Table("what happened", "number", title="Chaos")
        table.columns[1].justify = "right"
        for name, number in [*self.facts.items(), *sorted(self.counts.items())]:
            table.add_row(name, str(number))
        table.add_section()
        for promise in PROMISES:
            number = self.broken[promise]
            table.add_row(promise, str(number), style="bold red" if number else "green")
        console.print(table)
        for promise, examples in self._examples.items():
            for example in examples:
                console.print(f"{promise}: {example}", style="red", soft_wrap=True, markup=False)

"""Requests made from /openapi.json against a real server; `python -m bench.schema` is the long form."""

from __future__ import annotations

from pathlib import Path

from bench.schema.run import run


def test_answers_are_as_described(tmp_path: Path) -> None:
    outcome = run(tmp_path, 300, seed=20261121, phases="fuzzing")
    assert not outcome.problems, outcome.text()
    assert outcome.num_cases >= 300

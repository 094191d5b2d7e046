"""Every golden file is what the server answers; see tests/enterprise_golden.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import enterprise_golden

EXAMPLES = sorted((Path(__file__).parent / "golden").glob("*.json"))


@pytest.fixture(scope="module")
def stage(serve: Callable[..., Any]) -> enterprise_golden.Stage:
    server = serve(modelslab={"wait_seconds": 0.0}, provenance={"enabled": False})
    return enterprise_golden.Stage(server)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_answer_is_as_written(path: Path, stage: enterprise_golden.Stage) -> None:
    enterprise_golden.check(path, stage)

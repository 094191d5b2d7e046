"""Every golden file is what the server answers; see golden.py."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .golden import FOLDER, Stage, answer_to, text_of

EXAMPLES = sorted(FOLDER.rglob("*.json"))


@pytest.fixture(scope="module")
def golden_server(serve: Callable[..., Any]) -> Any:
    return serve(
        outbound={"allow": ("127.0.0.1",)}, storage={"expire_seconds": 3600}, provenance={"enabled": False}
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_answer_is_as_written(path: Path, golden_server: Any) -> None:
    example = json.loads(path.read_text())
    answer = answer_to(example, Stage(golden_server))
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(text_of({**example, "response": answer}))
    else:
        assert text_of(answer) == text_of(example["response"])


def test_every_operation_has_an_example(golden_server: Any) -> None:
    stage = Stage(golden_server)
    paths = stage.send("GET", "/openapi.json").json()["paths"]
    shown = [json.loads(path.read_text())["request"] for path in EXAMPLES]
    operations = [
        (method.upper(), path) for path in paths if path.startswith("/v1/") for method in paths[path]
    ]
    missing = [each for each in operations if not any(_is_of(request, *each) for request in shown)]
    assert missing == []


def _is_of(request: dict[str, Any], method: str, path: str) -> bool:
    parts, asked = path.split("/"), request["path"].partition("?")[0].split("/")
    return (
        request["method"] == method
        and len(parts) == len(asked)
        and all(
            ours == theirs or (ours[:1] == "{" and not _is_literal(theirs))
            for ours, theirs in zip(parts, asked, strict=True)
        )
    )


def _is_literal(part: str) -> bool:
    return part in ("sync", "edits", "extensions", "characters", "generations")

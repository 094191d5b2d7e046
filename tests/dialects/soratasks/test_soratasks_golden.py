"""Every golden file is what the server answers: bodies and replies as JSON that reads as documentation.

    {"about": "What it shows.", "given": "a finished video", "request": {"path": …, "json": {…}}, "response": {"status": 200, "json": {…}}}

`given` names what there is before the request; its id stands in bodies as `{id}`. `text` is a body to the byte. All requests are POST, with a
key but for `"key": "none"`. What differs from run to run is replaced in replies: `<id>`, `<link>`. `make golden` writes what they are now.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitascope.domain.access import Scope
from vitascope.domain.job import JobError
from vitascope.service.keys import Keys
from waiting import eventually

EXAMPLES = sorted((Path(__file__).parent / "golden").glob("*.json"))

REPLACED = {
    r"http://127\.0\.0\.1:[0-9]+/files/[^\"\s]+\.mp4": "<link>.mp4",
    r"\b(s_)?[0-9a-hjkmnp-tv-z]{26}\b": r"\g<1><id>",
}


def picture() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


class Stage:
    """A server with a counted key, and what an example needs there to be. Nothing works there but what is done here."""

    def __init__(self, server: Any) -> None:
        self.server = server
        keys = Keys(server.store)
        key, self.key = keys.create("golden", (Scope.GENERATE,))
        self.poor = keys.create("poor", (Scope.GENERATE,))
        server.store.grant(self.poor[0].id, 1, note="", reference=None)
        server.store.grant(key.id, 1000, note="", reference=None)
        eventually(lambda: server.client.get("/api/v1/jobs").status_code == 401)
        self.id = ""

    def post(self, path: str, body: str, key: str | None) -> Any:
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
        return self.server.client.post(path, content=body, headers=headers)

    def make(self) -> None:
        body = {"model": "sora-2-text-to-video", "prompt": "A dog walks along the beach"}
        answer = self.post("/api/v1/video/sora-pro", json.dumps(body), self.key).json()
        self.id = answer["data"]["taskId"]

    def run(self) -> None:
        self.make()
        self.server.store.report(self.server.claim(), 35, "denoise")

    def finish(self) -> None:
        self.make()
        self.server.finish(self.server.claim())

    def fail(self) -> None:
        self.make()
        self.server.store.fail(
            self.server.claim(), JobError("out_of_memory", "The device ran out of memory.")
        )

    def clear(self) -> None:
        """Leave no job that the next example would find."""
        if self.id:
            self.server.store.request_cancel(self.id)
        while (lease := self.server.store.claim("test", 60)) is not None:
            self.server.store.fail(lease, JobError("cleared", "Cleared."))


GIVEN: dict[str, Callable[[Stage], None]] = {
    "nothing": lambda _stage: None,
    "a task that waits": Stage.make,
    "a task that runs": Stage.run,
    "a finished task": Stage.finish,
    "a failed task": Stage.fail,
}


@pytest.fixture(scope="module")
def stage(serve: Callable[..., Any]) -> Stage:
    return Stage(serve())


def answer_to(example: dict[str, Any], stage: Stage) -> dict[str, Any]:
    GIVEN[example.get("given", "nothing")](stage)
    request = example["request"]
    body = request["text"] if "text" in request else json.dumps(request["json"])
    body = body.replace("{id}", stage.id).replace("{picture}", picture())
    key = {"none": None, "wrong": "sk-wrong", "poor": stage.poor[1]}.get(request.get("key", ""), stage.key)
    answer = stage.post(request["path"], body, key)
    text = answer.text
    for pattern, word in REPLACED.items():
        text = re.sub(pattern, word, text)
    stage.clear()
    return {"status": answer.status_code, "json": json.loads(text)}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_answer_is_as_written(path: Path, stage: Stage) -> None:
    example = json.loads(path.read_text("utf-8"))
    answer = answer_to(example, stage)
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(
            json.dumps({**example, "response": answer}, indent=2, ensure_ascii=False) + "\n", "utf-8"
        )
    else:
        assert answer == example["response"]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 20

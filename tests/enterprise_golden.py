"""Golden files of ModelsLab and stablediffusionapi: bodies and the replies that they get, as JSON that reads as documentation.

    {"about": "What it shows.", "given": "a finished video", "request": {"path": …, "json": {…}}, "response": {"status": 200, "json": {…}}}

`given` names what there is before the request; its id stands in paths and bodies as `{id}`. `text` is a body to the byte. All requests are
POST with the key in the body, but for `"key": "none"`. What differs from run to run is replaced in replies: `<id>`, `<link>` and the like.

`make golden` writes what the replies are now: read the difference before it is committed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import enterprise
from vitascope.domain.access import Scope
from vitascope.domain.job import JobError
from vitascope.service.keys import Keys

LINK = re.compile(r"http://127\.0\.0\.1:[0-9]+/files/[^/]+/[0-9a-f-]{36}")
HOOK = re.compile(r"http://127\.0\.0\.1:[0-9]+/v1$")
HERE = re.compile(r"http://127\.0\.0\.1:[0-9]+")
SHOWN = {"file_prefix": "<file prefix>", "generationTime": "<seconds>", "eta": "<seconds>", "id": "<id>"}


def plain(value: Any, name: str = "", *, keeps_seed: bool) -> Any:
    """Replace what differs from run to run."""
    if isinstance(value, dict):
        return {key: plain(part, key, keeps_seed=keeps_seed) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part, name, keeps_seed=keeps_seed) for part in value]
    if name in SHOWN and value is not None:
        return SHOWN[name]
    if name == "seed" and not keeps_seed:
        return "<seed>"
    if not isinstance(value, str):
        return value
    if name == "fetch_result":
        value = re.sub(r"[0-9]+$", "<id>", value)
    if value.startswith("data:"):
        return value.partition(",")[0] + ",<base64 of the file>"
    value = HOOK.sub("<receiver>", value)
    return HERE.sub("http://<server>", LINK.sub("<link>/<file prefix>", value))


class Stage:
    """A server with a key, and what an example needs there to be. Nothing works there but what is done here."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self._keys = Keys(server.store)
        self.key = self._keys.create("golden", (Scope.GENERATE,))[1]
        self.id = ""

    def make(self, **fields: Any) -> None:
        asked = {
            "key": self.key,
            "prompt": "A dog walks along the beach",
            "model_id": "small",
            "seed": 7,
            **fields,
        }
        told = enterprise.post(self.server, "/api/v1/enterprise/video/text2video", **asked).json()
        assert told["status"] == "processing", told
        self.id = str(told["id"])

    def end(self, error: JobError | None = None) -> None:
        lease = self.server.claim()
        if error is None:
            self.server.finish(lease)
        else:
            self.server.store.fail(lease, error)

    def finished(self, **fields: Any) -> None:
        self.make(**fields)
        self.end()

    def failed(self) -> None:
        self.make()
        self.end(JobError("out_of_memory", "The device ran out of memory."))

    def foreign(self) -> None:
        own, self.key = self.key, self._keys.create("another", (Scope.GENERATE,))[1]
        self.make()
        self.key = own

    def of_the_other_host(self) -> None:
        asked = {"key": self.key, "prompt": "A dog walks along the beach", "model_id": "small", "seed": 7}
        told = enterprise.post(self.server, "/api/v1/enterprise/text2video", **asked).json()
        self.id = str(told["id"])

    def clear(self) -> None:
        """Leave no job that the next example would find."""
        while (lease := self.server.store.claim("test", 60)) is not None:
            self.server.store.fail(lease, JobError("cleared", "Cleared."))


GIVEN: dict[str, Callable[[Stage], None]] = {
    "nothing": lambda _stage: None,
    "a video that is being made": Stage.make,
    "a finished video": Stage.finished,
    "a finished video of base64": lambda stage: stage.finished(base64="yes"),
    "a finished pair of videos": lambda stage: stage.finished(samples=2),
    "a failed video": Stage.failed,
    "a video of another key": Stage.foreign,
    "a video of stablediffusionapi that is being made": Stage.of_the_other_host,
    "a finished video of stablediffusionapi": lambda stage: (stage.of_the_other_host(), stage.end())[0],
}


def answer_to(example: dict[str, Any], stage: Stage) -> dict[str, Any]:
    """Send an example's request; returns the answer as a golden file has it."""
    GIVEN[example.get("given", "nothing")](stage)
    request = example["request"]
    key = {"none": "", "wrong": "vsk_wrong"}.get(request.get("key", ""), stage.key)
    path = request["path"].replace("{id}", stage.id)
    if "text" in request:
        body = enterprise.with_key(request["text"], key) if '"key"' in request["text"] else request["text"]
    else:
        body = json.dumps({"key": key, **request["json"]}).replace("{id}", stage.id)
    answer = enterprise.post(stage.server, path, body)
    keeps_seed = "given" in example or '"seed": 7' in body
    told = plain(answer.json(), keeps_seed=keeps_seed)
    stage.clear()
    assert stage.key not in json.dumps(told)
    return {"status": answer.status_code, "json": told}


def check(path: Path, stage: Stage) -> None:
    """Compare a golden file with what is answered now, or write it anew."""
    example = json.loads(path.read_text())
    answer = answer_to(example, stage)
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(json.dumps({**example, "response": answer}, indent=2, ensure_ascii=False) + "\n")
    else:
        assert answer == example["response"]


def check_webhook(path: Path, told: dict[str, Any]) -> None:
    """Compare the body that a receiver got with its golden file, or write that anew."""
    shown = plain(told, keeps_seed=False)
    if os.environ.get("WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(shown, indent=2, ensure_ascii=False) + "\n")
    else:
        assert shown == json.loads(path.read_text())

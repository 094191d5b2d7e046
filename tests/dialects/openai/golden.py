"""Golden files: requests and the answers that they get, as JSON that reads as documentation; one folder per operation.

    {"about": "What it shows.", "given": "a finished video", "request": {…}, "response": {…}}

`given` names what there is before the request; its ids stand in paths and bodies as `{video}`. A request has `method`, `path` and
`json`, `form` (whose files are `{"file": NAME}`), `text` or no body; the key's header is left out. In answers what differs from run to run
is replaced: `<video id>`, `<time>`, `<seed>`, `<link>` and the like.

`make golden` writes what the answers are now: read the difference before it is committed.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from vitascope import app
from vitascope.domain.access import Scope
from vitascope.domain.job import JobError
from vitascope.engine.fake import FakeEngine
from vitascope.service.keys import Keys
from vitascope.worker.produce import Marks, produce
from waiting import eventually

FOLDER = Path(__file__).parent / "golden"

HEADERS = (
    "content-type", "content-length", "content-range", "content-disposition", "accept-ranges", "etag", "location",
    "openai-poll-after-ms", "retry-after", "x-request-id", "x-should-retry", "www-authenticate",
)  # fmt: skip
"""What an example shows of an answer's head."""

IDS = {
    r"video_[0-9a-z]{26}": "<video id>",
    r"file-[0-9A-Za-z]{20,}": "<file id>",
    r"batch_[0-9A-Za-z]{20,}": "<batch id>",
    r"char_[0-9A-Za-z]{20,}": "<character id>",
    r"ep_[0-9A-Za-z]{20,}": "<endpoint id>",
    r"whsec_\.\.\.\S{4}": "whsec_...<last 4>",
    r"req_[0-9a-zA-Z]+": "<request id>",
    r"whsec_[0-9A-Za-z+/=]+": "<secret>",
    r"http://127\.0\.0\.1:[0-9]+/files/[^\"\s]+": "<link>",
    r"\b[0-9a-hjkmnp-tv-z]{26}\b": "<id>",
}
TIMES = re.compile(r".*_at|retry-after")
SEEDS = ("seed",)


NO_MARKS = Marks()


def plain(value: Any, name: str = "", *, keep_seeds: bool = False) -> Any:
    """Replace what differs from run to run."""
    if name == "seconds_by_stage" and value:
        return "<seconds by stage>"
    if isinstance(value, dict):
        return {key: plain(part, key, keep_seeds=keep_seeds) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part, name, keep_seeds=keep_seeds) for part in value]
    if isinstance(value, str):
        return _plain_text(value, name)
    if isinstance(value, int) and not isinstance(value, bool):
        if TIMES.fullmatch(name) and value > 1_000_000_000:
            return "<time>"
        if name in SEEDS and not keep_seeds:
            return "<seed>"
    return value


def _plain_text(text: str, name: str) -> str:
    if name == "b64_json":
        return "<base64 of the file>"
    if TIMES.fullmatch(name) and re.match(r"\d{4}-\d\d-\d\dT|\d+$", text):
        return "<time>"
    for pattern, shown in IDS.items():
        text = re.sub(pattern, shown, text)
    return text


def picture(color: str, form: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (96, 64), color).save(content, form)
    return content.getvalue()


FILES = {
    "first.png": lambda: picture("red", "PNG"),
    "first.jpg": lambda: picture("red", "JPEG"),
    "text.png": lambda: b"this is no picture",
    "notes.txt": lambda: b"some words",
    "empty": lambda: b"",
    "tasks.jsonl": lambda: tasks("A dog", "A cat"),
    "wrong.jsonl": lambda: tasks("A dog") + b"\n{\n" + tasks("A cat"),
}


def tasks(*prompts: str) -> bytes:
    """Requests of a batch."""
    lines = [
        {"custom_id": prompt, "method": "POST", "url": "/v1/videos", "body": {"prompt": prompt, "seed": 7}}
        for prompt in prompts
    ]
    return b"\n".join(json.dumps(line).encode() for line in lines)


class Stage:
    """A server with one key, and what an example needs there to be.

    Args:
        server: nothing works there but what is done here.
    """

    def __init__(self, server: Any) -> None:
        self.server = server
        self._keys = Keys(server.store)
        self.names: dict[str, str] = {}
        self.key = self._keys.create("golden", (Scope.GENERATE,))[1]

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        key = options.pop("key", self.key)
        headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **options.pop("headers", {})}
        answer: httpx.Response = self.server.client.request(
            method, path, headers=headers, timeout=60, **options
        )
        return answer

    def give(self, given: str) -> None:
        """Make what an example needs, such as "a finished video"."""
        GIVEN[given](self)

    def make(self, **fields: Any) -> None:
        asked = {
            "prompt": "A dog walks along the beach",
            "seconds": "2",
            "size": "96x64",
            "seed": 7,
            **fields,
        }
        answer = self.send("POST", "/v1/videos", json=asked).raise_for_status()
        self.names["video"] = answer.json()["id"]

    def make_finished(self, **fields: Any) -> None:
        self.make(**fields)
        lease = self.server.claim()
        plan = lease.job.plan
        spec = app.open_catalog(self.server.settings).resolve(plan.model)
        videos = []
        for index in range(plan.num_videos):
            out, key = self.server.folder / f"made-{index}.mp4", f"videos/{lease.job.id}-{index}.mp4"
            *_, product = produce(FakeEngine(0), plan, spec, out, key, "repeat", NO_MARKS, with_pictures=True)
            videos.append(dataclasses.replace(product.video, index=index))
            for picture in (product.video, product.video.thumbnail, product.video.spritesheet):
                self.server.files.put(
                    out.with_name(out.stem + picture.key.removeprefix(key[:-4])), picture.key
                )
        self.server.store.succeed(lease, videos, product.details(), speed=None, device="cpu")

    def make_failed(self) -> None:
        self.make()
        error = JobError("out_of_memory", "The device ran out of memory.")
        self.server.store.fail(self.server.claim(), error)

    def make_running(self) -> None:
        self.make()
        self.server.store.report(self.server.claim(), 40, "denoise")

    def make_several(self) -> None:
        for prompt in ("A dog", "A cat", "A bird"):
            self.make_finished(prompt=prompt)

    def make_file(self) -> None:
        files = {"file": ("first.png", FILES["first.png"](), "image/png")}
        answer = self.send("POST", "/v1/files", data={"purpose": "vision"}, files=files).raise_for_status()
        self.names["file"] = answer.json()["id"]

    def make_character(self) -> None:
        files = {"video": ("first.png", FILES["first.png"](), "image/png")}
        answer = self.send("POST", "/v1/videos/characters", data={"name": "Rex"}, files=files)
        self.names["character"] = answer.raise_for_status().json()["id"]

    def make_tasks(self, name: str = "tasks.jsonl") -> None:
        files = {"file": (name, FILES[name](), "application/jsonl")}
        answer = self.send("POST", "/v1/files", data={"purpose": "batch"}, files=files).raise_for_status()
        self.names["file"] = answer.json()["id"]

    def make_batch(self, status: str, name: str = "tasks.jsonl") -> None:
        self.make_tasks(name)
        asked = {"input_file_id": self.names["file"], "endpoint": "/v1/videos", "completion_window": "24h"}
        answer = self.send("POST", "/v1/batches", json=asked).raise_for_status()
        self.names["batch"] = answer.json()["id"]
        path = f"/v1/batches/{self.names['batch']}"

        def is_there() -> bool:
            if status == "completed" and (lease := self.server.store.claim("test", 60)) is not None:
                self.server.finish(lease)
            return bool(self.send("GET", path).json()["status"] == status)

        eventually(is_there)

    def make_endpoint(self) -> None:
        asked = {"name": "mine", "url": "http://127.0.0.1:9/hook", "event_types": ["video.completed"]}
        answer = self.send("POST", "/v1/webhook_endpoints", json=asked).raise_for_status()
        self.names["endpoint"] = answer.json()["id"]

    def make_once(self) -> None:
        self.send(
            "POST", "/v1/videos", headers={"Idempotency-Key": "mine"}, json={"prompt": "A dog"}
        ).raise_for_status()

    def make_foreign(self) -> None:
        own, self.key = self.key, self._keys.create("another", (Scope.GENERATE,))[1]
        self.make()
        self.key = own

    def clear(self) -> None:
        """Leave no job that the next example's worker would find."""
        while (lease := self.server.store.claim("test", 60)) is not None:
            self.server.store.fail(lease, JobError("cleared", "Cleared."))


GIVEN: dict[str, Callable[[Stage], None]] = {
    "nothing": lambda _stage: None,
    "a queued video": Stage.make,
    "a running video": Stage.make_running,
    "a finished video": Stage.make_finished,
    "a failed video": Stage.make_failed,
    "a finished video of a model that changes videos": lambda stage: stage.make_finished(model="every"),
    "a character": Stage.make_character,
    "three finished videos": Stage.make_several,
    "a video of another key": Stage.make_foreign,
    "a finished video of response_format b64_json": lambda stage: stage.make_finished(
        response_format="b64_json"
    ),
    "a finished pair of videos": lambda stage: stage.make_finished(n=2),
    "a video with the Idempotency-Key `mine`": Stage.make_once,
    "an uploaded picture": Stage.make_file,
    "an uploaded file of requests": Stage.make_tasks,
    "a batch whose videos are being made": lambda stage: stage.make_batch("in_progress"),
    "a batch whose videos are made": lambda stage: stage.make_batch("completed"),
    "a batch whose file is wrong": lambda stage: stage.make_batch("failed", "wrong.jsonl"),
    "a webhook endpoint": Stage.make_endpoint,
}


def filled(value: Any, names: dict[str, str]) -> Any:
    """Put ids where their names stand."""
    if isinstance(value, str):
        for name, found in names.items():
            value = value.replace("{" + name + "}", found)
        return value
    if isinstance(value, dict):
        return {key: filled(part, names) for key, part in value.items()}
    return [filled(part, names) for part in value] if isinstance(value, list) else value


def answer_to(example: dict[str, Any], stage: Stage) -> dict[str, Any]:
    """Send an example's request; returns the answer as a golden file has it."""
    stage.give(example.get("given", "nothing"))
    request = filled(example["request"], stage.names)
    options: dict[str, Any] = {"headers": request.get("headers", {})}
    if "json" in request:
        options["json"] = request["json"]
    if "text" in request:
        options["content"] = request["text"]
    if "form" in request:
        parts = request["form"].items()
        options["files"] = [
            (name, (part["file"], FILES[part["file"]]())) if isinstance(part, dict) else (name, (None, part))
            for name, part in parts
        ]
    if request.get("key") == "none":
        options["key"] = None
    answer = stage.send(request["method"], request["path"], **options)
    shown: dict[str, Any] = {
        "status": answer.status_code,
        "headers": {name: plain(answer.headers[name], name) for name in HEADERS if name in answer.headers},
    }
    media_type = answer.headers.get("content-type", "")
    if media_type.startswith(("video/", "image/")):
        _hide_the_encoders_work(shown["headers"])
    if media_type == "application/json":
        shown["headers"].pop("content-length", None)
        body = answer.json()
        keep_seeds = "seed" in json.dumps(request) or "given" in example
        shown["json"] = plain(body, keep_seeds=keep_seeds)
    elif answer.content:
        shown["body"] = f"<{media_type}>"
    stage.clear()
    return shown


def _hide_the_encoders_work(headers: dict[str, str]) -> None:
    if headers.get("content-length") != "100":
        headers["content-length"] = "<bytes>"
    headers["etag"] = "<sha-256 of the file>"
    if "content-range" in headers:
        headers["content-range"] = re.sub(r"\d+$", "<bytes>", headers["content-range"])


def text_of(example: dict[str, Any]) -> str:
    return json.dumps(example, indent=2, ensure_ascii=False) + "\n"

"""A real server process with the embedded model, and the official clients as processes that know nothing of this project."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.deployment import Deployment
from vitascope import app, settings
from vitascope.domain.access import KeyLimits, Scope
from vitascope.service.keys import Keys
from waiting import eventually

DRIVERS = Path(__file__).parent / "drivers"
INSTALLED = Path(sys.prefix) / "clients"
CLIENTS = ("python-2.3.0", "python-2.54.0", "python-3.54.0", "node-7.57.0")

QUICK = {"seconds": "1", "size": "64x64"}
QUICK_EXTRA = {"num_inference_steps": 1, "fps": 8}
"""What the embedded model makes in a second."""


class ClientError(Exception):
    """What an SDK raised, as its own client sees it."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told)
        self.name: str = told["class"]
        # JSON of undefined is nothing
        self.status: int | None = told.get("status")
        self.code: str | None = told.get("code")
        self.param: str | None = told.get("param")
        self.type: str | None = told.get("type")
        self.message: str = told["message"]


class Client:
    """One SDK in a process of its own."""

    def __init__(self, name: str, base_url: str, key: str) -> None:
        self.name = name
        self.language, _, self.version = name.partition("-")
        if self.language == "python":
            folder = INSTALLED / f"openai-{self.version}"
            command = [sys.executable, str(DRIVERS / "client.py"), base_url, key]
            environment = {"PYTHONPATH": str(folder), "NO_PROXY": "127.0.0.1"}
        else:
            folder = INSTALLED / f"openai-node-{self.version}"
            command = [str(INSTALLED / "node"), str(DRIVERS / "client.mjs"), str(folder), base_url, key]
            environment = {}
        assert folder.exists(), f"{folder} is missing: run scripts/setup-clients"
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        assert self._reply() == self.version

    def call(
        self,
        call: str,
        *ids: str,
        save: Path | None = None,
        client: dict[str, Any] | None = None,
        **params: Any,
    ) -> Any:
        """Call a method of the SDK, named as in Python; `client` are options of the client itself."""
        order: dict[str, Any] = {"call": call, "ids": ids, "params": params, "client": client or {}}
        if save is not None:
            order["save"] = str(save)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the client {self.name} has ended"
        reply = json.loads(line)
        if "error" in reply:
            raise ClientError(reply["error"])
        return reply["answer"]

    def poll(self, video_id: str, client: dict[str, Any] | None = None) -> dict[str, Any]:
        """Wait for a video's end: with the SDK's own helper where it has one."""
        if self.language == "python":
            return dict(self.call("videos.poll", video_id, client=client))
        seen: list[dict[str, Any]] = []

        def has_ended() -> bool:
            seen.append(self.call("videos.retrieve", video_id, client=client))
            return seen[-1]["status"] not in ("queued", "in_progress")

        eventually(has_ended, timeout_seconds=240, pause_seconds=0.2)
        return seen[-1]

    def make(self, **params: Any) -> dict[str, Any]:
        """Make a quick video and wait for its end."""
        extra = {**QUICK_EXTRA, **params.pop("extra_body", {})}
        asked = {"prompt": "a dog", **QUICK, **params, "extra_body": extra}
        if self.language == "python":
            video = dict(self.call("videos.create_and_poll", **asked))
        else:
            video = self.poll(self.call("videos.create", **asked)["id"])
        assert video["status"] == "completed", video["error"]
        return video

    def close(self) -> None:
        self._process.communicate(timeout=30)


@dataclass
class Served:
    """The server, and keys of it."""

    url: str
    #: Makes a key; returns the key itself.
    new_key: Callable[..., str]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    deployment = Deployment(folder, {"VITASCOPE_OUTBOUND__ALLOW": '["127.0.0.1"]'})
    store = app.open_store(settings.load(home=deployment.home))

    def new_key(scope: Scope = Scope.GENERATE, **limits: Any) -> str:
        return Keys(store).create("client", (scope,), KeyLimits(**limits))[1]

    new_key()  # the server starts closed
    deployment.tend()
    url = f"http://127.0.0.1:{deployment.ports[0]}"

    def is_ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(is_ready, timeout_seconds=120)
        yield Served(url, new_key)
    finally:
        store.close()
        problems = deployment.stop()
    assert problems == []
    assert "Traceback" not in deployment.log.read_text()


@pytest.fixture(scope="session", params=CLIENTS)
def client(request: pytest.FixtureRequest, served: Served) -> Iterator[Client]:
    """Each client in turn, with a key of its own."""
    made = Client(request.param, f"{served.url}/v1", served.new_key())
    yield made
    made.close()


@dataclass
class Receiver:
    """Takes webhooks."""

    url: str
    messages: list[tuple[dict[str, str], str]] = field(default_factory=list)

    def wait(self) -> tuple[dict[str, str], str]:
        """Return headers and body of the first message."""
        eventually(lambda: self.messages)
        return self.messages[0]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    messages: list[tuple[dict[str, str], str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            messages.append((dict(self.headers.items()), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Receiver(f"http://127.0.0.1:{server.server_port}/hook", messages)
    server.shutdown()
    thread.join()
    server.server_close()

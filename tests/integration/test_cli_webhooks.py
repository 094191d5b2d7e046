"""`vitascope webhooks` against a real server process and a real receiver."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook

from waiting import eventually


class Receiver(BaseHTTPRequestHandler):
    got: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    handler = type("Own", (Receiver,), {"got": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", handler.got
        server.shutdown()
        thread.join()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Where a server listens that may call receivers on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "VITASCOPE_HOME": str(tmp_path / "home"),
        "VITASCOPE_OUTBOUND__ALLOW": '["127.0.0.1"]',
        "VITASCOPE_SERVER__PORT": str(port),
    }
    command = [sys.executable, "-m", "vitascope", "serve", "--engine", "fake", "--fake-step-seconds", "0"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stderr=log, cwd=tmp_path)

    def is_ready() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    eventually(is_ready, 60)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=60)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_an_endpoint_from_its_first_message_to_its_end(
    url: str, receiver: tuple[str, list[tuple[dict[str, str], bytes]]]
) -> None:
    hook, got = receiver

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vitascope", "webhooks", *arguments, "--server", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    secret = run("endpoints", "add", hook).stdout.strip().splitlines()[-1]
    (endpoint,) = json.loads(run("endpoints", "list", "--json").stdout)
    assert endpoint["url"] == hook
    assert secret.startswith("whsec_")
    assert secret not in run("endpoints", "list").stdout
    run("test", endpoint["id"])
    job = httpx.post(f"{url}/api/v1/jobs", json={"prompt": "a"}, trust_env=False).json()
    eventually(lambda: len(got) == 2, 60)
    for headers, body in got:
        Webhook(secret).verify(body, headers)
    (told,) = json.loads(run("list", "--json", "--job", job["id"]).stdout)
    assert (told["status"], told["id"]) == ("delivered", got[1][0]["webhook-id"])
    assert told["id"] in run("list").stdout
    run("replay", told["id"])
    eventually(lambda: len(got) == 3, 60)
    assert (got[2][0]["webhook-id"], got[2][1]) == (told["id"], got[1][1]), "the same id and the same body"
    renewed = run("endpoints", "rotate", endpoint["id"]).stdout.strip().splitlines()[-1]
    run("test", endpoint["id"])
    headers, body = got[3]
    for each in (renewed, secret):
        Webhook(each).verify(body, headers)
    run("endpoints", "remove", endpoint["id"])
    assert json.loads(run("endpoints", "list", "--json").stdout) == []
    refused = run("endpoints", "add", "http://10.0.0.1/x", code=1)
    assert "10.0.0.1" in refused.stderr
    assert run("replay", "msg_unknown", code=1).stderr.startswith("error: ")

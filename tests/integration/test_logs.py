"""What a whole run leaves behind: no log and no output has a key, a secret, a prompt or a signed link in it, even at debug level."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from PIL import Image

from waiting import eventually

PROMPT = "a marmalade zeppelin over Ouagadougou"
NEGATIVE = "quixotic walruses"
SIGNATURE = "5f1e9c0a77d2signedlink"
NAME = "order-of-the-garter-1348"
SMALL = {"num_inference_steps": 2, "num_frames": 5, "height": 64, "width": 96}


def png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (96, 64), "teal").save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def pictures() -> Iterator[str]:
    """A server of pictures behind signed links; `/moved` leads to another one."""

    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", f"/picture.png?X-Amz-Signature={SIGNATURE}")
                self.end_headers()
                return
            self.send_response(200 if self.path.startswith("/picture") else 403)
            self.end_headers()
            self.wfile.write(png())

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class Run:
    """`vitascope serve` at debug level, and commands beside it; all that they say is kept."""

    def __init__(self, folder: Path, allowed: str) -> None:
        self.home, self.log = folder / "home", folder / "log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "VITASCOPE_HOME": str(self.home),
            "VITASCOPE_LOG_LEVEL": "debug",
            "VITASCOPE_SERVER__PORT": str(self.port),
            "VITASCOPE_WORKER__MAX_ATTEMPTS": "1",
            "VITASCOPE_OUTBOUND__ALLOW": json.dumps([allowed]),
            "VITASCOPE_SECRETS__KEY": base64.b64encode(b"\x07at rest" * 4).decode(),
        }
        self.secrets: dict[str, str] = {"the key of secrets": self.environment["VITASCOPE_SECRETS__KEY"]}
        #: Signatures of links to files that clients were given.
        self.links: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str, key: str | None = None) -> str:
        """Run a command; what it says beside its answer is kept with the log."""
        environment = {**self.environment, **({"VITASCOPE_API_KEY": key} if key else {})}
        with self.log.open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-m", "vitascope", *arguments],
                env=environment, stdout=subprocess.PIPE, stderr=log, timeout=120, text=True, cwd=self.home.parent,
            )  # fmt: skip
        assert done.returncode == 0, self.log.read_text()
        return done.stdout.strip()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vitascope", "serve"],
                env=self.environment, stdout=log, stderr=log, cwd=self.home.parent,
            )  # fmt: skip
        eventually(self.is_ready, 120)

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz").status_code == 200
        return False

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    def engine(self) -> psutil.Process:
        assert self.process is not None
        family = psutil.Process(self.process.pid).children(recursive=True)
        return next(process for process in family if "engine-process" in process.cmdline())


@pytest.fixture
def run(tmp_path: Path, pictures: str) -> Iterator[Run]:
    made = Run(tmp_path, pictures)
    yield made
    made.stop()


def ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = client.get(f"/api/v1/jobs/{job_id}").json()
        return job if job["status"] in ("succeeded", "failed", "cancelled") else None

    found = eventually(look, 120)
    assert found is not None
    return found


def make_keys(run: Run) -> None:
    """Keys by command, and a webhook secret, old and new."""
    run.secrets["admin"] = run.command("keys", "create", "admin", "--scope", "admin")
    run.secrets["app"] = run.command("keys", "create", "app")
    rows = {row["name"]: row["id"] for row in json.loads(run.command("keys", "list", "--json"))}
    run.secrets["webhook"] = run.command("keys", "secret", rows["app"])
    run.secrets["webhook again"] = run.command("keys", "secret", rows["app"], "--rotate")


def keys_over_the_api(run: Run, admin: httpx.Client) -> None:
    """One key that is rotated and revoked, and one that may do little."""
    gone = admin.post("/api/v1/keys", json={"name": "gone"}).json()
    run.secrets["rotated"] = gone["key"]
    run.secrets["revoked"] = admin.post(f"/api/v1/keys/{gone['id']}/rotate").json()["key"]
    assert admin.delete(f"/api/v1/keys/{gone['id']}").status_code == 200
    made = admin.post("/api/v1/keys", json={"name": "slow", "requests_per_minute": 1}).json()
    run.secrets["slow"] = made["key"]
    run.secrets["slow rotated"] = admin.post(f"/api/v1/keys/{made['id']}/rotate").json()["key"]
    path = f"/api/v1/keys/{made['id']}/webhook-secret"
    for name, answer in (("webhook 3", admin.get(path)), ("webhook 4", admin.post(f"{path}/rotate"))):
        run.secrets[name] = answer.json()["secrets"][0]["secret"]


def send_bad_credentials(run: Run) -> None:
    app, revoked = run.secrets["app"], run.secrets["revoked"]
    run.secrets["unknown"] = f"vsk_{'Q7z' * 13}x"
    for headers, params in (
        ({"Authorization": f"Bearer {run.secrets['unknown']}"}, {}),
        ({"Authorization": f"Bearer {app[:-1]}"}, {}),
        ({"Authorization": f"Bearer {app}{'x' * 300}"}, {}),
        ({"Authorization": f"Bearer {revoked}"}, {}),
        ({"Authorization": app}, {}),
        ({"Authorization": f"Basic {base64.b64encode(app.encode()).decode()}"}, {}),
        ({"Authorization": f"Bearer {app}", "X-Api-Key": revoked}, {}),
        ({}, {"api_key": app}),
        ({}, {"key": app}),
    ):
        for path in ("/v1/videos", "/api/v1/jobs"):
            assert httpx.get(f"{run.url}{path}", headers=headers, params=params).status_code == 401


def send_bad_requests(run: Run, client: httpx.Client, pictures: str) -> None:
    dark = f"http://192.168.7.7/a.png?X-Amz-Signature={SIGNATURE}"
    refused = f"http://{pictures}/gone?X-Amz-Signature={SIGNATURE}"
    for path, field in (("/v1/videos", "input_reference"), ("/api/v1/jobs", "image")):
        for wrong in ({"size" if field == "input_reference" else "width": "33"}, {field: dark}, {field: refused}, {field: "data:;base64,AAAA"}):  # fmt: skip
            body = {"prompt": PROMPT, **wrong}
            assert client.post(path, json=body).status_code == 400, body
        for text in (f'{{"prompt": "{PROMPT}', f'{{"prompt": "{PROMPT}", "prompt": "{PROMPT}"}}'):
            answer = client.post(path, content=text, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400
        files = {field: ("a.png", b"\x89PNG\r\n\x1a\n" + PROMPT.encode() * 9, "image/png")}
        assert client.post(path, data={"prompt": PROMPT}, files=files).status_code == 400
    slow = {"X-Api-Key": run.secrets["slow rotated"]}
    assert client.post("/v1/videos", json={"prompt": PROMPT, **SMALL}, headers=slow).status_code == 200
    assert client.post("/v1/videos", json={"prompt": PROMPT}, headers=slow).status_code == 429


def make_videos(run: Run, client: httpx.Client, pictures: str) -> None:
    """Jobs of both dialects, in each form of body; one to its end and one whose engine is killed."""
    named = {"Idempotency-Key": NAME}
    body = {"prompt": PROMPT, "negative_prompt": NEGATIVE, **SMALL}
    first = client.post("/api/v1/jobs", json=body, headers=named).json()
    assert client.post("/api/v1/jobs", json=body, headers=named).json()["id"] == first["id"]
    link = f"http://{pictures}/moved?token={SIGNATURE}"
    waiting = [client.post("/v1/videos", json={"input_reference": {"image_url": link}, **body}).json()["id"]]
    files = {"image": ("a.png", png(), "image/png")}
    data = {name: str(value) for name, value in body.items()}
    waiting.append(client.post("/api/v1/jobs", data=data, files=files).json()["id"])
    with openai.OpenAI(base_url=f"{run.url}/v1", api_key=run.secrets["app"], max_retries=0) as sdk:
        waiting.append(sdk.videos.create(prompt=PROMPT, seconds="4", extra_body=SMALL).id)
    assert ended(client, first["id"])["status"] == "succeeded"
    assert client.get(f"/api/v1/jobs/{first['id']}/content").content[4:8] == b"ftyp"
    linked = client.get(f"/api/v1/jobs/{first['id']}").json()["video"]["signed_url"]
    run.links.append(linked.split(".")[-2])
    assert httpx.get(linked, trust_env=False).content[4:8] == b"ftyp"
    assert httpx.get(f"{linked}x", trust_env=False).status_code == 404
    for job_id in waiting:
        assert ended(client, job_id)["status"] == "succeeded"
        assert client.delete(f"/api/v1/jobs/{job_id}").status_code == 204
    long = client.post("/api/v1/jobs", json={**body, "num_inference_steps": 100}).json()["id"]
    eventually(lambda: client.get(f"/api/v1/jobs/{long}").json()["progress"] > 0, 120)
    run.engine().send_signal(signal.SIGKILL)
    assert ended(client, long)["error"]["code"] == "worker_lost"
    again = client.post(f"/api/v1/jobs/{long}/retry").json()["id"]
    client.post(f"/api/v1/jobs/{again}/cancel")
    assert ended(client, again)["status"] == "cancelled"


def clear_text(secret: str) -> list[bytes]:
    """The secret as it could be written: whole, and what its base64 holds."""
    text = secret.removeprefix("whsec_")
    raw = base64.b64decode(text) if text != secret else text.encode()
    return [text.encode(), raw]


def test_a_whole_run_at_debug_level_tells_nobodys_secrets(run: Run, pictures: str) -> None:
    make_keys(run)
    run.start()
    with (
        httpx.Client(base_url=run.url, headers={"X-Api-Key": run.secrets["app"]}, timeout=60) as app,
        httpx.Client(base_url=run.url, headers={"Api-Key": run.secrets["admin"]}, timeout=60) as admin,
    ):
        keys_over_the_api(run, admin)
        send_bad_credentials(run)
        send_bad_requests(run, app, pictures)
        make_videos(run, app, pictures)
        assert run.secrets["app"] not in admin.get("/metrics").text
        run.command("jobs", "list", key=run.secrets["app"])
    run.stop()
    run.command("db", "check")

    said = run.log.read_bytes()
    for name in (
        b"sqlalchemy.engine.Engine: INSERT INTO jobs",
        b"INSERT INTO secrets",
        b"url refused",
        b"engine died",
    ):
        assert name in said, f"the run was not the one that was meant: {name!r} is not in the log"
    told = {
        "prompt": PROMPT,
        "negative prompt": NEGATIVE,
        "signed link": SIGNATURE,
        "name": NAME,
        **{f"signature {number} of a link to a file": link for number, link in enumerate(run.links)},
        **run.secrets,
    }
    logs = [run.log, *run.home.rglob("*.log")]
    for what, text in told.items():
        for path, form in ((path, form) for path in logs for form in clear_text(text)):
            for found in re.finditer(re.escape(form), path.read_bytes()):
                line = path.read_bytes()[max(0, found.start() - 300) : found.end() + 100]
                pytest.fail(f"{what} is in {path.name}: {line!r}")
    files = [path for path in run.home.rglob("*") if path.is_file()]
    assert run.home / "vitascope.db" in files
    for what, text in run.secrets.items():
        for path, form in ((path, form) for path in files for form in clear_text(text)):
            assert form not in path.read_bytes(), f"{what} is in {path.relative_to(run.home)}"
    print(
        f"{len(told)} texts searched for in {len(said)} bytes of log, {len(run.secrets)} in {len(files)} files"
    )
    assert PROMPT.encode() in (run.home / "vitascope.db").read_bytes(), "the search finds what is there"

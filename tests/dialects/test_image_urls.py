"""Images given as URLs: fetched and stored when the job is created, or refused under the client's own field name."""

from __future__ import annotations

import base64
import http.server
import io
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from vitascope.domain.errors import SettingsError
from vitascope.outbound import fetch

HERE = "127.0.0.2"


def png(colour: str = "red") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (96, 64), colour).save(content, "PNG")
    return content.getvalue()


class Pictures(http.server.ThreadingHTTPServer):
    """Serves pictures by colour; `/silent` says nothing until it is let go."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((HERE, 0), Handler)
        self.url = f"http://{HERE}:{self.server_port}"
        self.asked: list[str] = []
        self.is_asked = threading.Event()
        self.let_go = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Pictures

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/silent":
            self.server.is_asked.set()
            self.server.let_go.wait(30)
        texts = {"/text": b"no picture", "/large": b"x" * 5000, "/silent": b"late", "/missing": b""}
        body = texts[self.path] if self.path in texts else png(self.path[1:].split("?")[0])
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def pictures() -> Iterator[Pictures]:
    with Pictures() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.let_go.set()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "ANSWER_SECONDS", 0.01)
        yield serve(outbound={"allow": [HERE], "max_bytes": 4000})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/jobs", {"json": {"image": "URL"}}),
        ("/api/v1/jobs", {"data": {"image": "URL"}}),
        ("/v1/videos", {"json": {"input_reference": "URL"}}),
        ("/v1/videos", {"json": {"image": "URL"}}),
        ("/v1/videos", {"json": {"input_reference": {"image_url": "URL"}}}),
        ("/v1/videos", {"files": {"input_reference[image_url]": (None, "URL")}}),
        ("/v1/videos", {"files": {"input_reference": (None, "URL")}}),
    ],
)
def test_a_picture_is_fetched_once_and_stored_like_an_upload(
    server: Any, pictures: Pictures, path: str, body: dict[str, Any]
) -> None:
    pictures.asked.clear()
    url = f"{pictures.url}/red?sig=a%2Fb"
    ((form, fields),) = body.items()
    filled = replaced(fields, url)
    filled["prompt"] = (None, "a") if form == "files" else "a"
    answer = server.client.post(path, **{form: filled})
    assert answer.status_code in (200, 201), answer.text
    assert pictures.asked == ["/red?sig=a%2Fb"]
    job = server.store.get(answer.json()["id"].removeprefix("video_"))
    upload = server.client.post(
        "/api/v1/jobs", json={"prompt": "a", "image": base64.b64encode(png()).decode()}
    )
    uploaded = server.store.get(upload.json()["id"])
    assert job.plan.mode == "image"
    stored = [server.files.path_for(each.request.image).read_bytes() for each in (job, uploaded)]
    assert stored[0] == stored[1]
    assert url not in str(job.request.to_dict()), "the URL may be signed, and is not needed any more"


def replaced(value: Any, url: str) -> Any:
    if isinstance(value, dict):
        return {key: replaced(inner, url) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(replaced(inner, url) for inner in value)
    return url if value == "URL" else value


def test_a_retry_does_not_need_the_url(server: Any, pictures: Pictures) -> None:
    job = server.client.post("/api/v1/jobs", json={"prompt": "a", "image": f"{pictures.url}/blue"}).json()
    server.client.post(f"/api/v1/jobs/{job['id']}/cancel")
    pictures.asked.clear()
    assert server.client.post(f"/api/v1/jobs/{job['id']}/retry").status_code == 201
    assert pictures.asked == []


def test_a_repeated_request_does_not_need_the_url(server: Any, pictures: Pictures) -> None:
    """Signed URLs may be good for one time only."""
    pictures.asked.clear()
    body = {"prompt": "a", "image": f"{pictures.url}/green"}
    sent = [
        server.client.post("/v1/videos", json=body, headers={"Idempotency-Key": "once"}) for _ in range(2)
    ]
    assert sent[0].json()["id"] == sent[1].json()["id"]
    assert pictures.asked == ["/green"]
    other = server.client.post(
        "/v1/videos", json={**body, "prompt": "b"}, headers={"Idempotency-Key": "once"}
    )
    assert other.status_code == 409
    assert pictures.asked == ["/green"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("{pictures}/missing", "its server answers 404"),
        ("{pictures}/large", "at most 4000 bytes"),
        ("{pictures}/text", "cannot be read"),
        ("http://127.0.0.1:{trap}/", "its port must be 80, 443, 8080 or 8443"),
        ("http://127.0.0.1/", "no public address, or does not answer"),
        ("http://[::ffff:127.0.0.1]/", "no public address, or does not answer"),
        ("http://2130706433/", "its host must be a name"),
        ("HTTPS://a:b@127.0.0.1/", "user name or password"),
    ],
)
def test_a_url_that_is_not_fetched_is_an_error_of_its_field(
    server: Any, pictures: Pictures, url: str, words: str
) -> None:
    queued = server.store.queue_stats().queued
    stored = list(server.settings.files_folder.glob("inputs/*"))
    with socket.create_server(("127.0.0.1", 0)) as trap:
        filled = url.format(pictures=pictures.url, trap=trap.getsockname()[1])
        for path, name, value in [
            ("/v1/videos", "image", filled),
            ("/v1/videos", "input_reference", filled),
            ("/v1/videos", "input_reference[image_url]", filled),
            ("/api/v1/jobs", "image", filled),
        ]:
            form = {"input_reference": {"image_url": value}} if "[" in name else {name: value}
            answer = server.client.post(path, json={"prompt": "a", **form})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "invalid_parameter")
            assert error.get("param", error.get("parameter")) == name
            assert words in error["message"]
        trap.setblocking(False)
        with pytest.raises(BlockingIOError):
            trap.accept()
    assert server.store.queue_stats().queued == queued
    assert list(server.settings.files_folder.glob("inputs/*")) == stored


def test_what_cannot_be_made_fetches_nothing(server: Any, pictures: Pictures) -> None:
    pictures.asked.clear()
    body = {"prompt": "a", "image": f"{pictures.url}/red", "height": 65}
    assert server.client.post("/api/v1/jobs", json=body).status_code == 400
    assert pictures.asked == []


def test_a_silent_server_keeps_only_its_own_client_waiting(server: Any, pictures: Pictures) -> None:
    answers: list[httpx.Response] = []

    def create() -> None:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
            answers.append(
                client.post("/api/v1/jobs", json={"prompt": "a", "image": f"{pictures.url}/silent"})
            )

    waiting = threading.Thread(target=create)
    waiting.start()
    assert pictures.is_asked.wait(30)
    assert server.client.get("/livez").status_code == 200
    assert server.client.post("/api/v1/jobs", json={"prompt": "a"}).status_code == 201
    assert answers == []
    pictures.let_go.set()
    waiting.join()
    assert "cannot be read" in answers[0].json()["error"]["message"], "it was text in the end"


def test_fetching_can_be_switched_off(serve: Callable[..., Any], pictures: Pictures) -> None:
    pictures.asked.clear()
    off = serve(outbound={"enabled": False, "allow": [HERE]})
    error = off.client.post("/api/v1/jobs", json={"prompt": "a", "image": f"{pictures.url}/red"}).json()[
        "error"
    ]
    assert "URLs are not fetched by this server" in error["message"]
    assert pictures.asked == []


def test_a_wrong_entry_is_refused_at_start(serve: Callable[..., Any]) -> None:
    with pytest.raises(SettingsError, match=r"outbound\.allow"):
        serve(outbound={"allow": ["http://minio/"]})

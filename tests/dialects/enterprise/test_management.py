"""The vendor's management calls over HTTP: paths, replies, who may. What they do to real workers is in tests/integration/test_management.py.

The replies are compared with `management.json` of each host.
"""

from __future__ import annotations

import base64
import http.server
import importlib.util
import io
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitascope import __version__, moderation
from vitascope.dialects._enterprise.management import waiting as waiting_calls
from vitascope.domain.access import Scope
from vitascope.domain.command import CommandKind
from vitascope.domain.job import JobStatus
from vitascope.service.keys import Keys
from waiting import eventually

ENTERPRISE, VIDEO, V6 = "/api/v1/enterprise", "/api/v1/enterprise/video", "/api/v6/video"
EVERYWHERE = (ENTERPRISE, VIDEO, V6)
HERE = "127.0.0.2"
GOLDEN = {ENTERPRISE: "stablediffusionapi", VIDEO: "modelslab"}
SKIN, RED = (210, 150, 120), (255, 0, 0)
"""Plain pictures of these score 0.27 and 0.04."""


def picture(kind: str = "PNG", colour: tuple[int, int, int] = RED) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (96, 64), colour).save(file, kind)
    return file.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def call(server: Any, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    answer = server.client.post(path, json={"key": "", **body})
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()


def submit(server: Any, **body: Any) -> str:
    answer = server.client.post("/api/v1/jobs", json={"prompt": "a dog", **body})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def kinds(server: Any) -> list[CommandKind]:
    return [command.kind for command in reversed(server.store.commands())]


@pytest.fixture
def obedient(server: Any) -> Iterator[Any]:
    """A server with a worker that does nothing but what it is told, at once."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.01):
            server.store.worker_seen("w1", "cpu", [])
            if (errand := server.store.take_errand("w1", frozenset(CommandKind))) is not None:
                server.store.end_errand(errand.number, "done")

    server.store.worker_seen("w1", "cpu", [])
    thread = threading.Thread(target=work)
    thread.start()
    yield server
    stop.set()
    thread.join()
    server.store.worker_stopped("w1")


def examples() -> dict[str, dict[str, Any]]:
    """Requests by call, as the vendor's pages have them."""
    nothing: dict[str, Any] = {}
    png = base64_of(picture())
    return {
        "system_details": nothing,
        "restart_server": nothing,
        "update_server": nothing,
        "clear_cache": nothing,
        "clear_queue": nothing,
        "schedulers_list": nothing,
        "verify_model": {"model_id": "pocket"},
        "get_all_models": nothing,
        "load_model": {"url": "someone/tiny", "model_id": "tiny", "model_type": "huggingface"},
        "load_model_v2": {"url": "someone/tiny", "model_id": "tiny", "model_category": "video"},
        "load_vae": {"vae_id": "soft", "vae_url": "someone/soft", "vae_type": "diffusers"},
        "delete_model": {"model_id": "tiny"},
        "sync_models": {"sync_key": "nobody's"},
        "upload_image": {"base64_image": png, "image_type": "png"},
        "nsfw_image_check": {"init_image": png},
    }


@pytest.mark.parametrize("prefix", GOLDEN)
def test_replies_are_as_documented(obedient: Any, prefix: str) -> None:
    found = {
        name: dict(zip(("http", "reply"), call(obedient, f"{prefix}/{name}", **body), strict=True))
        for name, body in examples().items()
    }
    path = Path(__file__).parent.parent / GOLDEN[prefix] / "management.json"
    text = json.dumps(found, indent=1).replace(__version__, "VERSION").replace(obedient.url, "URL")
    text = re.sub(r"/files/[0-9a-z]{26}\.0f\.[0-9]+\.[\w-]{24}\.png", "/files/TOKEN.png", text)
    text = re.sub(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d", "DATE", text)
    text = re.sub(r'"uptime": \d+', '"uptime": 1', text)
    assert json.loads(text) == json.loads(path.read_text())


@pytest.mark.parametrize("prefix", EVERYWHERE)
def test_numbers_are_those_of_the_server(serve: Callable[..., Any], prefix: str) -> None:
    server, path = serve(), f"{prefix}/system_details"
    status, body = call(server, path)
    assert (status, body["status"], body["message"]) == (200, "error", "no worker is running")
    assert body["messege"] == body["message"]
    server.store.worker_seen("w1", "cpu", ["small"])
    submit(server)
    server.claim()
    submit(server)
    # the queue is looked at once a second
    body = eventually(lambda: found if (found := call(server, path)[1])["queue_time"] else None)
    assert (body["status"], body["model_count"]) == ("ok", 1), "of the cards only pocket is here"
    told = {name: body["data"][name] for name in ("workers", "devices", "loaded_models", "queued", "running")}
    assert told == {"workers": 1, "devices": ["cpu"], "loaded_models": ["small"], "queued": 1, "running": 1}


class TestAccess:
    @pytest.fixture
    def keys(self, serve: Callable[..., Any]) -> tuple[Any, str, str]:
        server = serve()
        server.store.worker_seen("w1", "cpu", [])
        keys = Keys(server.store)
        return server, keys.create("a", (Scope.ADMIN,))[1], keys.create("b", (Scope.GENERATE,))[1]

    @pytest.mark.parametrize("name", sorted(examples()))
    @pytest.mark.parametrize("prefix", EVERYWHERE)
    def test_operators_only(self, keys: tuple[Any, str, str], prefix: str, name: str) -> None:
        server, _, made = keys
        for key, code, status in (("", "invalid_api_key", 401), (made, "permission_denied", 403)):
            found, body = call(server, f"{prefix}/{name}", key=key, **examples()[name])
            assert found == (200 if prefix == ENTERPRISE else status)
            assert (body["status"], body["code"], body["messege"]) == ("error", code, body["message"])
        assert kinds(server) == []

    def test_the_key_may_be_anywhere(self, keys: tuple[Any, str, str]) -> None:
        server, admin, _ = keys
        path = f"{VIDEO}/update"
        for headers in ({"Authorization": f"Bearer {admin}"}, {"key": admin}, {"X-Api-Key": admin}):
            assert server.client.post(path, json={}, headers=headers).json()["status"] == "success"
            assert server.client.post(path, headers=headers).json()["status"] == "success"
        assert call(server, path, key=admin)[1]["status"] == "success"


class TestServer:
    @pytest.mark.parametrize("prefix", EVERYWHERE)
    def test_a_restart_is_for_all_workers(self, serve: Callable[..., Any], prefix: str) -> None:
        server = serve()
        status, body = call(server, f"{prefix}/restart_server")
        assert (status, body["code"]) == (200 if prefix == ENTERPRISE else 503, "no_worker")
        for worker in ("w1", "w2"):
            server.store.worker_seen(worker, "cpu", [])
        body = call(server, f"{prefix}/restart_server")[1]
        assert body == {"status": "success", "message": "server restarting"}
        (command,) = server.store.commands()
        assert command.kind is CommandKind.RESTART_WORKER
        assert [errand.worker_id for errand in command.errands] == ["w1", "w2"]

    def test_a_worker_that_is_busy_clears_its_cache_later(
        self, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waiting_calls, "WAIT_SECONDS", 0.0)
        server = serve()
        server.store.worker_seen("w1", "cpu", [])
        status, body = call(server, f"{VIDEO}/clear_cache")
        assert (status, body["status"], "once" in body["message"]) == (200, "success", True)
        (command,) = server.store.commands()
        assert (command.kind, command.errands[0].options) == (CommandKind.CLEAR_CACHES, {"models": True})

    def test_a_cache_that_cannot_be_cleared_is_an_error(
        self, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = serve()
        server.store.worker_seen("w1", "cpu", [])

        def fail() -> None:
            errand = eventually(lambda: server.store.take_errand("w1", frozenset(CommandKind)))
            server.store.end_errand(errand.number, "secret details", failed=True)

        thread = threading.Thread(target=fail)
        thread.start()
        status, body = call(server, f"{VIDEO}/clear_cache")
        thread.join()
        assert (status, body["status"], "secret" in body["message"]) == (500, "error", False)

    def test_a_worker_that_ends_meanwhile_has_no_cache(self, serve: Callable[..., Any]) -> None:
        server = serve()
        cleared = (200, {"status": "success", "message": "Cache cleared successfully"})
        assert call(server, f"{VIDEO}/clear_cache") == cleared, "nor has nobody"
        server.store.worker_seen("w1", "cpu", [])

        def end() -> None:
            eventually(lambda: server.store.commands())
            server.store.worker_stopped("w1")

        thread = threading.Thread(target=end)
        thread.start()
        assert call(server, f"{VIDEO}/clear_cache") == cleared
        thread.join()

    @pytest.mark.parametrize("prefix", EVERYWHERE)
    def test_the_queue_is_cleared_webhooks_and_all(self, serve: Callable[..., Any], prefix: str) -> None:
        server = serve(outbound={"allow": [HERE]})
        hook = {"webhook": {"url": f"http://{HERE}:9/hook"}}
        jobs = [submit(server, **hook) for _ in range(150)]
        running = server.claim()
        body = call(server, f"{prefix}/clear_queue")[1]
        assert body == {
            "status": "success",
            "message": "Queue cleared, no server is running",
            "cancelled": 149,
        }
        statuses = [server.store.get(job).status for job in jobs]
        assert statuses == [JobStatus.RUNNING, *[JobStatus.CANCELLED] * 149]
        assert running.job.id == jobs[0]
        told = server.client.get("/api/v1/webhooks/deliveries?limit=100").json()["deliveries"]
        assert len(told) == 100, "a page of them"
        server.store.worker_seen("w1", "cpu", [])
        late = submit(server)
        body = call(server, f"{prefix}/clear_queue")[1]
        assert (body["cancelled"], body["message"]) == (1, "Queue cleared, server is restarting")
        assert server.store.get(late).status is JobStatus.CANCELLED
        assert kinds(server) == [CommandKind.RESTART_WORKER]


class TestModels:
    @pytest.mark.parametrize("prefix", EVERYWHERE)
    def test_a_model_that_is_not_here_is_an_error(self, server: Any, prefix: str) -> None:
        for body, said in (
            ({"model_id": "small"}, "not on this server"),
            ({"model_id": "no-such-model"}, "no-such-model"),
            ({"model_id": ""}, "missing"),
            ({}, "missing"),
            ({"model_id": 7}, "text"),
        ):
            status, answer = call(server, f"{prefix}/verify_model", **body)
            assert (status, answer["status"]) == (200 if prefix == ENTERPRISE else 400, "error"), body
            assert said in answer["message"]
            assert call(server, f"{prefix}/delete_model", **body) == (status, answer), "nor can it be deleted"


def test_a_clients_fault_is_in_no_log_however_it_is_answered(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert call(server, f"{ENTERPRISE}/verify_model", model_id="no-such-model")[0] == 200
        assert server.client.post(f"{ENTERPRISE}/verify_model", content=b"[1]").json()["status"] == "error"
    assert not caplog.records


def test_a_model_of_another_machines_worker_is_here_too(serve: Callable[..., Any]) -> None:
    server = serve()
    server.store.worker_seen("w1", "cuda", [], available=["small"])
    assert call(server, f"{VIDEO}/verify_model", model_id="sora-2")[0] == 200, "another name of it"
    names = [model["model_id"] for model in call(server, f"{VIDEO}/get_all_models")[1]["models"]]
    assert names == ["small", "pocket"], "the default one first"
    assert call(server, f"{VIDEO}/system_details")[1]["model_count"] == 2


class TestUploads:
    @pytest.mark.parametrize("prefix", EVERYWHERE)
    @pytest.mark.parametrize(("kind", "suffix"), [("PNG", "png"), ("JPEG", "jpeg"), ("JPEG", "jpg")])
    def test_a_picture_is_read_by_its_link(self, server: Any, prefix: str, kind: str, suffix: str) -> None:
        data = picture(kind)
        body = call(server, f"{prefix}/upload_image", base64_image=base64_of(data), image_type=suffix)[1]
        assert body["image_url"].endswith(f".{suffix}")
        assert server.client.get(body["image_url"]).content == data
        job = submit(server, model="small", image=body["image_url"])
        assert server.store.get(job).request.image is not None, "calls that take a picture take the link"

    def test_a_data_url_is_base64_too(self, server: Any) -> None:
        url = f"data:image/png;base64,{base64_of(picture())}"
        body = call(server, f"{VIDEO}/upload_image", base64_image=url, image_type="image/PNG")[1]
        assert body["status"] == "success"

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ({"base64_image": base64_of(picture())}, "`image_type` is missing"),
            ({"base64_image": base64_of(picture()), "image_type": "gif"}, "one of png, jpeg, jpg"),
            ({"base64_image": base64_of(picture()), "image_type": "jpg"}, "it is png"),
            ({"base64_image": base64_of(b"MZ" * 99), "image_type": "png"}, "it is neither"),
            ({"base64_image": base64_of(picture()[:40]), "image_type": "png"}, "cannot be read"),
            ({"base64_image": "https://example.com/a.png", "image_type": "png"}, "as base64"),
            ({"base64_image": "no base64!", "image_type": "png"}, "base64"),
            ({"base64_image": 7, "image_type": "png"}, "base64"),
            ({"image_type": "png"}, "`base64_image` is missing"),
        ],
    )
    def test_what_is_no_such_picture_is_not_kept(self, server: Any, body: dict[str, Any], said: str) -> None:
        before = server.client.get("/v1/files").json()["data"]
        for prefix, status in ((ENTERPRISE, 200), (VIDEO, 400)):
            found, answer = call(server, f"{prefix}/upload_image", **body)
            assert (found, answer["status"]) == (status, "error")
            assert said in answer["message"]
        assert server.client.get("/v1/files").json()["data"] == before

    def test_one_that_is_too_large_is_refused_in_the_vendors_shape(self, serve: Callable[..., Any]) -> None:
        server = serve(server={"max_body_bytes": 65536})
        body = {"base64_image": base64_of(bytes(65536)), "image_type": "png"}
        assert call(server, f"{ENTERPRISE}/upload_image", **body)[1]["code"] == "body_too_large"
        assert call(server, f"{VIDEO}/upload_image", **body)[0] == 413


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self.wfile.write(picture(colour=SKIN))

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    with http.server.ThreadingHTTPServer((HERE, 0), Handler) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://{HERE}:{other.server_port}/a.png"
        other.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def strict(serve: Callable[..., Any]) -> Any:
    """A server that finds plain skin unsafe."""
    return serve(moderation={"threshold": 0.2}, outbound={"allow": [HERE]})


class TestUnsafePictures:
    @pytest.mark.parametrize("prefix", EVERYWHERE)
    def test_a_picture_is_looked_at(self, strict: Any, prefix: str, elsewhere: str) -> None:
        path = f"{prefix}/nsfw_image_check"
        for colour, is_unsafe in ((SKIN, True), (RED, False)):
            body = call(strict, path, init_image=base64_of(picture("JPEG", colour)))[1]
            assert body == {"images": None, "has_nsfw_concept": [is_unsafe]}
        assert call(strict, path, init_image=elsewhere)[1] == {
            "images": elsewhere,
            "has_nsfw_concept": [True],
        }
        own = call(strict, f"{prefix}/upload_image", base64_image=base64_of(picture()), image_type="png")[1]
        own_url = own["image_url"]
        assert call(strict, path, init_image=own_url)[1] == {"images": own_url, "has_nsfw_concept": [False]}

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (None, "`init_image` is missing"),
            ("http://127.0.0.1:9/a.png", "`init_image`"),
            ("file:///etc/passwd", "`init_image`"),
            (base64_of(b"MZ" * 99), "cannot be read"),
            ({"url": "a"}, "an object"),
        ],
    )
    def test_what_is_no_picture_is_an_error(self, strict: Any, content: Any, said: str) -> None:
        status, answer = call(strict, f"{VIDEO}/nsfw_image_check", init_image=content)
        assert (status, answer["status"], said in answer["message"]) == (400, "error", True)

    def test_without_the_extra_that_is_said(self, strict: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        found = importlib.util.find_spec
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name: None if name == "onnxruntime" else found(name)
        )
        for prefix, status in ((ENTERPRISE, 200), (VIDEO, 404)):
            answer = call(strict, f"{prefix}/nsfw_image_check", init_image=base64_of(picture()))
            assert (answer[0], answer[1]["status"], answer[1]["code"]) == (status, "error", "not_available")
            assert moderation.EXTRA in answer[1]["message"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *((f"{ENTERPRISE}/{name}", 200) for name in ("text2img", "img2img", "inpaint", "controlnet")),
        *((f"{VIDEO}/{name}", 404) for name in ("super_resolution", "scene_creator", "watermark_remover")),
        *((f"{V6}/{name}", 404) for name in ("scene_maker", "watermark_remover", "base64_to_url")),
        *((f"/api/v7/video-fusion/{name}", 404) for name in ("lip-sync", "motion-control")),
        *((f"/api/v6/{name}", 404) for name in ("processing/request_count", "delete_image", "assets_generated")),
        ("/api/v6/images/text2img", 404),
        (f"{ENTERPRISE}/images/text2img", 200),
    ],
)  # fmt: skip
def test_what_a_video_server_has_not_is_said_to_clients_with_a_key(
    serve: Callable[..., Any], server: Any, path: str, status: int
) -> None:
    found, body = call(server, path, prompt="a dog")
    assert (found, body["status"], body["code"]) == (status, "error", "not_available")
    assert "is not available on this server" in body["message"]
    assert body["messege"] == body["message"]

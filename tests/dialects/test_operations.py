"""What operators see: health, metrics, the API's own description, and refusals at the start."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from vitascope import app, settings
from vitascope.dialects import _http
from vitascope.dialects._enterprise import management
from vitascope.dialects.openai import create, parameters, schema, superset
from vitascope.domain.errors import SettingsError, StoreUnavailable
from vitascope.service import Expiry
from vitascope.service.jobs import Jobs
from vitascope.service.keys import Keys
from vitascope.store import Store


def test_the_web_app_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from vitascope import app, settings;"
        f"app.create_web_app(settings.load(home={str(tmp_path)!r}));"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_storage_that_is_away_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()

    class Stuck(Expiry):
        def run(self) -> None:
            let_go.wait()

    monkeypatch.setattr(app.web, "Expiry", Stuck)
    monkeypatch.setattr(app.web, "EXPIRY_STOP_SECONDS", 0.01)
    web = app.create_web_app(settings.load(home=tmp_path))

    async def run() -> None:
        async with web.router.lifespan_context(web):
            pass

    asyncio.run(run())
    let_go.set()


def test_what_nobody_waits_for_is_not_read_in_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100,000 messages that are due a look takes 0.2 s: all requests would wait for as long, again and again."""
    threads: dict[str, str] = {}

    def noted(name: str) -> None:
        real = getattr(Store, name)

        def call(*args: Any, **named: Any) -> Any:
            threads[name] = threading.current_thread().name
            return real(*args, **named)

        monkeypatch.setattr(Store, name, call)

    looks = ("due_messages", "has_due_batches")
    for name in looks:
        noted(name)
    web = app.create_web_app(settings.load(home=tmp_path))

    async def run() -> None:
        async with web.router.lifespan_context(web), asyncio.timeout(30):
            while set(threads) != set(looks):  # noqa: ASYNC110  they run in other threads
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert threading.main_thread().name not in threads.values()


def test_readiness_follows_the_workers(serve: Any) -> None:
    server = serve()
    assert server.client.get("/livez").json() == {"status": "ok"}
    for path in ("/readyz", "/health"):
        response = server.client.get(path)
        assert (response.status_code, response.json()["reason"]) == (503, "no worker is running")
    server.store.worker_seen("w1")
    assert server.client.get("/readyz").json() == {"status": "ok", "accepts_jobs": True}
    server.store.worker_stopped("w1")
    assert server.client.get("/readyz").status_code == 503


def test_a_database_that_is_away_makes_it_unready_but_not_dead(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("secret details")

    server = serve()
    for name in ("live_workers", "get", "create", "queue_stats"):
        monkeypatch.setattr(Store, name, away)
    assert server.client.get("/livez").status_code == 200
    assert server.client.get("/readyz").json()["reason"] == "the database does not answer"
    for response in (
        server.client.get("/metrics"),
        server.client.post("/v1/videos", json={"prompt": "a"}),
        server.client.get("/v1/videos/video_" + "0" * 26),
    ):
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "store_unavailable"
        assert "secret" not in response.text
        assert response.headers["retry-after"] == "2"


def test_what_nobody_foresaw_is_an_answer_without_its_traceback(
    serve: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise RuntimeError("secret details")

    server = serve()
    monkeypatch.setattr(Jobs, "page", break_down)
    with caplog.at_level(logging.ERROR):
        response = server.client.get("/v1/videos")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    (record,) = [record for record in caplog.records if record.message == "unexpected error"]
    assert record.request_id == response.headers["x-request-id"]  # type: ignore[attr-defined]


def test_metrics_count_jobs(serve: Any) -> None:
    server = serve()
    for _ in range(3):
        server.client.post("/v1/videos", json={"prompt": "a dog"})
    server.finish(server.claim())
    server.claim()
    response = server.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    assert 'vitascope_jobs_queued{model="small"} 1.0' in lines
    assert 'vitascope_jobs_queued{model="short"} 0.0' in lines
    assert "vitascope_jobs_running 1.0" in lines
    assert 'vitascope_jobs_total{status="succeeded"} 1.0' in lines
    assert 'vitascope_jobs_total{status="failed"} 0.0' in lines
    assert "vitascope_workers_live 0.0" in lines
    (age,) = [line for line in lines if line.startswith("vitascope_queue_oldest_age_seconds ")]
    assert float(age.split()[1]) > 0


class TestOpenapi:
    @pytest.fixture
    def document(self, server: Any) -> dict[str, Any]:
        response = server.client.get("/openapi.json")
        assert response.status_code == 200
        document = response.json()
        assert isinstance(document, dict)
        return document

    def test_every_operation_is_there_with_its_errors(self, document: dict[str, Any]) -> None:
        operations = {
            f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods
        }
        assert operations == {
            "POST /v1/videos", "GET /v1/videos", "GET /v1/videos/{video_id}", "DELETE /v1/videos/{video_id}",
            "GET /v1/videos/{video_id}/content", "GET /v1/models", "POST /v1/videos/sync",
            "POST /v1/video/generations", "GET /v1/video/generations/{video_id}",
            "POST /v1/videos/{video_id}/remix", "POST /v1/videos/edits", "POST /v1/videos/extensions",
            "POST /v1/videos/characters", "GET /v1/videos/characters/{character_id}", "DELETE /v1/videos/characters/{character_id}",
            "POST /v1/batches", "GET /v1/batches", "GET /v1/batches/{batch_id}", "POST /v1/batches/{batch_id}/cancel",
            "POST /v1/webhook_endpoints", "GET /v1/webhook_endpoints", "GET /v1/webhook_endpoints/{webhook_endpoint_id}", "POST /v1/webhook_endpoints/{webhook_endpoint_id}",
            "DELETE /v1/webhook_endpoints/{webhook_endpoint_id}", "POST /v1/webhook_endpoints/{webhook_endpoint_id}/rotate_secret", "POST /v1/webhook_endpoints/{webhook_endpoint_id}/test",
            "GET /v1/webhook_event_types",
            "POST /api/v1/videos", "GET /api/v1/videos/models", "GET /api/v1/videos/{job_id}", "GET /api/v1/videos/{job_id}/content",
            "POST /api/v1/enterprise/video/text2video", "POST /api/v1/enterprise/video/img2video", "POST /api/v1/enterprise/video/video2video",
            "POST /api/v1/enterprise/video/open_sora", "POST /api/v1/enterprise/video/fetch/{request_id}", "POST /api/v1/enterprise/video/fetch",
            "POST /api/v1/enterprise/ultra_video/text2video", "POST /api/v1/enterprise/ultra_video/img2video", "POST /api/v1/enterprise/image_to_video_ultra/img2video",
            "POST /api/v6/video/text2video", "POST /api/v6/video/img2video", "POST /api/v6/video/video2video", "POST /api/v6/video/open_sora",
            "POST /api/v6/video/text2video_ultra", "POST /api/v6/video/img2video_ultra", "POST /api/v6/video/fetch/{request_id}",
            "POST /api/v7/video-fusion/text-to-video", "POST /api/v7/video-fusion/image-to-video", "POST /api/v7/video-fusion/video-to-video",
            "POST /api/v7/video-fusion/fetch/{request_id}",
            "POST /api/v1/video/sora-pro", "POST /api/v1/video/sora-video", "POST /api/video-generations/check-result", "POST /api/get-user-credits",
            "GET /api/v1/gallery",
            "POST /api/v1/enterprise/text2video", "POST /api/v1/enterprise/fetch", "POST /api/v1/enterprise/fetch/{request_id}",
            "POST /v1/files", "GET /v1/files", "GET /v1/files/{file_id}", "DELETE /v1/files/{file_id}", "GET /v1/files/{file_id}/content",
            "POST /api/v1/jobs", "GET /api/v1/jobs", "GET /api/v1/jobs/{job_id}", "DELETE /api/v1/jobs/{job_id}",
            "POST /api/v1/jobs/{job_id}/cancel", "POST /api/v1/jobs/{job_id}/retry", "GET /api/v1/jobs/{job_id}/content", "GET /api/v1/jobs/{job_id}/events", "POST /api/v1/plan", "POST /api/v1/quote", "GET /api/v1/account", "GET /api/v1/keys/{key_id}/credits", "POST /api/v1/keys/{key_id}/credits", "GET /api/v1/keys/{key_id}/ledger", "GET /api/v1/models",
            "GET /api/v1/models/{model_id}", "DELETE /api/v1/models/{model_id}", "POST /api/v1/models/{model_id}/pull",
            "POST /api/v1/models/{model_id}/verify", "POST /api/v1/models/{model_id}/load", "POST /api/v1/models/{model_id}/unload",
            "GET /api/v1/workers", "POST /api/v1/workers/restart", "POST /api/v1/workers/clear-caches",
            "GET /api/v1/storage", "POST /api/v1/storage", "DELETE /api/v1/storage", "POST /api/v1/models", "GET /api/v1/added-models", "GET /api/v1/commands", "GET /api/v1/commands/{command_id}",
            "GET /api/v1/jobs/{job_id}/provenance", "GET /api/v1/queue", "POST /api/v1/keys", "GET /api/v1/keys", "DELETE /api/v1/keys/{key_id}", "POST /api/v1/keys/{key_id}/rotate",
            "GET /api/v1/keys/{key_id}/webhook-secret", "POST /api/v1/keys/{key_id}/webhook-secret/rotate",
            "GET /api/v1/webhooks/endpoints", "POST /api/v1/webhooks/endpoints", "GET /api/v1/webhooks/endpoints/{endpoint_id}", "DELETE /api/v1/webhooks/endpoints/{endpoint_id}",
            "POST /api/v1/webhooks/endpoints/{endpoint_id}/enable", "GET /api/v1/webhooks/endpoints/{endpoint_id}/secret",
            "POST /api/v1/webhooks/endpoints/{endpoint_id}/rotate", "POST /api/v1/webhooks/endpoints/{endpoint_id}/test",
            "GET /api/v1/webhooks/deliveries", "GET /api/v1/webhooks/deliveries/{delivery_id}", "POST /api/v1/webhooks/deliveries/{delivery_id}/replay",
            "GET /files/{token}", "GET /files/{token}/{name}", "GET /livez", "GET /readyz", "GET /health", "GET /metrics",
            *(f"POST {host}/{call.name}" for host in ("/api/v1/enterprise", "/api/v1/enterprise/video") for call in management.CALLS),
        }  # fmt: skip
        for path, methods in document["paths"].items():
            for operation in methods.values():
                assert (
                    "422" not in operation["responses"]
                )  # the framework's own form of refusal is never sent
                if "/v1/" in path:
                    assert {"4XX", "5XX"} < set(operation["responses"])
        assert not [name for name in document["components"]["schemas"] if "__" in name], "no two of one name"

    def test_the_documented_fields_are_those_that_are_read(
        self, server: Any, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: set[str] = set()

        def noting(getter: Any) -> Any:
            def get(self: Any, *names: str, **options: Any) -> Any:
                read.update(name for name in names if isinstance(name, str))
                return getter(self, *names, **options)

            return get

        for name in ("raw", "first", "text", "integer", "number", "boolean", "mapping", "listing"):
            monkeypatch.setattr(_http.Fields, name, noting(getattr(_http.Fields, name)))
        catalog = app.open_catalog(server.settings)
        containers = dict.fromkeys(superset.CONTAINERS, "{}")
        fields = _http.Fields({"prompt": "a", **containers})
        create.to_order(fields, lambda name: (catalog.resolve(name), ()))
        assert read == set(parameters.FOLLOWED)
        content = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
        assert set(content) == {"application/json", "multipart/form-data"}
        for body in content.values():
            assert set(body["schema"]["properties"]) == set(parameters.PARAMETERS)
            assert body["schema"]["required"] == ["prompt"]

    def test_answers_are_as_documented(self, server: Any) -> None:
        """`strict` and `extra` make the models in the description refuse whatever is not exactly theirs."""
        exactly: dict[str, Any] = {"strict": True, "extra": "forbid"}
        made = server.client.post("/v1/videos", json={"prompt": "a dog"})
        schema.Video.model_validate_json(made.content, **exactly)
        schema.VideoList.model_validate_json(server.client.get("/v1/videos").content, **exactly)
        schema.ModelList.model_validate_json(server.client.get("/v1/models").content, **exactly)
        refused = server.client.post("/v1/videos", json={})
        schema.ErrorEnvelope.model_validate_json(refused.content, **exactly)
        deleted = server.client.delete(f"/v1/videos/{made.json()['id']}")
        schema.VideoDeleted.model_validate_json(deleted.content, **exactly)


class TestStart:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
    def test_loopback_is_allowed(self, server: Any, host: str) -> None:
        app.check_host(settings.load(server={"host": host}), server.store)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", ""])
    def test_a_public_address_needs_a_key_or_a_decision(self, server: Any, tmp_path: Path, host: str) -> None:
        with pytest.raises(SettingsError, match="other machines") as error:
            app.run_web(settings.load(server={"host": host}))
        assert "vitascope keys create" in str(error.value.hint)
        app.check_host(settings.load(server={"host": host, "allow_public": True}), server.store)
        with closing(Store.open(f"sqlite:///{tmp_path / 'keys.db'}")) as store:
            Keys(store).create("mine")
            app.check_host(settings.load(server={"host": host}), store)

    def test_a_port_in_use_is_a_clear_error(self, server: Any, tmp_path: Path) -> None:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(SettingsError, match=f"port {port}: Address already in use"):
            app.run_web(settings.load(home=tmp_path, server={"port": port}))

    def test_a_data_folder_that_cannot_be_made_is_a_clear_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        loaded = settings.load(home=tmp_path / "file" / "home")
        for opens in (app.open_store, app.open_storage):
            with pytest.raises(SettingsError, match="cannot be made"):
                opens(loaded)

    def test_run_web_serves_until_it_is_told_to_stop(self, web: str) -> None:
        assert httpx.get(f"{web}/livez").status_code == 200

"""Content checks before anything is queued: each way by which a request comes in, and what each dialect's client is told."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

import endpoints
from endpoints import Answer, Service, json_answer
from vitascope import app, settings
from vitascope.domain.errors import SettingsError
from vitascope.domain.job import JobError
from waiting import eventually


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (96, 64), "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def guarded(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    words = tmp_path_factory.mktemp("lists") / "words.txt"
    words.write_text("gore\n")
    return serve(moderation={"words": words})


def num_jobs(server: Any) -> int:
    return len(server.store.page(limit=100, order="asc").jobs)


@pytest.fixture
def nothing_is_queued(guarded: Any) -> Iterator[None]:
    before = num_jobs(guarded)
    yield
    assert num_jobs(guarded) == before


@pytest.mark.usefixtures("nothing_is_queued")
class TestEachWay:
    def refused(self, answer: Any, param: str = "prompt") -> None:
        """The vendor's own name for it, as its SDK's users look for it."""
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert (error["code"], error["type"], error["param"]) == (
            "moderation_blocked",
            "invalid_request_error",
            param,
        )
        assert error["message"] == f"`{param}` is refused: it holds 'gore', which this server does not take"

    @pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/sync", "/v1/video/generations"])
    def test_openai_creates(self, guarded: Any, path: str) -> None:
        self.refused(guarded.client.post(path, json={"prompt": "a dog in GORE"}))

    def test_openai_forms(self, guarded: Any) -> None:
        self.refused(guarded.client.post("/v1/videos", data={"prompt": "gore"}))

    def test_openai_styles(self, guarded: Any) -> None:
        self.refused(
            guarded.client.post("/v1/videos", json={"prompt": "a dog", "metadata": {"style": "gore"}})
        )

    @pytest.mark.parametrize("path", ["/v1/videos/edits", "/v1/videos/extensions"])
    def test_openai_edits_and_extensions(self, guarded: Any, path: str, clip: bytes) -> None:
        files = {"video": ("clip.mp4", clip, "video/mp4")}
        data = {"prompt": "gore", "model": "every", "seconds": "1"}
        self.refused(guarded.client.post(path, data=data, files=files))

    def test_openai_characters(self, guarded: Any) -> None:
        files = {"video": ("a.png", png(), "image/png")}
        answer = guarded.client.post("/v1/videos/characters", data={"name": "Gore"}, files=files)
        self.refused(answer, "name")
        answer = guarded.client.post("/v1/videos/characters", data={"name": "Rex"}, files=files)
        wanted = {"prompt": "gore", "model": "every", "characters": [{"id": answer.json()["id"]}]}
        self.refused(guarded.client.post("/v1/videos", json=wanted))

    def test_native_creates(self, guarded: Any) -> None:
        answer = guarded.client.post("/api/v1/jobs", json={"prompt": "gore"})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "content_rejected"
        assert answer.json()["error"]["parameter"] == "prompt"

    def test_native_shots_and_watermarks(self, guarded: Any) -> None:
        bodies = {
            "shots[1].prompt": {"prompt": "", "shots": ["a dog", "gore"]},
            "watermark.text": {"prompt": "a dog", "watermark": "gore"},
        }
        for parameter, body in bodies.items():
            answer = guarded.client.post("/api/v1/jobs", json=body)
            assert (answer.status_code, answer.json()["error"]["parameter"]) == (400, parameter)

    def test_sora_tasks(self, guarded: Any) -> None:
        bodies = {
            "prompt": {"model": "sora-2-text-to-video", "prompt": "a dog in gore"},
            "shots[0].Scene": {"model": "sora-2-pro-storyboard", "shots": [{"Scene": "gore", "duration": 5}]},
        }
        for name, body in bodies.items():
            answer = guarded.client.post("/api/v1/video/sora-pro", json=body)
            assert (answer.status_code, answer.json()["code"], answer.json()["data"]) == (200, 40003, None)
            assert answer.json()["message"].startswith(f"`{name}` is refused")

    def test_openrouter(self, guarded: Any) -> None:
        answer = guarded.client.post("/api/v1/videos", json={"model": "small", "prompt": "a dog in gore"})
        assert answer.status_code == 403
        error = answer.json()["error"]
        assert error["code"] == 403
        assert error["metadata"]["reasons"] == ["words"]
        assert error["metadata"]["flagged_input"] == "'a dog in gore'"

    def test_a_picture_is_not_even_fetched(self, guarded: Any) -> None:
        body = {"prompt": "gore", "image": "http://127.0.0.1:9/picture.png"}
        answer = guarded.client.post("/api/v1/jobs", json=body)
        assert answer.json()["error"]["code"] == "content_rejected"


def test_remixes_are_looked_at(guarded: Any) -> None:
    made = guarded.client.post("/v1/videos", json={"prompt": "a dog"}).json()["id"]
    guarded.finish(guarded.claim())
    before = num_jobs(guarded)
    answer = guarded.client.post(f"/v1/videos/{made}/remix", json={"prompt": "gore"})
    assert answer.json()["error"]["code"] == "moderation_blocked"
    assert num_jobs(guarded) == before


def test_a_line_of_a_batch_is_refused_alone(guarded: Any) -> None:
    bodies = [{"prompt": "gore"}, {"prompt": "a dog"}]
    lines = [
        json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/videos", "body": body})
        for i, body in enumerate(bodies)
    ]
    files = {"file": ("lines.jsonl", "\n".join(lines).encode(), "application/jsonl")}
    file = guarded.client.post("/v1/files", data={"purpose": "batch"}, files=files).json()
    wanted = {"input_file_id": file["id"], "endpoint": "/v1/videos", "completion_window": "24h"}
    batch = guarded.client.post("/v1/batches", json=wanted).json()
    lease = eventually(lambda: guarded.store.claim("test", 60))
    assert lease.job.request.prompt == "a dog"
    guarded.finish(lease)

    def ended() -> dict[str, Any] | None:
        found = guarded.client.get(f"/v1/batches/{batch['id']}").json()
        return found if found["status"] == "completed" else None

    done = eventually(ended)
    assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    text = guarded.client.get(f"/v1/files/{done['error_file_id']}/content").text
    response = json.loads(text)["response"]
    assert (response["status_code"], response["body"]["error"]["code"]) == (400, "moderation_blocked")


def test_what_is_not_wanted_may_be_named(guarded: Any) -> None:
    answer = guarded.client.post("/api/v1/jobs", json={"prompt": "a dog", "negative_prompt": "gore"})
    assert answer.status_code == 201


def test_a_job_that_was_rejected_is_told_in_the_vendors_word(guarded: Any) -> None:
    made = guarded.client.post("/v1/videos", json={"prompt": "a cat"}).json()["id"]
    while (lease := guarded.claim()).job.request.prompt != "a cat":
        guarded.finish(lease)
    message = "the video that was made is not given out: the content check found it unsafe"
    guarded.store.fail(lease, JobError("content_rejected", message))
    body = guarded.client.get(f"/v1/videos/{made}").json()
    assert (body["status"], body["error"]) == ("failed", {"code": "moderation_blocked", "message": message})
    native = guarded.client.get(f"/api/v1/jobs/{made}").json()
    assert native["error"]["code"] == "content_rejected"


class TestEndpoint:
    @pytest.fixture
    def service(self) -> Iterator[Service]:
        with endpoints.serving(json_answer({"results": [{"flagged": False}]})) as service:
            yield service

    def test_away_is_503_and_passes_once_it_is_back(self, serve: Any, service: Service) -> None:
        server = serve(moderation={"url": service.url})
        calm, service.answer = service.answer, lambda _: Answer(status=500)
        for path in ("/v1/videos", "/api/v1/jobs", "/api/v1/videos"):
            answer = server.client.post(path, json={"prompt": "a dog", "model": "small"})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), path
        assert num_jobs(server) == 0
        service.answer = calm
        assert server.client.post("/v1/videos", json={"prompt": "a dog"}).status_code == 200

    def test_an_accepted_request_is_found_again_while_it_is_away(self, serve: Any, service: Service) -> None:
        """What was accepted stays accepted."""
        server = serve(moderation={"url": service.url})
        headers = {"idempotency-key": "once"}
        first = server.client.post("/v1/videos", json={"prompt": "a dog"}, headers=headers)
        service.answer = lambda _: Answer(status=500)
        again = server.client.post("/v1/videos", json={"prompt": "a dog"}, headers=headers)
        assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])

    def test_a_batch_waits_for_it(
        self, serve: Any, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vitascope.service.feeding.AWAY_SECONDS", 0.1)
        server = serve(moderation={"url": service.url})
        calm, service.answer = service.answer, lambda _: Answer(status=500)
        line = {"custom_id": "1", "method": "POST", "url": "/v1/videos", "body": {"prompt": "a dog"}}
        files = {"file": ("lines.jsonl", json.dumps(line).encode(), "application/jsonl")}
        file = server.client.post("/v1/files", data={"purpose": "batch"}, files=files).json()
        wanted = {"input_file_id": file["id"], "endpoint": "/v1/videos", "completion_window": "24h"}
        server.client.post("/v1/batches", json=wanted)
        eventually(lambda: len(service.asked) >= 2)
        assert num_jobs(server) == 0
        service.answer = calm
        assert eventually(lambda: num_jobs(server)) == 1


class TestFrames:
    def test_previews_are_off_and_that_is_told(self, serve: Any) -> None:
        server = serve(moderation={"frames": True})
        answer = server.client.post("/api/v1/jobs", json={"prompt": "a dog", "preview_every": 2})
        job = answer.json()
        assert job["preview_every"] == 0
        assert [c["value"] for c in job["choices"] if c["name"] == "preview_every"] == ["0"]
        again = server.client.post("/api/v1/jobs", json={"prompt": "a dog"}).json()
        assert [c for c in again["choices"] if c["name"] == "preview_every"] == []


def test_a_server_does_not_start_without_its_list(tmp_path: Any) -> None:
    loaded = settings.load(home=tmp_path, moderation={"words": tmp_path / "nowhere.txt"})
    with pytest.raises(SettingsError, match="cannot be read"):
        app.create_web_app(loaded)


def test_a_server_does_not_start_without_the_detector(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    loaded = settings.load(home=tmp_path, moderation={"frames": True})
    with pytest.raises(SettingsError) as refusal, app.open_worker(loaded):
        pass
    assert refusal.value.hint == "pip install 'vitascope[moderation]'"
    with pytest.raises(SettingsError):
        app.create_web_app(loaded)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import av
    import numpy as np

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(9):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), index * 20, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()

"""ezmodel's page on `POST /v1/videos`, as written: every example byte for byte, every parameter, every reply."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import httpx
import pytest

PROMPT = "A cute orange cat napping in the sunlight with wind gently blowing its fur"

CURL = b"""{
    "model": "sora-1.0",
    "prompt": "A cute orange cat napping in the sunlight with wind gently blowing its fur",
    "duration": 10,
    "width": 1920,
    "height": 1080,
    "fps": 30,
    "n": 1
  }"""

PYTHON = (
    b'{"model": "sora-1.0", "prompt": "A cute orange cat napping in the sunlight with wind gently blowing its fur", '
    b'"duration": 10, "width": 1920, "height": 1080, "fps": 30, "n": 1}'
)

JAVASCRIPT = (
    b'{"model":"sora-1.0","prompt":"A cute orange cat napping in the sunlight with wind gently blowing its fur",'
    b'"duration":10,"width":1920,"height":1080,"fps":30,"n":1}'
)

GO = (  # a map: its keys are sorted
    b'{"duration":10,"fps":30,"height":1080,"model":"sora-1.0","n":1,'
    b'"prompt":"A cute orange cat napping in the sunlight with wind gently blowing its fur","width":1920}'
)

JAVA = b"""{
    "model": "sora-1.0",
    "prompt": "A cute orange cat napping in the sunlight with wind gently blowing its fur",
    "duration": 10,
    "width": 1920,
    "height": 1080,
    "fps": 30,
    "n": 1
}
"""

C_SHARP = b"""{
            "model": "sora-1.0",
            "prompt": "A cute orange cat napping in the sunlight with wind gently blowing its fur",
            "duration": 10,
            "width": 1920,
            "height": 1080,
            "fps": 30,
            "n": 1
        }"""

JSON = "application/json"
EXAMPLES = {
    "curl": (CURL, {"content-type": JSON, "user-agent": "curl/8.5.0", "accept": "*/*"}),
    "python": (PYTHON, {"content-type": JSON, "user-agent": "python-requests/2.32.3", "accept": "*/*"}),
    "javascript": (JAVASCRIPT, {"content-type": JSON, "user-agent": "node", "sec-fetch-mode": "cors"}),
    "go": (GO, {"content-type": JSON, "user-agent": "Go-http-client/1.1"}),
    "java": (JAVA, {"content-type": JSON, "user-agent": "Java-http-client/21.0.2"}),
    "c#": (C_SHARP, {"content-type": f"{JSON}; charset=utf-8"}),
}

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)

AUTHORIZATION = {"authorization": "Bearer YOUR_API_KEY"}


@pytest.fixture(scope="module")
def page(serve: Any) -> Any:
    """A server as it comes: with the embedded model, which goes by the names on the page."""
    return serve(engine={"default_model": "pocket"})


def send(server: Any, content: bytes, headers: dict[str, str]) -> httpx.Response:
    answer: httpx.Response = server.client.post(
        "/v1/videos", content=content, headers=AUTHORIZATION | headers
    )
    return answer


@pytest.mark.parametrize("language", EXAMPLES)
def test_every_example_is_answered_as_documented(page: Any, language: str) -> None:
    """The reply of the page, with the vendor's status names (see below for its own) and another id, time and seed."""
    answer = send(page, *EXAMPLES[language])
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    video = answer.json()
    assert re.fullmatch(r"vid[a-z]*_\w+", video["id"])
    documented = {
        "id": video["id"],
        "object": "video",
        "model": "sora-1.0",
        "status": "queued",
        "progress": 0,
        "created_at": video["created_at"],
        "seconds": "10.0",
        "completed_at": None,
        "expires_at": video["created_at"] + 86400,
        "size": "1920x1080",
        "error": None,
    }
    assert {name: video[name] for name in documented} == documented
    assert video["metadata"]["fps"] == 30
    assert isinstance(video["metadata"]["seed"], int)
    assert isinstance(video["created_at"], int)
    job = page.store.get(video["id"].removeprefix("video_"))
    plan = job.plan
    assert (plan.width, plan.height, plan.fps, plan.num_frames) == (1920, 1080, 30, 300)
    assert plan.prompt == PROMPT


def test_the_pages_own_status_names_are_a_setting(serve: Any) -> None:
    server = serve(engine={"default_model": "pocket"}, openai={"status_names": "ezmodel"})
    video = send(server, *EXAMPLES["curl"]).json()
    path = f"/v1/videos/{video['id']}"

    def status() -> str:
        shown = server.client.get(path).json()["status"]
        assert server.client.get("/v1/videos").json()["data"][0]["status"] == shown
        return str(shown)

    assert (video["status"], status()) == ("pending", "pending")
    lease = server.claim()
    assert status() == "processing"
    server.finish(lease)
    assert status() == "completed"
    other = send(server, *EXAMPLES["curl"]).json()["id"]
    server.client.post(f"/api/v1/jobs/{other.removeprefix('video_')}/cancel")
    assert server.client.get(f"/v1/videos/{other}").json()["status"] == "failed"


def test_every_parameter_of_the_page_as_the_form_that_it_names(page: Any) -> None:
    """ "Body Parameters (multipart/form-data)"."""
    form = {
        "model": "sora-turbo",
        "prompt": "A golden retriever running on the beach",
        "image": base64.b64encode(PNG).decode(),
        "duration": "5.0",
        "width": "1280",
        "height": "720",
        "fps": "24",
        "seed": "12345",
        "n": "1",
        "response_format": "url",
        "user": "user-123",
        "metadata": '{"style": "cinematic"}',
    }
    answer = page.client.post("/v1/videos", files={name: (None, text) for name, text in form.items()})
    assert answer.status_code == 200, answer.text
    video = answer.json()
    assert (video["model"], video["seconds"], video["size"], video["user"]) == (
        "sora-turbo",
        "5.0",
        "1280x720",
        "user-123",
    )
    assert video["prompt"] == "A golden retriever running on the beach"
    metadata = {name: video["metadata"][name] for name in ("fps", "seed", "style")}
    assert metadata == {"fps": 24, "seed": 12345, "style": "cinematic"}
    plan = page.store.get(video["id"].removeprefix("video_")).plan
    assert (plan.mode, plan.num_frames, plan.seed) == ("image", 120, 12345)
    assert plan.prompt == "A golden retriever running on the beach, cinematic"


@pytest.mark.parametrize(
    ("sent", "nearest"),
    [(0, 1), (0.99, 1), (-5, 1), (60.01, 60), (61, 60), ("0", 1), ("61", 60), ("1e9", 60)],
    ids=repr,
)
@pytest.mark.parametrize("is_form", [False, True], ids=["json", "form"])
def test_the_documented_error(page: Any, sent: object, nearest: int, is_form: bool) -> None:
    body = {**json.loads(CURL), "duration": sent}
    before = page.store.queue_stats().queued
    answer = (
        page.client.post("/v1/videos", data={name: str(value) for name, value in body.items()})
        if is_form
        else page.client.post("/v1/videos", json=body)
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "invalid_parameter"
    documented = "Invalid parameter: duration must be between 1 and 60 seconds"
    assert error["message"] == f"{documented} (the nearest legal value is {nearest})"
    assert page.store.queue_stats().queued == before


@pytest.mark.parametrize("sent", [{}, {"prompt": None}, {"prompt": ""}])
def test_a_missing_prompt_is_refused_although_the_page_calls_it_optional(
    page: Any, sent: dict[str, Any]
) -> None:
    answer = page.client.post("/v1/videos", json={**json.loads(CURL), "prompt": None, **sent})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize("seconds", [1, 1.0, "1", 60, "60", "60.0", 59.5, "4", 4, "12"], ids=repr)
@pytest.mark.parametrize("name", ["seconds", "duration"])
def test_any_length_from_1_to_60_is_taken_and_given_back_as_it_was_sent(
    page: Any, seconds: object, name: str
) -> None:
    video = page.client.post("/v1/videos", json={"prompt": "a dog", name: seconds}).json()
    expected = str(float(str(seconds))) if name == "duration" else str(seconds)
    assert video["seconds"] == expected
    assert page.client.get(f"/v1/videos/{video['id']}").json()["seconds"] == expected
    plan = page.store.get(video["id"].removeprefix("video_")).plan
    assert plan.duration_seconds == pytest.approx(float(str(seconds)), abs=1 / plan.fps)


@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (96, 64), (512, 300), (16, 16), (4096, 2160)])
def test_any_size_that_can_be_planned_is_legal_and_told(page: Any, size: tuple[int, int]) -> None:
    width, height = size
    video = page.client.post("/v1/videos", json={"prompt": "a", "width": width, "height": height}).json()
    assert video["size"] == f"{width}x{height}"
    decided = video["metadata"]["vitascope"]
    assert decided["native_size"] == "192x192"
    assert (decided["native_fps"], decided["native_num_frames"]) == (8, 33)
    reasons = {choice["name"]: choice["reason"] for choice in decided["choices"]}
    assert "frames are resized" in reasons["native_size"]
    assert "windows" in reasons


def test_a_size_out_of_reach_is_refused_with_the_nearest(page: Any) -> None:
    answer = page.client.post("/v1/videos", json={"prompt": "a", "width": 1921, "height": 1080})
    assert answer.status_code == 400
    assert "nearest legal value is 192" in answer.json()["error"]["message"]


class TestResponseFormat:
    def finished(self, server: Any, **more: Any) -> dict[str, Any]:
        made = server.client.post("/v1/videos", json={"prompt": "a dog", **more}).json()
        assert (made["url"], made["data"]) == (None, []), "there is no file yet"
        server.finish(server.claim())
        found: dict[str, Any] = server.client.get(f"/v1/videos/{made['id']}").json()
        return found

    @pytest.mark.parametrize("more", [{}, {"response_format": "url"}])
    def test_url_leads_to_the_file_without_a_key(self, serve: Any, more: dict[str, str]) -> None:
        server = serve()
        video = self.finished(server, **more)
        assert video["data"] == [{"index": 0, "url": video["url"]}]
        content = httpx.get(video["url"], trust_env=False)
        assert content.headers["content-type"] == "video/mp4"
        assert content.content == server.client.get(f"/v1/videos/{video['id']}/content").content

    def test_b64_json_is_the_file(self, serve: Any) -> None:
        server = serve()
        video = self.finished(server, response_format="b64_json")
        (entry,) = video["data"]
        assert set(entry) == {"index", "b64_json"}
        content = server.client.get(f"/v1/videos/{video['id']}/content").content
        assert base64.b64decode(entry["b64_json"], validate=True) == content
        raw = server.client.get(f"/v1/videos/{video['id']}")
        assert int(raw.headers["content-length"]) == len(raw.content)
        listed = server.client.get("/v1/videos").json()["data"][0]
        assert set(listed["data"][0]) == {"index", "url"}, "lists hold no files"

    def test_a_file_that_is_gone_leaves_the_rest_true(self, serve: Any) -> None:
        server = serve()
        video = self.finished(server, response_format="b64_json")
        server.files.delete(f"videos/{video['id'].removeprefix('video_')}.mp4")
        again = server.client.get(f"/v1/videos/{video['id']}")
        assert (again.status_code, again.json()["status"]) == (200, "completed")
        assert set(again.json()["data"][0]) == {"index", "url"}

    def test_what_has_failed_has_no_data(self, serve: Any) -> None:
        server = serve()
        made = server.client.post("/v1/videos", json={"prompt": "a", "response_format": "b64_json"}).json()
        server.client.post(f"/api/v1/jobs/{made['id'].removeprefix('video_')}/cancel")
        found = server.client.get(f"/v1/videos/{made['id']}")
        assert (found.status_code, found.json()["data"], found.json()["url"]) == (200, [], None)

    @pytest.mark.parametrize("sent", ["json", "b64", 5])
    def test_another_form_is_refused(self, page: Any, sent: object) -> None:
        answer = page.client.post("/v1/videos", json={"prompt": "a", "response_format": sent})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format")


class TestExpiry:
    """One setting for all APIs; here a day where it is not set, as the page's reply says."""

    @pytest.mark.parametrize(
        ("storage", "asked", "kept"),
        [({}, None, 86400), ({"expire_seconds": 600}, None, 600), ({"expire_seconds": 600}, 7200, 7200), ({}, 60, 60)],
    )  # fmt: skip
    def test_the_end_is_told_at_create_and_is_never_later_than_the_real_one(
        self, serve: Any, storage: dict[str, Any], asked: int | None, kept: int
    ) -> None:
        server = serve(storage=storage)
        made = server.client.post("/v1/videos", json={"prompt": "a", "expires_in_seconds": asked}).json()
        assert made["expires_at"] == made["created_at"] + kept
        server.finish(server.claim())
        done = server.client.get(f"/v1/videos/{made['id']}").json()
        assert done["expires_at"] == done["completed_at"] + kept
        assert done["expires_at"] >= made["expires_at"]

    def test_other_apis_keep_what_they_make(self, server: Any) -> None:
        made = server.client.post("/api/v1/jobs", json={"prompt": "a"}).json()
        assert made["expires_in_seconds"] is None

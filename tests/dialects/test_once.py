"""Requests that are sent twice and carried out once: by the client's own name, and by what the vendor's SDK does on its own."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from PIL import Image


@pytest.fixture
def server(serve: Callable[..., Any]) -> Any:
    """A server with no jobs yet."""
    return serve()


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (96, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()


def num_jobs(server: Any) -> int:
    return len(server.client.get("/api/v1/jobs").json()["jobs"])


def test_a_named_request_makes_one_job(server: Any) -> None:
    def create(**body: Any) -> httpx.Response:
        answer: httpx.Response = server.client.post(
            "/api/v1/jobs", json=body, headers={"Idempotency-Key": "order 1"}
        )
        return answer

    first = create(prompt="a dog")
    again = create(prompt="a dog")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["seed"] == first.json()["seed"], "it was drawn once"
    other = create(prompt="a cat")
    assert other.status_code == 409
    assert other.headers["x-should-retry"] == "false"
    assert other.json()["error"]["code"] == "idempotency_conflict"
    assert num_jobs(server) == 1


def test_a_name_with_a_picture_is_one_request_whatever_the_boundary(server: Any) -> None:
    def create(colour: str) -> httpx.Response:
        answer: httpx.Response = server.client.post(
            "/v1/videos",
            data={"prompt": "a dog"},
            files={"input_reference": ("a.png", picture(colour), "image/png")},
            headers={"Idempotency-Key": "order 1"},
        )
        return answer

    first = create("red")
    assert create("red").json()["id"] == first.json()["id"]
    assert create("blue").json()["error"]["code"] == "idempotency_conflict"
    inputs = server.settings.files_folder / "inputs"
    assert [path.stem for path in inputs.iterdir()] == [first.json()["id"].removeprefix("video_")]


def test_a_name_that_is_too_long_is_refused(server: Any) -> None:
    for path, status in (("/v1/videos", 400), ("/api/v1/jobs", 400)):
        answer = server.client.post(path, json={"prompt": "a"}, headers={"Idempotency-Key": "x" * 256})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, "invalid_parameter")
    assert num_jobs(server) == 0


@pytest.mark.parametrize("count", ["-1", "x", "", "0", "٣"])
def test_only_a_count_above_zero_is_a_retry(server: Any, count: str) -> None:
    for _ in range(2):
        headers = {"x-stainless-retry-count": count.encode()}
        assert server.client.post("/v1/videos", json={"prompt": "a"}, headers=headers).status_code == 200
    assert num_jobs(server) == 2


def test_a_cancelled_video_is_known_to_its_client(server: Any) -> None:
    first = server.client.post("/api/v1/jobs", json={"prompt": "a"}).json()
    server.client.post(f"/api/v1/jobs/{first['id']}/cancel")
    again = server.client.post("/api/v1/jobs", json={"prompt": "a"}, headers={"x-stainless-retry-count": "1"})
    assert (again.status_code, again.json()["status"]) == (201, "queued")


def test_a_named_retry_makes_one_job(server: Any) -> None:
    first = server.client.post("/api/v1/jobs", json={"prompt": "a"}).json()
    server.client.post(f"/api/v1/jobs/{first['id']}/cancel")
    retries = [
        server.client.post(f"/api/v1/jobs/{first['id']}/retry", headers={"Idempotency-Key": "again"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in retries] == [201, 200]
    assert retries[0].json()["id"] == retries[1].json()["id"]


@pytest.mark.parametrize("depth", [10, 200, 900, 950, 961, 970, 1000, 100_000])
def test_a_deeply_nested_body_is_no_error_of_ours(server: Any, depth: int) -> None:
    body = b'{"prompt": "a", "extra": ' + b"[" * depth + b"]" * depth + b"}"
    answer = server.client.post("/v1/videos", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400)


class Lossy(httpx.HTTPTransport):
    """Delivers the first requests, and loses their answers."""

    def __init__(self, losses: int) -> None:
        super().__init__()
        self.losses = losses

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        if self.losses > 0:
            self.losses -= 1
            answer.read()
            raise httpx.ReadTimeout("lost", request=request)
        return answer


@pytest.fixture
def lossy(server: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], openai.OpenAI]:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)

    def sdk(losses: int) -> openai.OpenAI:
        http = httpx.Client(transport=Lossy(losses), timeout=60)
        return openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", http_client=http, max_retries=2)

    return sdk


def test_the_sdks_own_retry_makes_one_video(server: Any, lossy: Callable[[int], openai.OpenAI]) -> None:
    with lossy(2) as client:
        video = client.videos.create(prompt="a dog", input_reference=("a.png", picture("red"), "image/png"))
        assert num_jobs(server) == 1
        assert client.videos.retrieve(video.id).id == video.id


def test_the_same_again_after_the_first_was_seen_is_another_video(
    server: Any, lossy: Callable[[int], openai.OpenAI]
) -> None:
    with lossy(0) as client:
        first = client.videos.create(prompt="a dog")
        client.videos.retrieve(first.id)
    with lossy(1) as client:
        second = client.videos.create(prompt="a dog")
    assert second.id != first.id
    assert num_jobs(server) == 2

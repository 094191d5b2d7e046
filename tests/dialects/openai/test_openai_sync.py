"""`/v1/videos/sync`: the file is the answer, and nothing that was begun is begun again."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import openai
import pytest

from vitascope.dialects.openai import schema
from waiting import eventually


@pytest.fixture(scope="module")
def working(serve: Any) -> Any:
    server = serve()
    server.start_worker()
    return server


def test_the_answer_is_the_file(working: Any) -> None:
    answer = working.client.post(
        "/v1/videos/sync", files={"prompt": (None, "a dog"), "seconds": (None, "2")}, timeout=60
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    video_id = answer.headers["x-video-id"]
    assert answer.content == working.client.get(f"/v1/videos/{video_id}/content").content
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert (answer.headers["x-model"], answer.headers["x-stage-durations"]) == ("small", '{"denoise":1.0}')
    assert float(answer.headers["x-inference-time-s"]) > 0
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    "headers",
    [{"range": "bytes=9999999-"}, {"range": "bytes=0-3"}, {"range": "x"}, {"if-none-match": "*"}],
    ids=str,
)
def test_the_whole_file_whatever_is_said_of_parts(working: Any, headers: dict[str, str]) -> None:
    answer = working.client.post("/v1/videos/sync", json={"prompt": "a dog"}, headers=headers, timeout=60)
    assert answer.status_code == 200
    video_id = answer.headers["x-video-id"]
    assert answer.content == working.client.get(f"/v1/videos/{video_id}/content").content


def test_what_fails_is_an_error_that_nobody_sends_again(working: Any) -> None:
    answer = working.client.post("/v1/videos/sync", json={"prompt": "fail"}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "out_of_memory")
    assert answer.headers["x-video-id"]


def test_a_bad_value_is_refused_at_once(working: Any) -> None:
    answer = working.client.post("/v1/videos/sync", json={"prompt": "a", "seconds": 61})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "seconds")


def test_one_that_takes_too_long_is_the_job_and_the_sdk_makes_no_second_one(serve: Any) -> None:
    server = serve(openai={"sync_seconds": 0.2})
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=2) as sdk:
        answer = sdk.post("/videos/sync", body={"prompt": "a dog"}, cast_to=httpx.Response)
    assert answer.status_code == 202
    schema.Video.model_validate_json(answer.content, strict=True, extra="forbid")
    assert answer.json()["status"] == "queued"
    assert answer.headers["openai-poll-after-ms"]
    assert [video["id"] for video in server.client.get("/v1/videos").json()["data"]] == [
        answer.headers["x-video-id"]
    ]


def test_a_video_that_is_cancelled_or_deleted_meanwhile(serve: Any) -> None:
    server = serve()
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(
            httpx.post(f"{server.url}/v1/videos/sync", json={"prompt": "a"}, trust_env=False, timeout=60)
        )

    for end, status, code in (("cancel", 422, "cancelled"), ("delete", 404, "video_not_found")):
        thread = threading.Thread(target=ask)
        thread.start()
        jobs = eventually(
            lambda: [j for j in server.client.get("/api/v1/jobs").json()["jobs"] if j["status"] == "queued"]
        )
        path = f"/api/v1/jobs/{jobs[0]['id']}"
        server.client.post(f"{path}/cancel") if end == "cancel" else server.client.delete(path)
        thread.join()
        answer = answers.pop()
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_file_that_cannot_be_had_is_no_reason_to_make_it_again(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    put = server.files.put
    server.start_worker()
    monkeypatch.setattr(server.files, "put", lambda *given: (put(*given), server.files.delete(given[1])))
    answer = server.client.post("/v1/videos/sync", json={"prompt": "a"}, timeout=60)
    assert (answer.status_code, answer.json()["status"]) == (202, "completed")


def test_a_client_that_leaves_ends_the_wait_and_finds_its_job_when_it_asks_again(serve: Any) -> None:
    server = serve()
    with pytest.raises(httpx.ReadTimeout):
        server.client.post("/v1/videos/sync", json={"prompt": "a"}, timeout=0.5)
    eventually(lambda: server.store.queue_stats().queued == {"small": 1})
    server.start_worker()
    again = server.client.post(
        "/v1/videos/sync", json={"prompt": "a"}, headers={"x-stainless-retry-count": "1"}, timeout=60
    )
    assert again.status_code == 200
    assert len(server.client.get("/v1/videos").json()["data"]) == 1

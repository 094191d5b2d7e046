"""`/v1/video/generations`, New API's older path: flat as documented, wrapped as its code answers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from vitascope.dialects.openai import schema

BODY = {"model": "kling-v1", "prompt": "An astronaut", "duration": 5, "size": "128x96", "fps": 8, "seed": 7}


@pytest.fixture(scope="module")
def flat(serve: Any) -> Any:
    return serve()


@pytest.fixture(scope="module")
def wrapped(serve: Any) -> Any:
    return serve(openai={"generations": "wrapped"})


def created(server: Any, **more: Any) -> str:
    answer = server.client.post("/v1/video/generations", json={**BODY, **more})
    assert answer.status_code == 200, answer.text
    schema.GenerationMade.model_validate_json(answer.content, strict=True, extra="forbid")
    made = answer.json()
    assert (made["id"], made["status"], made["object"]) == (made["task_id"], "queued", "video")
    assert answer.headers["openai-poll-after-ms"]
    return str(made["task_id"])


def query(server: Any, task_id: str) -> httpx.Response:
    answer: httpx.Response = server.client.get(f"/v1/video/generations/{task_id}")
    return answer


METADATA = {"duration": 5.0, "fps": 8, "width": 128, "height": 96, "seed": 7}


class TestFlat:
    def test_from_request_to_file(self, flat: Any) -> None:
        task_id = created(flat)
        seen = query(flat, task_id).json()
        assert seen == {
            "task_id": task_id,
            "status": "queued",
            "url": "",
            "format": "mp4",
            "metadata": METADATA,
            "error": None,
            "progress": 0,
            "data": [],
        }
        lease = flat.claim()
        assert query(flat, task_id).json()["status"] == "in_progress"
        flat.finish(lease)
        answer = query(flat, task_id)
        schema.Generation.model_validate_json(answer.content, strict=True, extra="forbid")
        done = answer.json()
        assert (done["status"], done["progress"], done["error"]) == ("completed", 100, None)
        content = httpx.get(done["url"], trust_env=False).content
        assert content == flat.client.get(f"/v1/videos/{task_id}/content").content
        assert flat.client.get(f"/v1/videos/{task_id}").json()["status"] == "completed", "it is one video"

    def test_a_failure_is_told_with_200(self, flat: Any) -> None:
        task_id = created(flat)
        flat.client.post(f"/api/v1/jobs/{task_id.removeprefix('video_')}/cancel")
        answer = query(flat, task_id)
        schema.Generation.model_validate_json(answer.content, strict=True, extra="forbid")
        assert (answer.status_code, answer.json()["status"]) == (200, "failed")
        assert answer.json()["error"] == {
            "code": 1,
            "message": "The video was cancelled.",
            "type": "cancelled",
        }

    def test_errors_stand_at_the_top_and_in_the_envelope(self, flat: Any) -> None:
        answer = flat.client.post("/v1/video/generations", json={**BODY, "duration": 61})
        schema.GenerationProblem.model_validate_json(answer.content, strict=True, extra="forbid")
        body = answer.json()
        assert (answer.status_code, body["code"], body["param"]) == (400, "invalid_parameter", "duration")
        assert body["message"].startswith("Invalid parameter: duration must be between 1 and 60 seconds")
        assert body["error"] == {name: body[name] for name in ("message", "type", "param", "code")}

    @pytest.mark.parametrize("task_id", ["task_1", "video_1", "video_" + "0" * 26, "x" * 500, "%00"])
    def test_an_unknown_task_is_not_found(self, flat: Any, task_id: str) -> None:
        answer = query(flat, task_id)
        assert (answer.status_code, answer.json()["code"]) == (404, "video_not_found")

    def test_the_body_may_be_a_form(self, flat: Any) -> None:
        answer = flat.client.post("/v1/video/generations", data={"prompt": "a", "duration": "5"})
        assert answer.json()["seconds"] == "5.0"


class TestWrapped:
    def test_from_request_to_file(self, wrapped: Any) -> None:
        task_id = created(wrapped)
        bodies = [query(wrapped, task_id)]
        lease = wrapped.claim()
        bodies.append(query(wrapped, task_id))
        wrapped.finish(lease)
        bodies.append(query(wrapped, task_id))
        for answer in bodies:
            schema.WrappedGeneration.model_validate_json(answer.content, strict=True, extra="forbid")
            body = answer.json()
            assert (body["code"], body["message"], body["data"]["task_id"]) == ("success", "", task_id)
        statuses = [(answer.json()["data"]["status"], answer.json()["data"]["progress"]) for answer in bodies]
        assert statuses == [("QUEUED", "0%"), ("IN_PROGRESS", "0%"), ("SUCCESS", "100%")]
        task = body["data"]
        assert httpx.get(task["result_url"], trust_env=False).status_code == 200
        assert task["submit_time"] <= task["start_time"] <= task["finish_time"]
        assert task["data"]["id"] == task_id

    def test_a_failure_says_why(self, wrapped: Any) -> None:
        task_id = created(wrapped)
        wrapped.client.post(f"/api/v1/jobs/{task_id.removeprefix('video_')}/cancel")
        task = query(wrapped, task_id).json()["data"]
        assert (task["status"], task["fail_reason"]) == ("FAILURE", "The video was cancelled.")

    def test_an_unknown_task_is_400_as_in_new_apis_code(self, wrapped: Any) -> None:
        answer = query(wrapped, "task_1")
        schema.WrappedProblem.model_validate_json(answer.content, strict=True, extra="forbid")
        assert (answer.status_code, answer.json()["code"]) == (400, "task_not_exist")
        refused = wrapped.client.post("/v1/video/generations", json={"prompt": ""})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_parameter")


def test_repetitions_are_one_task(flat: Any) -> None:
    headers = {"Idempotency-Key": "order 7"}
    answers = [flat.client.post("/v1/video/generations", json=BODY, headers=headers) for _ in range(2)]
    assert answers[0].json()["task_id"] == answers[1].json()["task_id"]

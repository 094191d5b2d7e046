"""Several videos of one request, as this dialect's clients ask for them and find them."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from vitascope.dialects.openai import schema
from vitascope.domain.video import Video


def finish(server: Any, indexes: tuple[int, ...], details: dict[str, Any] | None = None) -> list[bytes]:
    """End a job with some of its videos; returns what is in them."""
    lease = server.claim()
    plan, videos, contents = lease.job.plan, [], []
    for index in indexes:
        content = f"video {index}".encode() * 1000
        key = f"videos/{lease.job.id}.{index}.mp4"
        server.files.put_bytes(content, key)
        size = {"height": plan.height, "width": plan.width, "num_frames": plan.num_frames, "fps": plan.fps}
        videos.append(
            Video(
                key=key,
                media_type="video/mp4",
                num_bytes=len(content),
                sha256=f"c0ffee{index}",
                index=index,
                **size,
            )
        )
        contents.append(content)
    server.store.succeed(lease, videos, details or {})
    return contents


@pytest.fixture
def server(serve: Any) -> Any:
    return serve()


@pytest.fixture(scope="module")
def idle(serve: Any) -> Any:
    """For requests that make no job."""
    return serve()


def created(server: Any, **fields: Any) -> dict[str, Any]:
    answer = server.client.post("/v1/videos", json={"prompt": "a dog", "seed": 5, **fields})
    assert answer.status_code == 200, answer.text
    schema.Video.model_validate_json(answer.content, strict=True, extra="forbid")
    made: dict[str, Any] = answer.json()
    return made


def retrieved(server: Any, video_id: str) -> dict[str, Any]:
    answer = server.client.get(f"/v1/videos/{video_id}")
    schema.Video.model_validate_json(answer.content, strict=True, extra="forbid")
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize(
    "fields",
    [{"n": 3}, {"n": "3"}, {"num_outputs_per_prompt": 3}, {"n": 3, "seed": [5, 6, 7]}],
    ids=range(4),
)
def test_n_videos_with_seeds_that_count_up(server: Any, fields: dict[str, Any]) -> None:
    made = created(server, **fields)
    assert (made["n"], made["seed"], made["data"]) == (3, 5, [])
    plan = server.store.get(made["id"].removeprefix("video_")).plan
    assert [plan.of_video(index).seed for index in range(3)] == [5, 6, 7]
    contents = finish(server, (0, 1, 2))
    done = retrieved(server, made["id"])
    assert [entry["index"] for entry in done["data"]] == [0, 1, 2]
    assert done["url"] == done["data"][0]["url"]
    for entry, content in zip(done["data"], contents, strict=True):
        assert httpx.get(entry["url"], trust_env=False).content == content
        path = f"/v1/videos/{made['id']}/content?index={entry['index']}"
        assert server.client.get(path).content == content


def test_the_data_of_all(server: Any) -> None:
    made = created(server, n=2, response_format="b64_json")
    contents = finish(server, (0, 1))
    data = retrieved(server, made["id"])["data"]
    assert [base64.b64decode(entry["b64_json"]) for entry in data] == contents
    assert [entry["index"] for entry in data] == [0, 1]


def test_one_that_could_not_be_made_is_told_and_the_others_keep_their_number(server: Any) -> None:
    made = created(server, n=3)
    failed = [{"index": 0, "code": "invalid_output", "message": "No picture."}]
    finish(server, (1, 2), {"failed_videos": failed})
    done = retrieved(server, made["id"])
    assert (done["status"], [entry["index"] for entry in done["data"]]) == ("completed", [1, 2])
    assert done["metadata"]["vitascope"]["failed_videos"] == failed


@pytest.mark.parametrize("seed", [[5], [5, 7], [5, 6, 7], [5, "x"]], ids=range(4))
def test_a_list_of_seeds_that_does_not_fit_is_refused(idle: Any, seed: list[Any]) -> None:
    answer = idle.client.post("/v1/videos", json={"prompt": "a", "n": 2, "seed": seed})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "seed")


def test_an_answer_that_is_the_file_is_of_one(idle: Any) -> None:
    answer = idle.client.post("/v1/videos/sync", json={"prompt": "a", "num_outputs_per_prompt": 2})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "num_outputs_per_prompt")
    assert "nearest legal value is 1" in error["message"]


def test_new_apis_query_lists_them_too(server: Any) -> None:
    made = created(server, n=2)
    finish(server, (0, 1))
    found = server.client.get(f"/v1/video/generations/{made['id']}").json()
    assert [entry["index"] for entry in found["data"]] == [0, 1]
    assert found["url"] == found["data"][0]["url"]


def test_one_users_videos_can_be_listed(server: Any) -> None:
    ids = {user: [created(server, user=user)["id"] for _ in range(2)] for user in ("ann", "bob")}
    listed = server.client.get("/v1/videos", params={"user": "ann"}).json()["data"]
    assert [video["id"] for video in listed] == ids["ann"][::-1]

"""Our own API: the full vocabulary, exact refusals, every job by whatever id it was shown."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image

from vitascope.dialects.native import schema
from vitascope.domain.cost import Speed, effort_of
from vitascope.domain.errors import StoreUnavailable
from waiting import eventually


@pytest.fixture
def call(server: Any) -> Callable[..., httpx.Response]:
    def request(method: str, path: str, **options: Any) -> httpx.Response:
        return server.client.request(method, f"/api/v1{path}", **options)

    return request


def png(size: tuple[int, int] = (96, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return buffer.getvalue()


FULL = {
    "prompt": "a dog", "model": "small", "negative_prompt": "cats", "height": 128, "width": 192, "num_frames": 20, "fps": 10,
    "num_inference_steps": 3, "guidance_scale": 2.5, "scheduler": "UniPCMultistepScheduler", "seed": 7, "format": "gif", "priority": 2, "may_hand_over": True,
    "metadata": {"a": [1, None]}, "user": "u",
}  # fmt: skip


def test_the_full_vocabulary_is_kept(call: Callable[..., httpx.Response]) -> None:
    answer = call("POST", "/jobs", json=FULL)
    assert answer.status_code == 201
    job = answer.json()
    assert {name: job[name] for name in FULL} == FULL
    assert (job["status"], job["progress"], job["mode"], job["duration_seconds"]) == (
        "queued",
        0,
        "text",
        2.0,
    )
    assert job["choices"], "what was decided is told"
    assert answer.headers["location"] == f"/api/v1/jobs/{job['id']}"
    assert call("GET", f"/jobs/{job['id']}").json() == job
    schema.Job.model_validate(job, extra="forbid")


def test_waiting_is_told_from_what_was_measured(serve: Callable[..., Any]) -> None:
    server = serve()

    def get(job: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = server.client.get(f"/api/v1/jobs/{job['id']}").json()
        return found

    def create(**more: Any) -> dict[str, Any]:
        body = {"prompt": "a", "num_inference_steps": 10, **more}
        made: dict[str, Any] = server.client.post("/api/v1/jobs", json=body).json()
        return made

    first = create()
    assert (first["queue_position"], first["eta_seconds"]) == (1, None), "never measured, and nobody works"
    server.store.worker_seen("w", "cpu")
    lease = server.store.claim("w", 60.0)
    effort = effort_of(lease.job.plan)
    server.finish(lease, Speed(effort.model, effort.work, 1.0, 5.0))
    assert (get(first)["queue_position"], get(first)["eta_seconds"]) == (None, None)
    jobs = [create(), create(num_inference_steps=1), create(priority=1)]

    def expected() -> list[tuple[int, int]]:
        found = [get(job) for job in jobs]
        return [(job["queue_position"], round((job["eta_seconds"] or 0) / 5)) for job in found]

    # 15 s each, but the short one 6 s; some may have passed since the server looked
    eventually(lambda: expected() == [(3, 7), (2, 4), (1, 3)])
    page = server.client.get("/api/v1/jobs", params={"limit": 1}).json()
    assert page["jobs"][0]["queue_position"] == 1
    lease = server.store.claim("w", 60.0)
    server.store.report(lease, 50, "denoise")
    eventually(lambda: 0 < (get(jobs[2])["eta_seconds"] or 0) < 8)
    assert get(jobs[2])["queue_position"] is None


def test_a_job_that_is_stored_is_told_whatever_else_fails(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise StoreUnavailable

    monkeypatch.setattr("vitascope.store.Store.situation", away)
    client = serve().client
    made = client.post("/api/v1/jobs", json={"prompt": "a"})
    assert (made.status_code, made.json()["eta_seconds"]) == (201, None)
    assert client.post(f"/api/v1/jobs/{made.json()['id']}/cancel").status_code == 200
    assert client.get("/api/v1/jobs").status_code == 200


def test_a_list_of_some_statuses(serve: Callable[..., Any]) -> None:
    server = serve()
    ids = [server.client.post("/api/v1/jobs", json={"prompt": "a"}).json()["id"] for _ in range(4)]
    server.client.post(f"/api/v1/jobs/{ids[1]}/cancel")
    server.store.claim("w", 60.0)

    def listed(**query: Any) -> list[str]:
        page = server.client.get("/api/v1/jobs", params={"order": "asc", **query}).json()
        return [job["id"] for job in page["jobs"]]

    assert listed(status="cancelled") == [ids[1]]
    assert listed(status="queued, running") == [ids[0], ids[2], ids[3]]
    assert listed(status="queued,running", after=ids[0], limit=1) == [ids[2]]
    assert listed(status="succeeded") == []
    refused = server.client.get("/api/v1/jobs", params={"status": "queued,done"})
    assert (refused.status_code, refused.json()["error"]["parameter"]) == (400, "status")
    assert "'done'" in refused.json()["error"]["message"]


def test_defaults_and_duration(call: Callable[..., httpx.Response]) -> None:
    job = call("POST", "/jobs", json={"prompt": "a dog", "duration_seconds": 1.5}).json()
    assert (job["model"], job["num_frames"], job["fps"], job["width"], job["height"]) == (
        "small",
        12,
        8,
        96,
        64,
    )
    assert isinstance(job["seed"], int)


@pytest.mark.parametrize("encoding", ["file", "data", "base64"])
def test_a_first_frame(call: Callable[..., httpx.Response], server: Any, encoding: str) -> None:
    text = base64.b64encode(png()).decode()
    if encoding == "file":
        answer = call("POST", "/jobs", data={"prompt": "a"}, files={"image": ("x.png", png())})
    else:
        prefix = "data:image/png;base64," if encoding == "data" else ""
        answer = call("POST", "/jobs", json={"prompt": "a", "image": prefix + text})
    job = answer.json()
    assert job["mode"] == "image"
    assert server.files.path_for(f"inputs/{job['id']}.png").exists()


def test_a_job_is_found_by_the_id_of_another_dialect(
    call: Callable[..., httpx.Response], server: Any
) -> None:
    video = server.client.post("/v1/videos", json={"prompt": "a dog"}).json()
    job = call("GET", f"/jobs/{video['id']}").json()
    assert job["id"] in video["id"]
    assert call("GET", "/jobs", params={"after": video["id"]}).status_code == 200


def test_pages(serve: Callable[..., Any]) -> None:
    client = serve().client
    ids = [client.post("/api/v1/jobs", json={"prompt": str(n)}).json()["id"] for n in range(5)]
    first = client.get("/api/v1/jobs", params={"limit": 2}).json()
    assert ([job["id"] for job in first["jobs"]], first["has_more"]) == (ids[:2:-1], True)
    rest = client.get("/api/v1/jobs", params={"after": ids[3]}).json()
    assert ([job["id"] for job in rest["jobs"]], rest["has_more"]) == (ids[2::-1], False)
    upwards = client.get("/api/v1/jobs", params={"order": "asc", "limit": 1}).json()
    assert upwards["jobs"][0]["id"] == ids[0]
    schema.JobPage.model_validate(first, extra="forbid")


def test_cancel_content_and_delete(serve: Callable[..., Any]) -> None:
    server = serve()
    client = server.client
    queued = client.post("/api/v1/jobs", json={"prompt": "a"}).json()
    cancelled = client.post(f"/api/v1/jobs/{queued['id']}/cancel").json()
    assert (cancelled["status"], cancelled["error"]) == ("cancelled", None)
    again = client.post(f"/api/v1/jobs/{queued['id']}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")
    running = client.post("/api/v1/jobs", json={"prompt": "a"}).json()
    lease = server.claim()
    answer = client.get(f"/api/v1/jobs/{running['id']}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "video_not_ready")
    asked = client.post(f"/api/v1/jobs/{running['id']}/cancel").json()
    assert (asked["status"], asked["cancel_requested"]) == ("running", True)
    server.finish(lease)
    done = client.get(f"/api/v1/jobs/{running['id']}").json()
    assert done["status"] == "succeeded", "it was finished before the wish reached the worker"
    content = client.get(done["video"]["url"], headers={"Range": "bytes=10-19"})
    assert (content.status_code, len(content.content)) == (206, 10)
    unchanged = client.get(done["video"]["url"], headers={"If-None-Match": f'"x", {content.headers["etag"]}'})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    beyond = client.get(done["video"]["url"], headers={"Range": "bytes=99999999-"})
    assert (beyond.status_code, beyond.json()["error"]["parameter"]) == (416, "Range")
    assert client.delete(f"/api/v1/jobs/{running['id']}").status_code == 204
    assert client.get(f"/api/v1/jobs/{running['id']}").status_code == 404
    assert client.delete(f"/api/v1/jobs/{running['id']}").json()["error"]["code"] == "job_not_found"


def test_a_retry_makes_the_same_once_more(serve: Callable[..., Any]) -> None:
    server = serve()
    client = server.client
    first = client.post("/api/v1/jobs", json=FULL).json()
    early = client.post(f"/api/v1/jobs/{first['id']}/retry")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "job_conflict")
    assert early.json()["error"]["message"].startswith("the job is queued")
    client.post(f"/api/v1/jobs/{first['id']}/cancel")
    answer = client.post(f"/api/v1/jobs/video_{first['id']}/retry")
    second = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, f"/api/v1/jobs/{second['id']}")
    schema.Job.model_validate(second, extra="forbid")
    own = {"id", "number", "created_at", "queue_position"}
    assert {k: v for k, v in second.items() if k not in own} == {
        k: v for k, v in first.items() if k not in own
    }
    assert client.get(f"/api/v1/jobs/{first['id']}").json()["status"] == "cancelled", "the old one stays"


def test_a_retry_has_a_first_frame_of_its_own(serve: Callable[..., Any]) -> None:
    server = serve()
    client = server.client
    first = client.post("/api/v1/jobs", data={"prompt": "a"}, files={"image": ("x.png", png())}).json()
    client.post(f"/api/v1/jobs/{first['id']}/cancel")
    second = client.post(f"/api/v1/jobs/{first['id']}/retry").json()
    old, new = (server.files.path_for(f"inputs/{job['id']}.png") for job in (first, second))
    assert (second["mode"], new.read_bytes()) == ("image", old.read_bytes())
    client.delete(f"/api/v1/jobs/{first['id']}")
    assert not old.exists()
    assert new.exists()
    client.post(f"/api/v1/jobs/{second['id']}/cancel")
    new.unlink()
    refused = client.post(f"/api/v1/jobs/{second['id']}/retry")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "job_conflict")


def test_a_retry_that_finds_the_queue_full_keeps_nothing(serve: Callable[..., Any]) -> None:
    server = serve(store={"max_queued": 1})
    client = server.client
    first = client.post("/api/v1/jobs", data={"prompt": "a"}, files={"image": ("x.png", png())}).json()
    client.post(f"/api/v1/jobs/{first['id']}/cancel")
    client.post("/api/v1/jobs", json={"prompt": "b"})
    refused = client.post(f"/api/v1/jobs/{first['id']}/retry")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) > 0
    kept = [path.name for path in (server.folder / "files" / "inputs").iterdir()]
    assert kept == [f"{first['id']}.png"]


def test_models_and_queue(call: Callable[..., httpx.Response]) -> None:
    models = schema.ModelPage.model_validate(call("GET", "/models").json(), extra="forbid")
    assert models.models[0].id == "small"
    assert models.models[0].num_frames.maximum == 17
    before = schema.Queue.model_validate(call("GET", "/queue").json(), extra="forbid")
    call("POST", "/jobs", json={"prompt": "a"})
    assert call("GET", "/queue").json()["queued"] == before.queued + 1


@pytest.mark.parametrize(
    ("body", "parameter", "words"),
    [
        ({}, "prompt", "must say what"),
        ({"prompt": ""}, "prompt", "must say what"),
        ({"prompt": 3}, "prompt", "must be text"),
        ({"prompt": "a", "hight": 64}, "hight", "there is no such parameter"),
        ({"prompt": "a", "height": 65}, "height", "must be an even number"),
        ({"prompt": "a", "num_frames": 481}, "num_frames", "nearest legal value is 480"),
        ({"prompt": "a", "duration_seconds": 0}, "duration_seconds", "above 0"),
        ({"prompt": "a", "duration_seconds": 1, "num_frames": 3}, "duration_seconds", "given too"),
        ({"prompt": "a", "fps": 0, "duration_seconds": 1}, "fps", "from 1 to 60"),
        ({"prompt": "a", "num_inference_steps": 2.5}, "num_inference_steps", "whole number"),
        ({"prompt": "a", "guidance_scale": "x"}, "guidance_scale", "must be a number"),
        ({"prompt": "a", "scheduler": "Euler"}, "scheduler", "accepts UniPC"),
        ({"prompt": "a", "seed": -1}, "seed", "nearest legal value is 0"),
        ({"prompt": "a", "format": "avi"}, "format", "mp4, gif"),
        ({"prompt": "a", "image": "http://127.1/x.png"}, "image", "its host must be a name"),
        ({"prompt": "a", "image": "AAAA"}, "image", "cannot be read"),
        ({"prompt": "a", "image": [1]}, "image", "must be a file"),
        ({"prompt": "a", "metadata": []}, "metadata", "must be an object"),
    ],
)
def test_refusals_name_parameter_rule_and_nearest(
    call: Callable[..., httpx.Response], body: dict[str, Any], parameter: str, words: str
) -> None:
    queued = call("GET", "/queue").json()["queued"]
    answer = call("POST", "/jobs", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["parameter"]) == ("invalid_parameter", parameter)
    assert words in error["message"]
    schema.ErrorAnswer.model_validate(answer.json(), extra="forbid")
    assert call("GET", "/queue").json()["queued"] == queued, "nothing was stored"


def test_an_unknown_model_is_refused(call: Callable[..., httpx.Response]) -> None:
    error = call("POST", "/jobs", json={"prompt": "a", "model": "smal"}).json()["error"]
    assert (error["code"], error["hint"]) == ("unknown_model", "did you mean `small`?")


@pytest.mark.parametrize("job_id", ["x", "video_x", "0" * 26, "..%2f..%2fetc", "%00", "é" * 300])
def test_unknown_and_malformed_ids_are_the_same_404(call: Callable[..., httpx.Response], job_id: str) -> None:
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("GET", "/content"),
    ):
        answer = call(method, f"/jobs/{job_id}{path}")
        assert answer.status_code == 404


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 101}, {"limit": "x"}, {"order": "up"}, {"after": "x"}, {"page": 2}]
)
def test_a_bad_page_is_400(call: Callable[..., httpx.Response], query: dict[str, Any]) -> None:
    assert call("GET", "/jobs", params=query).status_code == 400

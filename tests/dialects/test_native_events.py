"""A job's events as a stream: nothing lost, nothing twice, on any web process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from vitascope.domain.job import JobError


def read(client: httpx.Client, job_id: str, after: int | None = None) -> Iterator[dict[str, Any]]:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with client.stream("GET", f"/api/v1/jobs/{job_id}/events", headers=headers, timeout=30) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["kind"] for event in events]


@pytest.fixture
def server(serve: Callable[..., Any]) -> Any:
    return serve()


def test_a_stream_tells_each_change_and_ends_with_the_job(server: Any) -> None:
    job_id = server.client.post("/api/v1/jobs", json={"prompt": "a"}).json()["id"]
    stream = read(server.client, job_id)
    assert next(stream)["kind"] == "queued"
    lease = server.claim()
    assert next(stream)["kind"] == "running"
    server.store.report(lease, 40, "denoise")
    progress = next(stream)
    assert (progress["kind"], progress["percent"], progress["stage"]) == ("progress", 40, "denoise")
    server.finish(lease)
    assert kinds(list(stream)) == ["succeeded"]


def test_a_preview_is_a_picture_that_a_page_can_show(server: Any) -> None:
    asked = {"prompt": "a", "preview_every": 2}
    answer = server.client.post("/api/v1/jobs", json=asked).json()
    assert answer["preview_every"] == 2
    stream = read(server.client, answer["id"])
    lease = server.claim()
    assert lease.job.plan.preview_every == 2
    server.store.report(lease, 40, "denoise")
    assert [next(stream)["kind"] for _ in range(3)] == ["queued", "running", "progress"]
    server.store.show(lease, 40, "denoise", "UklGRg==")
    preview = next(stream)
    assert (preview["kind"], preview["percent"], preview["stage"]) == ("preview", 40, "denoise")
    assert preview["preview"] == "data:image/webp;base64,UklGRg=="
    server.finish(lease)
    [last] = stream
    assert (last["kind"], "preview" in last) == ("succeeded", False)


def test_a_stream_resumes_without_loss_or_repetition(server: Any) -> None:
    job_id = server.client.post("/api/v1/jobs", json={"prompt": "a"}).json()["id"]
    lease = server.claim()
    for percent in range(10, 60, 10):
        server.store.report(lease, percent, "denoise")
    server.store.fail(lease, JobError("out_of_memory", "it was too large"))
    whole = list(read(server.client, job_id))
    assert kinds(whole) == ["queued", "running", *["progress"] * 5, "failed"]
    numbers = [event["sequence"] for event in whole]
    assert numbers == sorted(set(numbers))
    for index, number in enumerate(numbers):
        assert list(read(server.client, job_id, number)) == whole[index + 1 :]


def test_a_long_jobs_stream_is_read_to_its_end(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        server.store.events.__func__, "__defaults__", (0, 2)
    )  # so many events of one answer, not 1,000
    job_id = server.client.post("/api/v1/jobs", json={"prompt": "a"}).json()["id"]
    lease = server.claim()
    for percent in range(10, 60, 10):
        server.store.report(lease, percent, "denoise")
    server.finish(lease)
    assert kinds(list(read(server.client, job_id))) == ["queued", "running", *["progress"] * 5, "succeeded"]


def test_many_streams_of_many_jobs_are_served_by_one_reader(server: Any) -> None:
    ids = [server.client.post("/api/v1/jobs", json={"prompt": "a"}).json()["id"] for _ in range(5)]
    seen: dict[tuple[str, int], list[str]] = {}

    def follow(job_id: str, number: int) -> None:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
            seen[job_id, number] = kinds(list(read(client, job_id)))

    threads = [threading.Thread(target=follow, args=(job_id, n)) for job_id in ids for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in ids:
        lease = server.claim()
        server.store.report(lease, 50, "denoise")
        server.finish(lease)
    for thread in threads:
        thread.join(timeout=30)
    assert len(seen) == 20
    assert all(told == ["queued", "running", "progress", "succeeded"] for told in seen.values())


def test_another_web_process_tells_the_same(server: Any, serve: Callable[..., Any]) -> None:
    job_id = server.client.post("/api/v1/jobs", json={"prompt": "a"}).json()["id"]
    key = server.settings.key_file.read_text().strip()  # the same on each machine of a deployment
    other = serve(store={"url": server.settings.database_url}, secrets={"key": key})
    stream = read(other.client, job_id)
    assert next(stream)["kind"] == "queued"
    server.client.post(f"/api/v1/jobs/{job_id}/cancel")
    assert kinds(list(stream))[-1] == "cancelled"


def test_a_deleted_jobs_stream_ends(server: Any) -> None:
    job_id = server.client.post("/api/v1/jobs", json={"prompt": "a"}).json()["id"]
    server.claim()
    stream = read(server.client, job_id)
    assert [next(stream)["kind"], next(stream)["kind"]] == ["queued", "running"]
    server.client.delete(f"/api/v1/jobs/{job_id}")
    assert kinds(list(stream))[-1] == "deleted"
    assert server.client.get(f"/api/v1/jobs/{job_id}/events").status_code == 404


@pytest.mark.parametrize("number", ["x", "-1", "9" * 30, "1.5"])
def test_a_number_that_no_stream_gave_is_refused(server: Any, number: str) -> None:
    job_id = server.client.post("/api/v1/jobs", json={"prompt": "a"}).json()["id"]
    answer = server.client.get(f"/api/v1/jobs/{job_id}/events", headers={"Last-Event-ID": number})
    assert (answer.status_code, answer.json()["error"]["parameter"]) == (400, "Last-Event-ID")

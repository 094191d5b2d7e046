"""`/v1/batches` with the vendor's own SDK as the client, over a real server and a tiny worker."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from openai.types import Batch
from PIL import Image

from vitascope.domain.access import KeyLimits, Scope
from vitascope.service import feeding
from vitascope.service.keys import Keys
from waiting import eventually

ENDED = ("completed", "failed", "cancelled", "expired")


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(feeding, "PAUSE_SECONDS", 0.05)


def sdk_of(server: Any, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def idle(serve: Callable[..., Any]) -> Any:
    """A server where nothing works but what a test does itself."""
    return serve()


@pytest.fixture
def sdk(idle: Any) -> Iterator[openai.OpenAI]:
    with sdk_of(idle) as client:
        yield client


def request(custom_id: str, **body: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/videos",
        "body": {"prompt": "a dog", **body},
    }


def upload(sdk: openai.OpenAI, *lines: Any, purpose: Any = "batch") -> str:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    return sdk.files.create(file=("tasks.jsonl", "\n".join(texts).encode()), purpose=purpose).id


def begin(sdk: openai.OpenAI, *lines: Any, **more: Any) -> Batch:
    file_id = upload(sdk, *lines)
    return sdk.batches.create(input_file_id=file_id, endpoint="/v1/videos", completion_window="24h", **more)


def until(sdk: openai.OpenAI, batch: Batch, *statuses: str) -> Batch:
    def look() -> Batch | None:
        found = sdk.batches.retrieve(batch.id)
        assert found.status in statuses or found.status not in ENDED, found
        return found if found.status in statuses else None

    return eventually(look)  # type: ignore[return-value]


def results(sdk: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    if file_id is None:
        return {}
    lines = [json.loads(line) for line in sdk.files.content(file_id).text.splitlines()]
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line for line in lines}


def execute(server: Any, query: str) -> None:
    engine = sa.create_engine(f"sqlite:///{server.settings.home / 'vitascope.db'}")
    with engine.begin() as connection:
        connection.execute(sa.text(query))
    engine.dispose()


def jobs(server: Any) -> list[Any]:
    return list(server.store.page(limit=100, order="asc").jobs)


def work(server: Any, count: int) -> None:
    for _ in range(count):
        lease = eventually(lambda: server.store.claim("test", 60))
        if lease.job.request.prompt == "fail":
            from vitascope.domain.job import JobError

            server.store.fail(lease, JobError("out_of_memory", "The device ran out of memory."))
        else:
            server.finish(lease)


def test_from_a_file_of_requests_to_a_file_of_results(idle: Any, sdk: openai.OpenAI) -> None:
    made = begin(
        sdk,
        request("one", seconds="1"),
        request("two", prompt="fail"),
        request("three", size="silly"),
        request("four", model="short", seconds="1"),
        metadata={"for": "me"},
    )
    assert set(Batch.model_fields) <= set(made.to_dict() | {"_request_id": None})
    assert (made.id.startswith("batch_"), made.object, made.endpoint) == (True, "batch", "/v1/videos")
    assert made.status == "validating"
    assert made.metadata == {"for": "me"}
    assert made.expires_at == made.created_at + 86_400
    work(idle, 3)
    batch = until(sdk, made, "completed")
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (4, 2, 2)
    assert batch.in_progress_at and batch.finalizing_at and batch.completed_at
    assert (batch.errors, batch.cancelled_at, batch.expired_at, batch.failed_at) == (None, None, None, None)
    output, errors = results(sdk, batch.output_file_id), results(sdk, batch.error_file_id)
    assert set(output) == {"one", "four"}
    assert set(errors) == {"two", "three"}
    one = output["one"]
    assert one["error"] is None
    assert one["response"]["status_code"] == 200
    assert (one["response"]["body"]["status"], one["response"]["body"]["seconds"]) == ("completed", "1")
    video = sdk.videos.retrieve(one["response"]["body"]["id"])
    assert video.to_dict() == one["response"]["body"], "as it is shown everywhere"
    assert sdk.videos.download_content(video.id).read()
    two = errors["two"]
    assert two["error"] == {"code": "out_of_memory", "message": "The device ran out of memory."}
    assert two["response"]["body"]["status"] == "failed"
    three = errors["three"]["response"]
    assert three["status_code"] == 400
    assert three["body"]["error"]["param"] == "size"
    for file_id in (batch.output_file_id, batch.error_file_id):
        assert file_id is not None
        file = sdk.files.retrieve(file_id)
        assert file.purpose == "batch_output"
        assert file.expires_at == file.created_at + 30 * 86_400
    assert [file.purpose for file in sdk.files.list(purpose="batch_output")] == ["batch_output"] * 2
    assert [job.request.priority for job in jobs(idle)] == [-5, -5, -5]
    assert {job.request.expires_in_seconds for job in jobs(idle)} == {2 * 86_400}


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], [("empty_file", None, None)]),
        (["", "  ", ""], [("empty_file", None, None)]),
        (["{", "[]", "null", '{"a": NaN}', '{"a": 1, "a": 2}', "\udcff"], "invalid_json_line"),
        ([{**request("a"), "custom_id": None}], [("missing_required_parameter", 1, "custom_id")]),
        ([{"custom_id": "a"}], [("missing_required_parameter", 1, "method")]),
        (
            [request("a"), request("a"), request("b")],
            [("duplicate_custom_id", 2, "custom_id")],
        ),
        ([{**request("a"), "custom_id": 3}], [("invalid_custom_id", 1, "custom_id")]),
        ([{**request("a"), "custom_id": "a" * 513}], [("invalid_custom_id", 1, "custom_id")]),
        ([request("a"), "", {**request("b"), "method": "GET"}], [("invalid_method", 3, "method")]),
        ([{**request("a"), "url": "/v1/videos/x"}], [("invalid_url", 1, "url")]),
        ([{**request("a"), "body": "x"}], [("invalid_body", 1, "body")]),
    ],
)
def test_a_wrong_file_is_told_by_line_and_makes_nothing(server: Any, lines: list[Any], found: Any) -> None:
    data = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) or "\n"
    with sdk_of(server) as sdk:
        file = sdk.files.create(file=("a.jsonl", data.encode(errors="surrogateescape")), purpose="batch")
        batch = sdk.batches.create(input_file_id=file.id, endpoint="/v1/videos", completion_window="24h")
        batch = until(sdk, batch, "failed")
    assert batch.errors is not None
    assert batch.errors.data is not None
    told = [(error.code, error.line, error.param) for error in batch.errors.data]
    if isinstance(found, str):
        found = [(found, number, None) for number in range(1, len(lines) + 1)]
    assert told == found
    assert (batch.output_file_id, batch.error_file_id, batch.in_progress_at) == (None, None, None)
    assert batch.failed_at
    assert not jobs(server)


def test_only_the_first_wrong_lines_are_told(server: Any) -> None:
    with sdk_of(server) as sdk:
        batch = until(sdk, begin(sdk, *["{"] * 1000), "failed")
    assert batch.errors is not None
    assert len(batch.errors.data or ()) == 50


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"input_file_id": None}, "input_file_id", "missing"),
        ({"input_file_id": "file-x"}, "input_file_id", "no file has this id"),
        ({"input_file_id": 3}, "input_file_id", "must be text"),
        ({"endpoint": "/v1/chat/completions"}, "endpoint", "/v1/videos"),
        ({"endpoint": None}, "endpoint", "missing"),
        ({"completion_window": "7d"}, "completion_window", "24h"),
        ({"metadata": {"a": 1}}, "metadata", "must be text"),
        ({"metadata": {"a" * 65: ""}}, "metadata", "64 characters"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "17 pairs"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after", "3600"),
        (
            {"output_expires_after": {"anchor": "x", "seconds": 1}},
            "output_expires_after[anchor]",
            "created_at",
        ),
        ({"priority": 3}, "priority", "no such parameter"),
    ],
)
def test_a_bad_batch_is_refused_exactly(server: Any, body: dict[str, Any], param: str, words: str) -> None:
    with sdk_of(server) as sdk:
        good = {
            "input_file_id": upload(sdk, request("a", prompt="never")),
            "endpoint": "/v1/videos",
            "completion_window": "24h",
        }
        before = len(sdk.batches.list().data)
        answer = server.client.post("/v1/batches", json={**good, **body})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
        assert words in error["message"]
        assert len(sdk.batches.list().data) == before


def test_a_file_of_another_purpose_is_refused(server: Any) -> None:
    with sdk_of(server) as sdk:
        file_id = upload(sdk, request("a"), purpose="user_data")
        with pytest.raises(openai.BadRequestError) as error:
            sdk.batches.create(input_file_id=file_id, endpoint="/v1/videos", completion_window="24h")
        assert "purpose batch" in error.value.message


def test_cancel_cancels_what_is_left(idle: Any, sdk: openai.OpenAI) -> None:
    made = begin(sdk, *(request(f"{n}") for n in range(30)))
    eventually(lambda: len(jobs(idle)) == 20 or None)
    work(idle, 1)
    running = idle.store.claim("test", 60)
    assert running is not None
    stopping = sdk.batches.cancel(made.id)
    assert stopping.status == "cancelling"
    assert stopping.cancelling_at
    assert sdk.batches.cancel(made.id).status == "cancelling", "once more changes nothing"
    eventually(lambda: idle.store.get(running.job.id).cancel_requested or None)
    assert sdk.batches.retrieve(made.id).status == "cancelling", "one is being stopped"
    idle.store.finish_cancelled(running)
    batch = until(sdk, made, "cancelled")
    assert batch.cancelled_at
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (
        30,
        1,
        29,
    )
    assert list(results(sdk, batch.output_file_id)) == ["0"]
    errors = results(sdk, batch.error_file_id)
    assert set(errors) == {f"{n}" for n in range(1, 30)}
    assert {(line["error"]["code"], line["response"]) for line in errors.values()} == {
        ("batch_cancelled", None)
    }
    assert {job.status.value for job in jobs(idle)} == {"succeeded", "cancelled"}
    assert sdk.batches.cancel(made.id).status == "cancelled"


def test_what_has_ended_cannot_be_cancelled(server: Any) -> None:
    with sdk_of(server) as sdk:
        batch = until(sdk, begin(sdk, "{"), "failed")
        with pytest.raises(openai.BadRequestError) as error:
            sdk.batches.cancel(batch.id)
        assert error.value.code == "batch_conflict"


def test_a_batch_ends_with_its_window(idle: Any, sdk: openai.OpenAI) -> None:
    made = begin(sdk, *(request(f"{n}") for n in range(25)))
    eventually(lambda: len(jobs(idle)) == 20 or None)
    work(idle, 1)
    past = datetime.now(UTC) - timedelta(seconds=1)
    execute(idle, f"UPDATE batches SET expires_at = '{past:%Y-%m-%d %H:%M:%S.%f}'")
    batch = until(sdk, made, "expired")
    assert batch.expired_at
    assert (batch.cancelled_at, batch.cancelling_at, batch.completed_at) == (None, None, None)
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 24)
    errors = results(sdk, batch.error_file_id)
    assert {line["error"]["code"] for line in errors.values()} == {"batch_expired"}
    assert not [job for job in jobs(idle) if not job.status.is_terminal]


def test_a_deleted_video_is_told(idle: Any, sdk: openai.OpenAI) -> None:
    made = begin(sdk, request("gone"), request("running"), request("kept"))
    eventually(lambda: len(jobs(idle)) == 3 or None)
    gone, running, kept = jobs(idle)
    sdk.videos.delete(f"video_{gone.id}")
    lease = idle.store.claim("test", 60)
    assert lease.job.id == running.id
    sdk.videos.delete(f"video_{running.id}")
    work(idle, 1)
    batch = until(sdk, made, "completed")
    assert list(results(sdk, batch.output_file_id)) == ["kept"]
    errors = results(sdk, batch.error_file_id)
    assert {name: (line["error"]["code"], line["response"]) for name, line in errors.items()} == {
        "gone": ("video_deleted", None),
        "running": ("video_deleted", None),
    }
    assert kept.id in sdk.files.content(batch.output_file_id or "").text


def test_the_input_file_may_be_deleted_once_the_batch_runs(idle: Any, sdk: openai.OpenAI) -> None:
    made = begin(sdk, *(request(f"{n}") for n in range(25)))
    until(sdk, made, "in_progress")
    sdk.files.delete(made.input_file_id)
    work(idle, 25)
    assert until(sdk, made, "completed").request_counts.completed == 25  # type: ignore[union-attr]


def test_a_file_that_is_gone_before_it_was_read_fails_the_batch(
    idle: Any, sdk: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitascope.store.for_batches.ForBatches.has_due_batches", lambda _self: False)
    made = begin(sdk, request("a"))
    sdk.files.delete(made.input_file_id)
    monkeypatch.undo()
    batch = until(sdk, made, "failed")
    assert batch.errors is not None
    assert [(error.code, error.param) for error in batch.errors.data or ()] == [
        ("file_not_found", "input_file_id")
    ]


def test_pictures_by_id_are_read_when_their_turn_comes(idle: Any, sdk: openai.OpenAI) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (96, 64), "red").save(picture, "PNG")
    file = sdk.files.create(file=("a.png", picture.getvalue()), purpose="vision")
    bad = sdk.files.create(file=("a.png", b"no picture"), purpose="vision")
    made = begin(
        sdk,
        request("good", input_reference={"file_id": file.id}),
        request("unknown", input_reference={"file_id": "file-x"}),
        request("bad", input_reference={"file_id": bad.id}),
    )
    work(idle, 1)
    batch = until(sdk, made, "completed")
    assert list(results(sdk, batch.output_file_id)) == ["good"]
    (job,) = jobs(idle)
    with idle.files.open(job.request.image) as stored:
        assert Image.open(stored).getpixel((0, 0)) == (255, 0, 0)
    errors = results(sdk, batch.error_file_id)
    told = {name: line["response"]["body"]["error"]["param"] for name, line in errors.items()}
    assert told == dict.fromkeys(("unknown", "bad"), "input_reference[file_id]")
    assert [file.key for file in idle.files.files_in("inputs")] == [job.request.image]


def test_lists_page(idle: Any, sdk: openai.OpenAI) -> None:
    made = [begin(sdk, "{").id for _ in range(5)]
    assert [batch.id for batch in sdk.batches.list(limit=2)] == made[::-1]
    first = sdk.batches.list(limit=2, after=made[3])
    assert ([batch.id for batch in first.data], first.has_more) == ([made[2], made[1]], True)
    for after in ("batch_x", "x"):
        with pytest.raises(openai.BadRequestError):
            sdk.batches.list(after=after)


class TestOnce:
    def test_the_same_request_makes_one_batch(self, idle: Any, sdk: openai.OpenAI) -> None:
        body = {"input_file_id": upload(sdk, "{"), "endpoint": "/v1/videos", "completion_window": "24h"}

        def post(**headers: str) -> httpx.Response:
            answer: httpx.Response = idle.client.post("/v1/batches", json=body, headers=headers)
            return answer

        first = post(**{"Idempotency-Key": "a"}).json()["id"]
        assert post(**{"Idempotency-Key": "a"}).json()["id"] == first
        assert post(**{"Idempotency-Key": "b"}).json()["id"] != first
        other = {**body, "metadata": {"a": "b"}}
        clash = idle.client.post("/v1/batches", json=other, headers={"Idempotency-Key": "a"})
        assert (clash.status_code, clash.json()["error"]["code"]) == (409, "idempotency_conflict")
        assert clash.headers["x-should-retry"] == "false"
        retry = {"x-stainless-retry-count": "1"}
        last = sdk.batches.list().data[0].id
        assert post(**retry).json()["id"] == last, "its client does not know the id"
        sdk.files.delete(body["input_file_id"])
        assert post(**retry).json()["id"] == last, "although its file is gone"
        sdk.batches.retrieve(last)
        eventually(lambda: idle.store.batch(last.removeprefix("batch_")).is_read or None)
        assert len(sdk.batches.list().data) == 2


class TestKeys:
    def test_anothers_batch_is_an_unknown_one(self, idle: Any) -> None:
        keys = Keys(idle.store)
        mine, other, reader = (
            keys.create("k", (scope,))[1] for scope in (Scope.GENERATE, Scope.GENERATE, Scope.READ)
        )
        with sdk_of(idle, mine) as sdk:
            made = begin(sdk, request("a"))
            assert sdk.batches.retrieve(made.id).id == made.id
        unknown = "batch_01" + "0" * 24
        headers = {"Authorization": f"Bearer {other}"}
        for method, path in (
            ("GET", "/v1/batches/{}"),
            ("POST", "/v1/batches/{}/cancel"),
            ("GET", "/v1/batches?after={}"),
        ):
            answers = [
                idle.client.request(method, path.format(each), headers=headers) for each in (made.id, unknown)
            ]
            assert answers[0].status_code == answers[1].status_code == (400 if "after" in path else 404)
            assert answers[0].text.replace(made.id, unknown) == answers[1].text
        with sdk_of(idle, other) as sdk:
            assert sdk.batches.list().data == []
            with pytest.raises(openai.BadRequestError) as refused:
                sdk.batches.create(
                    input_file_id=made.input_file_id, endpoint="/v1/videos", completion_window="24h"
                )
            assert refused.value.param == "input_file_id"
        with sdk_of(idle, reader) as sdk, pytest.raises(openai.PermissionDeniedError):
            sdk.batches.cancel(made.id)

    def test_jobs_of_batches_are_the_keys_and_count_toward_no_rate(
        self, idle: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vitascope.store.for_keys.MINUTE_SECONDS", 10**9)
        keys = Keys(idle.store)
        limits = KeyLimits(requests_per_minute=2, max_queued=7)
        key, secret = keys.create("k", (Scope.GENERATE,), limits)
        _, stranger = keys.create("other", (Scope.GENERATE,))
        with sdk_of(idle, secret) as sdk:
            made = begin(sdk, *(request(f"{n}") for n in range(9)))
            eventually(lambda: len(jobs(idle)) == 3 or None)
            assert {job.key_id for job in jobs(idle)} == {key.id}
            assert sdk.videos.create(prompt="now").status == "queued", (
                "there is room for what is asked directly"
            )
            with pytest.raises(openai.RateLimitError):
                sdk.videos.create(prompt="a third request in this minute")
            lease = idle.store.claim("test", 60)
            assert lease.job.request.prompt == "now", "what is asked directly goes first"
            idle.finish(lease)
            work(idle, 9)
            assert until(sdk, made, "completed").request_counts.completed == 9  # type: ignore[union-attr]
        with sdk_of(idle, stranger) as sdk:
            assert sdk.videos.list().data == []

    def test_a_revoked_keys_batch_makes_no_more(self, idle: Any) -> None:
        keys = Keys(idle.store)
        keys.create("first", (Scope.ADMIN,))
        key, secret = keys.create("k", (Scope.GENERATE,))
        with sdk_of(idle, secret) as sdk:
            made = begin(sdk, *(request(f"{n}") for n in range(25)))
            eventually(lambda: len(jobs(idle)) == 20 or None)
        keys.revoke(key.id)
        work(idle, 20)
        batch = eventually(
            lambda: found if (found := idle.store.batch(made.id.removeprefix("batch_"))).finished_at else None
        )
        assert (batch.num_succeeded, batch.num_failed) == (20, 5)

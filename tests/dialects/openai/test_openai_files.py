"""`/v1/files` with the vendor's own SDK as the client, and files in requests for videos."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import openai
import pytest
import sqlalchemy as sa
from PIL import Image

from vitascope.domain.access import KeyLimits, Scope
from vitascope.service.keys import Keys
from waiting import eventually

DAY = 86_400


def picture(color: str = "red", size: tuple[int, int] = (96, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def sdk_of(server: Any, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def sdk(server: Any) -> Iterator[openai.OpenAI]:
    with sdk_of(server) as client:
        yield client


def rows(server: Any, query: str) -> list[Any]:
    engine = sa.create_engine(f"sqlite:///{server.settings.home / 'vitascope.db'}")
    with engine.begin() as connection:
        found = connection.execute(sa.text(query))
        answer = list(found.all()) if found.returns_rows else []
    engine.dispose()
    return answer


def test_upload_retrieve_download_delete(server: Any, sdk: openai.OpenAI) -> None:
    data = b'{"a": 1}\n' * 1000
    made = sdk.files.create(file=("tasks.jsonl", data), purpose="user_data")
    assert made.id.startswith("file-")
    assert (made.bytes, made.filename, made.purpose, made.object) == (
        len(data),
        "tasks.jsonl",
        "user_data",
        "file",
    )
    assert (made.status, made.expires_at) == ("processed", None)
    assert sdk.files.retrieve(made.id) == made
    assert sdk.files.wait_for_processing(made.id) == made
    content = sdk.files.content(made.id)
    assert content.read() == data
    assert content.response.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    assert content.response.headers["content-type"] == "application/octet-stream"
    assert "attachment" in content.response.headers["content-disposition"]
    assert "tasks" not in content.response.headers["content-disposition"], "the client's name leads nowhere"
    part = server.client.get(f"/v1/files/{made.id}/content", headers={"range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, data[1:4])
    assert server.client.head(f"/v1/files/{made.id}/content").headers["content-length"] == str(len(data))
    deleted = sdk.files.delete(made.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "file", True)
    for call in (sdk.files.retrieve, sdk.files.content, sdk.files.delete):
        with pytest.raises(openai.NotFoundError) as error:
            call(made.id)
        assert error.value.code == "file_not_found"
    assert not [file for file in server.files.files_in("files") if made.id.removeprefix("file-") in file.key]


def test_lists_page_in_both_orders_and_by_purpose(serve: Callable[..., Any]) -> None:
    with sdk_of(serve()) as sdk:
        purposes = ["batch", "vision", "batch", "user_data", "batch"]
        made = [
            sdk.files.create(file=(f"{n}", b"x"), purpose=purpose).id  # type: ignore[arg-type]
            for n, purpose in enumerate(purposes)
        ]
        assert [file.id for file in sdk.files.list()] == made[::-1]
        assert [file.id for file in sdk.files.list(limit=2, order="asc")] == made, "through all pages"
        assert [file.id for file in sdk.files.list(purpose="batch", limit=2)] == [made[4], made[2], made[0]]
        sdk.files.delete(made[2])
        first = sdk.files.list(limit=1, order="asc", after=made[2])
        assert ([file.id for file in first.data], first.has_more) == ([made[3]], True), "its place is kept"
        assert sdk.files.list(purpose="nothing").data == []
        for bad in (
            {"after": "file-nobody"},
            {"after": "x"},
            {"limit": 0},
            {"limit": 10_001},
            {"order": "up"},
        ):
            with pytest.raises(openai.BadRequestError) as error:
                sdk.files.list(**bad)  # type: ignore[arg-type]
            assert error.value.param == next(iter(bad))


def test_files_of_batches_go_after_thirty_days_and_others_when_asked(sdk: openai.OpenAI) -> None:
    batch = sdk.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    assert batch.expires_at == batch.created_at + 30 * DAY
    short = sdk.files.create(
        file=b"x", purpose="vision", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert short.expires_at == short.created_at + 3600


@pytest.mark.parametrize(
    ("form", "param", "words"),
    [
        ({"data": {"purpose": "vision"}}, "file", "missing or empty"),
        ({"data": {"purpose": "vision", "file": "text"}}, "file", "must be a file"),
        ({"files": {"file": ("a", b"")}, "data": {"purpose": "vision"}}, "file", "missing or empty"),
        ({"files": {"file": ("a", b"x")}}, "purpose", "missing"),
        ({"files": {"file": ("a", b"x")}, "data": {"purpose": "batch_output"}}, "purpose", "must be one of"),
        ({"files": {"file": ("a" * 300, b"x")}, "data": {"purpose": "vision"}}, "file", "255 characters"),
        ({"files": {"file": ("a", b"x")}, "data": {"purpose": "vision", "kind": "b"}}, "kind", "no such"),
        (
            {"files": {"file": ("a", b"x")}, "data": {"purpose": "vision", "expires_after[anchor]": "now"}},
            "expires_after[anchor]",
            "created_at",
        ),
        (
            {
                "files": {"file": ("a", b"x")},
                "data": {
                    "purpose": "vision",
                    "expires_after[anchor]": "created_at",
                    "expires_after[seconds]": "60",
                },
            },
            "expires_after",
            "The nearest legal value is 3600",
        ),
        ({"json": {"file": "eA==", "purpose": "vision"}}, "file", "must be a file"),
    ],
)
def test_a_bad_upload_is_told_and_nothing_is_kept(
    server: Any, form: dict[str, Any], param: str, words: str
) -> None:
    before = sorted(file.key for file in server.files.files_in("files"))
    if "json" not in form and "files" not in form:  # a form without files is sent as a plain one
        form = {"files": {name: (None, value) for name, value in form["data"].items()}}
    answer = server.client.post("/v1/files", **form)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert words in error["message"]
    assert sorted(file.key for file in server.files.files_in("files")) == before


def test_too_large_an_upload_is_refused(serve: Callable[..., Any]) -> None:
    server = serve(server={"max_body_bytes": 10_000})
    form = {"files": {"file": ("a", b"x" * 10_001)}, "data": {"purpose": "vision"}}
    answer = server.client.post("/v1/files", **form)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a b.jsonl", "a b.jsonl"),
        ("ü\u202e.png", "ü\u202e.png"),
        ("a\x00b\udc80", "a"),
    ],
)
def test_a_files_name_is_only_shown(server: Any, sdk: openai.OpenAI, name: str, kept: str) -> None:
    if "\x00" in name:
        head = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvision\r\n'
        file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a\xff"\r\n\r\nx\r\n--b--\r\n'
        headers = {"content-type": "multipart/form-data; boundary=b"}
        answer = server.client.post("/v1/files", content=head + file, headers=headers).json()
        assert answer["filename"].startswith(kept)
        return
    assert sdk.files.create(file=(name, b"x"), purpose="vision").filename == kept


class TestReferences:
    def test_a_video_begins_with_an_uploaded_picture(self, serve: Callable[..., Any]) -> None:
        server = serve()
        with sdk_of(server) as sdk:
            file = sdk.files.create(file=("a.png", picture()), purpose="vision")
            # as an argument the SDK takes it for a file
            reference = {"input_reference": {"file_id": file.id}}
            video = sdk.videos.create(prompt="a dog", extra_body=reference)
            (job,) = server.store.page(limit=1).jobs
            assert video.id == f"video_{job.id}"
            sdk.files.delete(file.id)  # the job has a copy
            with server.files.open(job.request.image) as stored:
                assert Image.open(stored).getpixel((0, 0)) == (255, 0, 0)
        form = {"prompt": (None, "a dog"), "input_reference[file_id]": (None, file.id)}
        answer = server.client.post("/v1/videos", files=form)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "input_reference[file_id]")
        assert "no file has this id" in error["message"]

    def test_bracketed_fields_name_it_too(self, server: Any, sdk: openai.OpenAI) -> None:
        file = sdk.files.create(file=("a.png", picture("blue")), purpose="user_data")
        form = {"prompt": (None, "a dog"), "input_reference[file_id]": (None, file.id)}
        answer = server.client.post("/v1/videos", files=form)
        assert answer.status_code == 200
        job = server.store.get(answer.json()["id"].removeprefix("video_"))
        with server.files.open(job.request.image) as stored:
            assert Image.open(stored).getpixel((0, 0)) == (0, 0, 255)

    @pytest.mark.parametrize(
        "file_id", ["file-0" + "0" * 25, "file-x", "x", "../a", "file-\x00", "file-" * 9999]
    )
    def test_an_unknown_file_is_told(self, server: Any, file_id: str) -> None:
        body = {"prompt": "a dog", "input_reference": {"file_id": file_id}}
        answer = server.client.post("/v1/videos", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "input_reference[file_id]")
        assert "no file has this id" in error["message"]
        assert len(error["message"]) < 300

    @pytest.mark.parametrize(
        ("reference", "param"),
        [
            ({"file_id": 3}, "input_reference[file_id]"),
            ({"file_id": ["file-x"]}, "input_reference[file_id]"),
            ({"file_id": "file-x", "image_url": "https://a.example/b.png"}, "input_reference[image_url]"),
            ({"file_id": ""}, "input_reference[image_url]"),
        ],
    )
    def test_a_reference_of_another_form_is_refused(self, server: Any, reference: Any, param: str) -> None:
        answer = server.client.post("/v1/videos", json={"prompt": "a dog", "input_reference": reference})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)

    def test_a_file_that_is_no_picture_is_refused_by_name(self, server: Any, sdk: openai.OpenAI) -> None:
        file = sdk.files.create(file=("a.png", b"\x89PNG\r\n\x1a\n" + b"x" * 100), purpose="vision")
        body = {"prompt": "a dog", "input_reference": {"file_id": file.id}}
        answer = server.client.post("/v1/videos", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input_reference[file_id]")

    def test_a_repeated_request_has_its_job_although_the_file_is_gone(
        self, server: Any, sdk: openai.OpenAI
    ) -> None:
        file = sdk.files.create(file=("a.png", picture()), purpose="vision")
        body = {"prompt": "a dog", "input_reference": {"file_id": file.id}}
        headers = {"Idempotency-Key": f"once {file.id}"}
        first = server.client.post("/v1/videos", json=body, headers=headers).json()
        sdk.files.delete(file.id)
        again = server.client.post("/v1/videos", json=body, headers=headers)
        assert (again.status_code, again.json()["id"]) == (200, first["id"])


class TestKeys:
    def test_anothers_file_is_an_unknown_one(self, serve: Callable[..., Any]) -> None:
        server = serve()
        keys = Keys(server.store)
        mine, other, reader, admin = (
            keys.create("k", (scope,))[1]
            for scope in (Scope.GENERATE, Scope.GENERATE, Scope.READ, Scope.ADMIN)
        )
        with sdk_of(server, mine) as sdk:
            file = sdk.files.create(file=("a.png", picture()), purpose="vision")
        unknown = "file-01" + "0" * 24
        headers = {"Authorization": f"Bearer {other}"}
        for method, path in (
            ("GET", "/v1/files/{}"),
            ("DELETE", "/v1/files/{}"),
            ("GET", "/v1/files/{}/content"),
            ("HEAD", "/v1/files/{}/content"),
            ("GET", "/v1/files?after={}"),
        ):
            answers = [
                server.client.request(method, path.format(file_id), headers=headers)
                for file_id in (file.id, unknown)
            ]
            assert answers[0].status_code == answers[1].status_code == (400 if "after" in path else 404)
            assert answers[0].text.replace(file.id, unknown) == answers[1].text
        body = {"prompt": "a dog", "input_reference": {"file_id": file.id}}
        theirs = server.client.post("/v1/videos", json=body, headers=headers)
        body["input_reference"] = {"file_id": unknown}
        nobodys = server.client.post("/v1/videos", json=body, headers=headers)
        assert theirs.status_code == nobodys.status_code == 400
        assert theirs.text.replace(file.id, unknown) == nobodys.text
        assert server.client.get("/v1/files", headers=headers).json()["data"] == []
        with sdk_of(server, admin) as sdk:
            assert sdk.files.retrieve(file.id).id == file.id, "operators see all"
        with sdk_of(server, reader) as sdk, pytest.raises(openai.PermissionDeniedError):
            sdk.files.create(file=b"x", purpose="vision")
        with sdk_of(server, "wrong") as sdk, pytest.raises(openai.AuthenticationError):
            sdk.files.list()

    def test_files_count_in_a_keys_storage(self, serve: Callable[..., Any]) -> None:
        server = serve()
        _, key = Keys(server.store).create("k", (Scope.GENERATE,), KeyLimits(max_storage_bytes=1000))
        with sdk_of(server, key) as sdk:
            first = sdk.files.create(file=b"x" * 600, purpose="vision")
            with pytest.raises(openai.PermissionDeniedError) as refused:
                sdk.files.create(file=b"x" * 401, purpose="vision")
            assert refused.value.code == "storage_limit_reached"
            assert "600 bytes, this one 401, and 1000 are allowed" in str(refused.value)
            sdk.files.create(file=b"x" * 400, purpose="vision")
            with pytest.raises(openai.PermissionDeniedError):
                sdk.videos.create(prompt="a dog")  # they share it with videos
            sdk.files.delete(first.id)
            assert sdk.videos.create(prompt="a dog").status == "queued"
        assert len(list(server.files.files_in("files"))) == 1, "what was refused is not kept"


def test_a_file_whose_time_is_over_is_gone_at_once_and_removed_soon(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitascope.store.for_files.GRACE", timedelta(0))
    monkeypatch.setattr(
        "vitascope.service.expiry.Expiry.__init__.__kwdefaults__", {"pass_seconds": 0.05, "others": ()}
    )
    server = serve()
    with sdk_of(server) as sdk:
        file = sdk.files.create(file=b"x", purpose="vision")
        past = datetime.now(UTC) - timedelta(seconds=1)
        rows(server, f"UPDATE files SET expires_at = '{past:%Y-%m-%d %H:%M:%S.%f}'")
        with pytest.raises(openai.NotFoundError):
            sdk.files.retrieve(file.id)
        assert sdk.files.list().data == []
    eventually(lambda: not list(server.files.files_in("files")))
    eventually(lambda: rows(server, "SELECT removed_at FROM files")[0].removed_at is not None)

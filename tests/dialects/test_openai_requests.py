"""`/v1/videos` on the wire: encodings, exact refusals, ranges, and that nothing a client sends makes a 500."""

from __future__ import annotations

import base64
import io
import json
import random
from typing import Any

import httpx
import pytest
from PIL import Image

from vitascope.domain.job import Job

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()

FORM = {"content-type": "multipart/form-data; boundary=b"}
JSON = {"content-type": "application/json"}


def form(*parts: tuple[str, bytes]) -> bytes:
    """A multipart body, byte for byte; the first of each pair is what follows `form-data; `."""
    body = b"".join(
        b"--b\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data + b"\r\n"
        for head, data in parts
    )
    return body + b"--b--\r\n"


@pytest.fixture
def post(server: Any) -> Any:
    def send(body: Any = None, **options: Any) -> httpx.Response:
        if body is not None:
            options["json"] = body
        response = server.client.post("/v1/videos", **options)
        assert isinstance(response, httpx.Response)
        return response

    return send


@pytest.fixture
def job_of(server: Any) -> Any:
    def find(response: httpx.Response) -> Job:
        assert response.status_code == 200, response.text
        job = server.store.get(response.json()["id"].removeprefix("video_"))
        assert isinstance(job, Job)
        return job

    return find


def error_of(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"].startswith("req_")
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error, dict)
    return error


SAME_REQUEST: list[dict[str, Any]] = [
    {"json": {"prompt": "a dog", "seconds": 2.5, "size": "128x96", "seed": 3, "metadata": {"a": "1"}}},
    {"json": {"prompt": "a dog", "seconds": "2.5", "size": "128x96", "seed": "3", "metadata": '{"a": "1"}'}},
    {"json": {"prompt": "a dog", "duration": 2.5, "width": 128, "height": "96", "seed": 3.0, "metadata": {"a": "1"}}},
    {"json": {"prompt": "a dog", "num_frames": 20, "size": "128X96", "seed": 3, "metadata": {"a": "1"}, "fps": None}},
    {"data": {"prompt": "a dog", "seconds": "2.5", "size": "128x96", "seed": "3", "metadata[a]": "1"}},
    {
        "files": {
            "prompt": (None, "a dog"),
            "seconds": (None, "2.5"),
            "size": (None, "128x96"),
            "seed": (None, "3"),
            "metadata[a]": (None, "1"),
            "input_reference": ("upload", b""),
            "fps": (None, ""),
        }
    },
    {"content": b'\xef\xbb\xbf{"prompt":"a dog","seconds":25e-1,"size":"128x96","seed":3,"metadata":{"a":"1"}}'},
]  # fmt: skip


@pytest.mark.parametrize("sent", SAME_REQUEST, ids=range(len(SAME_REQUEST)))
def test_every_encoding_makes_the_same_request(post: Any, job_of: Any, sent: dict[str, Any]) -> None:
    response = post(**sent)
    job = job_of(response)
    assert (job.plan.num_frames, job.plan.fps, job.plan.width, job.plan.height, job.plan.seed) == (
        20,
        8,
        128,
        96,
        3,
    )
    assert job.request.metadata == {"a": "1"}
    body = response.json()
    assert (body["seconds"], body["size"], body["seed"]) == ("2.5", "128x96", 3)
    assert body["metadata"]["a"] == "1"


def test_nothing_but_a_prompt_gives_the_documented_defaults(post: Any, job_of: Any) -> None:
    response = post({"prompt": "ein Hund läuft 🐕"})
    job = job_of(response)
    body = response.json()
    assert body["prompt"] == "ein Hund läuft 🐕"
    assert (body["seconds"], body["size"], body["model"], body["status"]) == ("4", "96x64", "small", "queued")
    assert 0 <= job.plan.seed < 2**32
    assert body["completed_at"] is None
    assert response.headers["openai-poll-after-ms"] == "1000", "nobody knows yet how long it takes"


def test_a_default_length_that_the_model_cannot_make_is_shortened_and_says_so(post: Any, job_of: Any) -> None:
    response = post({"prompt": "a dog", "model": "short"})
    assert job_of(response).plan.num_frames == 17
    (choice,) = response.json()["metadata"]["vitascope"]["choices"]
    assert (choice["name"], choice["value"]) == ("seconds", "2.125")
    refused = error_of(post({"prompt": "a dog", "model": "short", "seconds": "4"}))
    assert refused["param"] == "seconds"
    assert "nearest legal value is 2.125" in refused["message"]


def test_an_unknown_model_falls_back_and_says_so(post: Any) -> None:
    body = post({"prompt": "a dog", "model": "sora-9"}).json()
    assert body["model"] == "small"
    assert body["metadata"]["vitascope"]["choices"][0]["reason"] == "there is no model `sora-9` here"


def test_conflicting_fields_have_one_answer_and_say_so(post: Any, job_of: Any) -> None:
    response = post({"prompt": "a", "size": "128x96", "width": 64, "num_frames": 9, "seconds": 4})
    plan = job_of(response).plan
    assert (plan.width, plan.height, plan.num_frames) == (128, 96, 9)
    names = [choice["name"] for choice in response.json()["metadata"]["vitascope"]["choices"]]
    assert {"size", "num_frames"} <= set(names)


@pytest.mark.parametrize(
    "sent",
    [
        {"json": {"input_reference": DATA_URL}},
        {"json": {"input_reference": {"image_url": DATA_URL}}},
        {"json": {"image": base64.b64encode(PNG).decode()}},
        {"data": {"input_reference[image_url]": DATA_URL}},
        {"files": {"input_reference": ("a.mp4", PNG, "video/mp4")}},  # content counts, not its label
        {"files": {"image": ("upload", PNG), "input_reference": ("", b"")}},
        {"files": {"input_reference": (None, DATA_URL)}},
    ],
    ids=range(7),
)
def test_a_picture_may_come_in_many_ways(post: Any, job_of: Any, server: Any, sent: dict[str, Any]) -> None:
    if "json" in sent:
        response = post(json={"prompt": "a", **sent["json"]})
    else:
        response = post(data={"prompt": "a", **sent.get("data", {})}, files=sent.get("files"))
    job = job_of(response)
    with Image.open(server.files.path_for(job.plan.image)) as stored:
        assert stored.format == "PNG"


def huge_png() -> bytes:
    """A PNG that says it is 100,000 x 100,000 pixels."""
    return PNG[:16] + (100_000).to_bytes(4, "big") * 2 + PNG[24:]


BAD_VALUES: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": None}, "prompt", "what the video shows"),
    ({"prompt": ""}, "prompt", "what the video shows"),
    ({"prompt": "  \n"}, "prompt", "what the video shows"),
    ({"prompt": 5}, "prompt", "must be text"),
    ({"prompt": ["a"]}, "prompt", "must be text"),
    ({"prompt": "a\x00b"}, "prompt", "NUL"),
    ({"prompt": "\ud800"}, "prompt", "halves of characters"),
    ({"prompt": "x" * 32_001}, "prompt", "32001 characters long"),
    ({"negative_prompt": "x" * 32_001}, "negative_prompt", "32001 characters long"),
    ({"seconds": "four"}, "seconds", "must be a number"),
    ({"seconds": "0"}, "seconds", "nearest legal value is 1"),
    ({"seconds": -4}, "seconds", "must be between 1 and 60 seconds"),
    ({"seconds": "61"}, "seconds", "nearest legal value is 60"),
    ({"seconds": 1e300}, "seconds", "out of range"),
    ({"seconds": "1e9"}, "seconds", "nearest legal value is 60"),
    ({"seconds": "nan"}, "seconds", "must be a number"),
    ({"seconds": "Infinity"}, "seconds", "must be a number"),
    ({"seconds": True}, "seconds", "must be a number"),
    ({"seconds": {"a": 1}}, "seconds", "must be a number"),
    ({"seconds": "\u0661"}, "seconds", "must be a number"),
    ({"duration": 99}, "duration", "nearest legal value is 60"),
    ({"num_frames": 0}, "num_frames", "nearest legal value is 1"),
    ({"num_frames": 10**4000}, "num_frames", "64 bits"),
    ({"num_frames": "9" * 399}, "num_frames", "64 bits"),
    ({"num_frames": 1.5}, "num_frames", "whole number"),
    ({"num_frames": "1_0"}, "num_frames", "whole number"),
    ({"fps": 0}, "fps", "nearest legal value is 1"),
    ({"fps": 2**63}, "fps", "nearest legal value is 60"),
    ({"size": "big"}, "size", "WIDTHxHEIGHT"),
    ({"size": "1281x720"}, "size", "its width must be an even number"),
    ({"size": "1280x721"}, "size", "nearest legal value is '1280x720'"),
    ({"size": "33x33"}, "size", "nearest legal value is '32x32'"),
    ({"size": "0x0"}, "size", "must be an even number"),
    ({"size": 720}, "size", "must be text"),
    ({"width": 5000}, "width", "nearest legal value is 4096"),
    ({"height": "x"}, "height", "whole number"),
    ({"steps": 0}, "steps", "from 1 to 100"),
    ({"num_inference_steps": 101}, "num_inference_steps", "nearest legal value is 100"),
    ({"guidance_scale": 0.5}, "guidance_scale", "from 1 to 20"),
    ({"scheduler": "Nope"}, "scheduler", "UniPCMultistepScheduler"),
    ({"seed": -1}, "seed", "nearest legal value is 0"),
    ({"seed": 2**63}, "seed", "nearest legal value"),
    ({"n": 11}, "n", "nearest legal value is 10"),
    ({"n": 0}, "n", "nearest legal value is 1"),
    ({"n": -1}, "n", "from 1 to 10"),
    ({"n": "two"}, "n", "whole number"),
    ({"output_format": "avi"}, "output_format", "mp4"),
    ({"model": 5}, "model", "must be text"),
    ({"model": "x" * 300}, "model", "300 characters long"),
    ({"user": "x" * 300}, "user", "300 characters long"),
    ({"user": "\x00"}, "user", "NUL"),
    ({"metadata": 5}, "metadata", "must be an object"),
    ({"metadata": "{"}, "metadata", "must be an object"),
    ({"metadata": "[" * 20_000}, "metadata", "must be an object"),
    ({"metadata": "NaN"}, "metadata", "must be an object"),
    ({"metadata": '{"a": NaN}'}, "metadata", "numbers that JSON does not have"),
    ({"metadata": '{"a": 1e999}'}, "metadata", "numbers that JSON does not have"),
    ({"metadata": {"a": "\x00"}}, "metadata", "NUL"),
    ({"metadata": {"\ud800": 1}}, "metadata", "halves of characters"),
    ({"metadata": {"a": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}}, "metadata", "nested too deeply"),
    ({"metadata": {"a": 10**30}}, "metadata", "64 bits"),
    ({"metadata": {"a": "x" * 70_000}}, "metadata", "too long"),
    ({"input_reference": "https://127.1/a.png"}, "input_reference", "its host must be a name"),
    ({"input_reference": {"image_url": "http://a@b.example/a"}}, "input_reference[image_url]", "user name"),
    ({"input_reference": {"file_id": "file_1"}}, "input_reference[file_id]", "no file has this id"),
    ({"input_reference": {}}, "input_reference[image_url]", "must be a URL"),
    ({"input_reference": 5}, "input_reference", "must be a file"),
    ({"input_reference": "data:image/png,abc"}, "input_reference", "must hold base64"),
    ({"input_reference": "data:image/png;base64,"}, "input_reference", "must hold a file"),
    ({"input_reference": "%%%"}, "input_reference", "must be an http, https or data: URL"),
    ({"input_reference": "ü"}, "input_reference", "must be an http, https or data: URL"),
    ({"image": "aGVsbG8="}, "image", "cannot be read"),
    ({"image": base64.b64encode(PNG[:40]).decode()}, "image", "cannot be read"),
    ({"image": base64.b64encode(huge_png()).decode()}, "image", "cannot be read"),
    ({"image": DATA_URL, "input_reference": DATA_URL}, "image", "must not be given beside"),
    ({"image": DATA_URL, "model": "short"}, "image", "from text only"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "words"), BAD_VALUES, ids=range(len(BAD_VALUES)))
def test_a_bad_value_is_refused_exactly(
    post: Any, server: Any, fields: dict[str, Any], param: str, words: str
) -> None:
    before = server.store.queue_stats().queued
    content = json.dumps({"prompt": "a dog", **fields}).encode()
    error = error_of(post(content=content, headers=JSON))
    assert (error["param"], error["code"]) == (param, "invalid_parameter")
    assert words in error["message"]
    assert server.store.queue_stats().queued == before
    assert len(error["message"]) < 400


BAD_BODIES: list[tuple[bytes, dict[str, str], int, str]] = [
    (b"", JSON, 400, "unreadable_body"),
    (b"{", JSON, 400, "unreadable_body"),
    (b"[]", JSON, 400, "unreadable_body"),
    (b"null", JSON, 400, "unreadable_body"),
    (b'"text"', JSON, 400, "unreadable_body"),
    (b'{"prompt": "\xff"}', JSON, 400, "unreadable_body"),
    (b'{"prompt": "a", "seconds": NaN}', JSON, 400, "unreadable_body"),
    (b'{"prompt": "a", "seconds": -Infinity}', JSON, 400, "unreadable_body"),
    (b'{"prompt": "a", "seconds": 1e999}', JSON, 400, "unreadable_body"),
    (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", JSON, 400, "unreadable_body"),
    (b'{"a":' * 100_000, JSON, 400, "unreadable_body"),
    (b"[" * 100_000 + b"]" * 100_000, JSON, 400, "unreadable_body"),
    (b'{"prompt": "a", "prompt": "b"}', JSON, 400, "invalid_parameter"),
    (b"prompt=a", {"content-type": "text/plain"}, 415, "unsupported_content_type"),
    (b"\x80\x04K\x01.", {"content-type": "application/x-pickle"}, 415, "unsupported_content_type"),
    (b"prompt=%ff", {"content-type": "application/x-www-form-urlencoded"}, 400, "unreadable_body"),
    (b"a=1&" * 2000, {"content-type": "application/x-www-form-urlencoded"}, 400, "unreadable_body"),
    (b"prompt=a&prompt=b", {"content-type": "application/x-www-form-urlencoded"}, 400, "invalid_parameter"),
    (form(('name="prompt"', b"a")), {"content-type": "multipart/form-data"}, 400, "unreadable_body"),
    (form(('name="prompt"', b"a")), {"content-type": "multipart/form-data; boundary="}, 400, "unreadable_body"),
    (form(('name="prompt"', b"a")), {"content-type": "multipart/form-data; boundary=c"}, 400, "unreadable_body"),
    (b"", FORM, 400, "unreadable_body"),
    (b"junk", FORM, 400, "unreadable_body"),
    (form(('name="prompt"', b"a"))[:-6], FORM, 400, "unreadable_body"),
    (form(('name="prompt"', b"\xff")), FORM, 400, "unreadable_body"),
    (form(('filename="x"', b"a")), FORM, 400, "unreadable_body"),
    (form(*[(f'name="f{n}"', b"a") for n in range(1100)]), FORM, 400, "unreadable_body"),
    (form((f'name="{"x" * 3000}"', b"a")), FORM, 400, "unreadable_body"),
    (form(('name="prompt"', b"a"), ('name="prompt"', b"b")), FORM, 400, "invalid_parameter"),
    (form(('name="metadata"', b"{}"), ('name="metadata[a]"', b"b")), FORM, 400, "invalid_parameter"),
    (form(('name="metadata[a]"', b"b"), ('name="metadata"', b"{}")), FORM, 400, "invalid_parameter"),
    (form(('name="prompt"; filename="x"', b"a dog")), FORM, 400, "invalid_parameter"),
    (form(('name="prompt"', b"a"), ('name="metadata[a]"; filename="x"', b"b")), FORM, 400, "invalid_parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "status", "code"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_body_that_cannot_be_read_is_refused(
    post: Any, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    assert error_of(post(content=body, headers=headers), status)["code"] == code


def test_noise_never_makes_a_500(post: Any) -> None:
    """Good bodies with random bytes changed: whatever comes of it, the server stays polite."""
    dice = random.Random(7)
    whole = form(
        ('name="prompt"', b"a dog"), ('name="metadata[a]"', b"b"), ('name="image"; filename="x"', PNG)
    )
    bodies = [
        (whole, FORM),
        (json.dumps({"prompt": "a", "metadata": {"a": [1.5, "x"]}, "seconds": "4"}).encode(), JSON),
    ]
    for _ in range(150):
        body, headers = dice.choice(bodies)
        noisy = bytearray(body)
        for _ in range(dice.randrange(1, 6)):
            noisy[dice.randrange(len(noisy))] = dice.randrange(256)
        response = post(content=bytes(noisy), headers=headers)
        assert response.status_code in (200, 400), (response.text, bytes(noisy))


def test_a_body_over_the_limit_is_refused_while_it_is_sent(serve: Any) -> None:
    server = serve(server={"max_body_bytes": 4096})
    announced = server.client.post("/v1/videos", content=b"x" * 5000, headers=JSON)
    assert error_of(announced, 413)["code"] == "body_too_large"
    streamed = server.client.post("/v1/videos", content=(b"x" * 1000 for _ in range(10)), headers=JSON)
    assert error_of(streamed, 413)["code"] == "body_too_large"
    assert server.client.post("/v1/videos", json={"prompt": "a dog"}).status_code == 200


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=-1", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=" + "9" * 399, "limit"),
        ("order=up", "order"),
        ("after=video_00000000000000000000000000", "after"),
        ("after=elsewhere", "after"),
        ("after=%00", "after"),
    ],
)
def test_a_bad_page_is_refused(server: Any, query: str, param: str) -> None:
    assert error_of(server.client.get(f"/v1/videos?{query}"))["param"] == param


def test_an_unknown_end_of_a_page_is_named_as_it_was_sent(server: Any) -> None:
    video_id = "video_" + "0" * 26
    error = error_of(server.client.get(f"/v1/videos?after={video_id}"))
    assert error["message"] == f"`after` is '{video_id}', but no video has this id."


def test_pages_have_their_ends(server: Any, post: Any) -> None:
    made = post({"prompt": "a dog"}).json()["id"]
    page = server.client.get("/v1/videos?limit=1").json()
    assert (page["object"], page["first_id"], page["last_id"]) == ("list", made, made)
    nothing = server.client.get("/v1/videos?limit=0").json()
    assert (nothing["data"], nothing["first_id"], nothing["last_id"], nothing["has_more"]) == (
        [],
        None,
        None,
        True,
    )


@pytest.mark.parametrize(
    "video_id",
    ["video_", "video_1", "00000000000000000000000000", "video_" + "0" * 26, "video_" + "u" * 26, "x" * 3000, "%00", "%ff", "..%2f"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_id_is_not_found(server: Any, method: str, video_id: str) -> None:
    response = server.client.request(method, f"/v1/videos/{video_id}")
    assert error_of(response, 404)["code"] in ("video_not_found", "not_found")
    assert error_of(server.client.get(f"/v1/videos/{video_id}/content"), 404)


def test_unknown_routes_and_methods_have_the_envelope(server: Any) -> None:
    assert error_of(server.client.get("/v1/nothing"), 404)["code"] == "not_found"
    assert error_of(server.client.put("/v1/videos"), 405)["code"] == "method_not_allowed"


@pytest.fixture(scope="module")
def video(serve: Any) -> tuple[httpx.Client, str, bytes]:
    """A finished video: a client, the path of its content, and the content."""
    server = serve()
    made = server.client.post("/v1/videos", json={"prompt": "a dog"}).json()["id"]
    server.finish(server.claim())
    path = f"/v1/videos/{made}/content"
    return server.client, path, server.client.get(path).content


class TestContent:
    def test_the_whole_file_has_its_validators(self, video: Any) -> None:
        client, path, content = video
        whole = client.get(path, headers={"accept": "application/binary"})
        assert (whole.status_code, len(content)) == (200, 256 * 40)
        assert whole.headers["content-type"] == "video/mp4"
        assert whole.headers["etag"] == '"c0ffee"'
        assert whole.headers["accept-ranges"] == "bytes"
        assert whole.headers["content-disposition"].endswith('.mp4"')
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(content))

    @pytest.mark.parametrize(
        ("wanted", "start", "end"),
        [("bytes=0-99", 0, 100), ("bytes=100-", 100, 10240), ("bytes=-10", 10230, 10240), ("bytes=10000-99999", 10000, 10240)],
    )  # fmt: skip
    def test_ranges(self, video: Any, wanted: str, start: int, end: int) -> None:
        client, path, content = video
        part = client.get(path, headers={"range": wanted})
        assert (part.status_code, part.content) == (206, content[start:end])
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/10240"

    def test_a_range_beyond_the_end_is_refused_in_the_envelope(self, video: Any) -> None:
        client, path, _ = video
        response = client.get(path, headers={"range": "bytes=20000-"})
        assert error_of(response, 416)["code"] == "invalid_range"
        assert response.headers["content-range"] == "bytes */10240"
        assert error_of(client.get(path, headers={"range": "lines=1-2"}))["code"] == "invalid_range"

    def test_a_range_of_another_file_gives_the_whole(self, video: Any) -> None:
        client, path, content = video
        asked = {"range": "bytes=0-99"}
        assert client.get(path, headers={**asked, "if-range": '"c0ffee"'}).status_code == 206
        other = client.get(path, headers={**asked, "if-range": '"other"'})
        assert (other.status_code, other.content) == (200, content)

    def test_other_variants_are_refused_clearly(self, video: Any) -> None:
        client, path, _ = video
        error = error_of(client.get(f"{path}?variant=poster"))
        assert error["param"] == "variant"
        assert "one of video, thumbnail, spritesheet" in error["message"]

    def test_a_file_that_is_gone_is_an_error_without_paths(self, serve: Any) -> None:
        server = serve()
        made = server.client.post("/v1/videos", json={"prompt": "a dog"}).json()["id"]
        lease = server.claim()
        server.finish(lease)
        server.files.delete(f"videos/{lease.job.id}.mp4")
        error = error_of(server.client.get(f"/v1/videos/{made}/content"), 500)
        assert error["code"] == "storage_error"
        assert str(server.folder) not in error["message"]


def test_a_gif_is_a_gif(serve: Any) -> None:
    server = serve()
    made = server.client.post("/v1/videos", json={"prompt": "a dog", "output_format": "GIF"}).json()["id"]
    server.finish(server.claim())
    assert server.client.get(f"/v1/videos/{made}/content").headers["content-type"] == "image/gif"


def test_pictures_of_refused_requests_are_not_kept(serve: Any) -> None:
    server = serve(store={"max_queued": 1})
    picture = io.BytesIO(PNG)
    server.client.post("/v1/videos", json={"prompt": "a dog"})
    refused = server.client.post("/v1/videos", data={"prompt": "a"}, files={"image": picture})
    assert error_of(refused, 429)["code"] == "queue_full"
    named = {
        "data": {"prompt": "a"},
        "files": {"image": io.BytesIO(PNG)},
        "headers": {"Idempotency-Key": "a"},
    }
    assert error_of(server.client.post("/v1/videos", **named), 429)["code"] == "queue_full"
    assert list((server.settings.files_folder / "inputs").iterdir()) == []

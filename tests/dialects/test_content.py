"""Downloads behave the same wherever the file is: one class, run on a folder and on a real S3 server."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from PIL import Image

import seaweed
from vitascope.dialects._http import ranges
from vitascope.domain.video import Video
from vitascope.service.keys import Keys
from waiting import eventually

CONTENT = bytes(range(256)) * 40
SIZE = len(CONTENT)
ETAG = '"c0ffee"'


@dataclass
class Finished:
    """A finished video: its server, its native object, and its content."""

    server: Any
    job: dict[str, Any]
    content: bytes

    @property
    def client(self) -> httpx.Client:
        client: httpx.Client = self.server.client
        return client


def finish(server: Any, num_videos: int = 1) -> Finished:
    asked = {"prompt": "a dog", "num_videos": num_videos}
    made = server.client.post("/api/v1/jobs", json=asked).json()["id"]
    server.finish(server.claim())
    job = server.client.get(f"/api/v1/jobs/{made}").json()
    return Finished(server, job, CONTENT)


@pytest.fixture(scope="module", params=["local", "s3"])
def finished(request: pytest.FixtureRequest, serve: Callable[..., Any]) -> Finished:
    if request.param == "local":
        return finish(serve(), num_videos=2)
    server: seaweed.Server = request.getfixturevalue("s3_server")
    return finish(serve(storage=server.settings()), num_videos=2)


@dataclass
class File:
    """A finished file, and what is known of it."""

    path: str
    media_type: str
    #: End of it.
    name: str
    #: Which of the job's files.
    number: int

    @property
    def content(self) -> bytes:
        return CONTENT[self.number :] + CONTENT[: self.number]

    @property
    def etag(self) -> str:
        return f'"c0ffee{self.number or ""}"'


WAYS = [
    "native",
    "openai",
    "signed",
    "native sheet",
    "openai thumbnail",
    "openai second",
    "signed second thumbnail",
]


@pytest.fixture(params=WAYS)
def file(request: pytest.FixtureRequest, finished: Finished) -> File:
    """The three ways to a file, and to the others of a job."""
    first, second = finished.job["videos"]
    openai = f"/v1/videos/video_{finished.job['id']}/content"
    mp4, webp, jpeg = "video/mp4", "image/webp", "image/jpeg"
    ways = {
        "native": File(first["url"], mp4, "-1.mp4", 0),
        "openai": File(openai, mp4, "-1.mp4", 0),
        "signed": File(first["signed_url"], mp4, "-1.mp4", 0),
        "native sheet": File(first["spritesheet"]["url"], jpeg, "-1-spritesheet.jpg", 2),
        "openai thumbnail": File(f"{openai}?variant=thumbnail", webp, "-1-thumbnail.webp", 1),
        "openai second": File(f"{openai}?index=1", mp4, "-2.mp4", 3),
        "signed second thumbnail": File(second["thumbnail"]["signed_url"], webp, "-2-thumbnail.webp", 4),
    }
    return ways[request.param]


class TestContent:
    def test_the_whole_file_has_its_validators(self, finished: Finished, file: File) -> None:
        whole = finished.client.get(file.path)
        assert (whole.status_code, whole.content) == (200, file.content)
        assert whole.headers["content-type"] == file.media_type
        assert whole.headers["content-length"] == str(SIZE)
        assert whole.headers["etag"] == file.etag
        assert whole.headers["accept-ranges"] == "bytes"
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", whole.headers["last-modified"])
        name = re.escape(file.name)
        assert re.fullmatch(rf'attachment; filename="\w+{name}"', whole.headers["content-disposition"])
        assert "content-range" not in whole.headers

    @pytest.mark.parametrize("wanted", [{}, {"range": "bytes=0-99"}, {"range": "bytes=0-1,4-5"}])
    def test_head_is_get_without_the_file(
        self, finished: Finished, file: File, wanted: dict[str, str]
    ) -> None:
        get, head = (finished.client.request(method, file.path, headers=wanted) for method in ("GET", "HEAD"))
        assert (head.status_code, head.content) == (get.status_code, b"")
        for answer in (get, head):
            for name in ("date", "x-request-id"):
                answer.headers.pop(name, None)
            kind = answer.headers["content-type"]
            answer.headers["content-type"] = re.sub("boundary=.*", "boundary=b", kind)
        assert dict(head.headers) == dict(get.headers)

    @pytest.mark.parametrize(
        ("wanted", "start", "end"),
        [
            ("bytes=0-99", 0, 100),
            ("bytes=100-", 100, SIZE),
            ("bytes=-10", SIZE - 10, SIZE),
            ("bytes=-99999", 0, SIZE),
            ("bytes=10000-99999", 10000, SIZE),
            ("bytes=0-0", 0, 1),
            (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
            ("Bytes = 5 - 6", 5, 7),
            ("bytes=0-4,2-9,10-11", 0, 12),  # they overlap or touch: one range
            ("bytes=0-4,20000-", 0, 5),  # what is not there is left out
        ],
    )
    def test_a_range(self, finished: Finished, file: File, wanted: str, start: int, end: int) -> None:
        part = finished.client.get(file.path, headers={"range": wanted})
        assert part.status_code == 206
        if part.headers["content-type"] == file.media_type:
            assert part.content == file.content[start:end]
            assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
        assert part.headers["content-length"] == str(len(part.content))
        assert part.headers["etag"] == file.etag

    def test_several_ranges_come_as_parts(self, finished: Finished, file: File) -> None:
        answer = finished.client.get(file.path, headers={"range": "bytes=100-199, 0-9,-5"})
        assert answer.status_code == 206
        boundary = answer.headers["content-type"].removeprefix("multipart/byteranges; boundary=").encode()
        parts = answer.content.split(b"--" + boundary)
        assert (parts[0], parts[-1]) == (b"", b"--")
        for part, (start, end) in zip(parts[1:-1], [(0, 10), (100, 200), (SIZE - 5, SIZE)], strict=True):
            head, _, body = part.partition(b"\r\n\r\n")
            assert f"Content-Range: bytes {start}-{end - 1}/{SIZE}".encode() in head
            assert body == file.content[start:end] + b"\r\n"
        assert answer.headers["content-length"] == str(len(answer.content))

    @pytest.mark.parametrize(
        "wanted", [f"bytes={SIZE}-", "bytes=20000-30000", "bytes=-0", "bytes=20000-,30000-"]
    )
    def test_a_range_beyond_the_end_is_416(self, finished: Finished, file: File, wanted: str) -> None:
        for method in ("GET", "HEAD"):
            answer = finished.client.request(method, file.path, headers={"range": wanted})
            assert answer.status_code == 416
            assert answer.headers["content-range"] == f"bytes */{SIZE}"
            assert "etag" not in answer.headers

    @pytest.mark.parametrize(
        "wanted", ["lines=1-2", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=9-1", "bytes=1"]
    )
    def test_what_is_no_range_is_refused(self, finished: Finished, file: File, wanted: str) -> None:
        answer = finished.client.get(file.path, headers={"range": wanted})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]

    def test_a_range_of_another_file_gives_the_whole(self, finished: Finished, file: File) -> None:
        modified = finished.client.head(file.path).headers["last-modified"]
        for condition, status in (
            (file.etag, 206),
            (modified, 206),
            ('"other"', 200),
            (f"W/{file.etag}", 200),
            ("junk", 200),
        ):
            answer = finished.client.get(file.path, headers={"range": "bytes=5-9", "if-range": condition})
            assert answer.status_code == status, condition
            assert answer.content == (file.content[5:10] if status == 206 else file.content)
        beyond = {"range": "bytes=20000-", "if-range": '"other"'}
        assert finished.client.get(file.path, headers=beyond).status_code == 200

    @pytest.mark.parametrize(
        ("known", "status"), [("ETAG", 304), ('"x", W/ETAG', 304), ("*", 304), ('"x"', 200)]
    )
    def test_what_is_unchanged_is_not_sent(
        self, finished: Finished, file: File, known: str, status: int
    ) -> None:
        for method in ("GET", "HEAD"):
            answer = finished.client.request(
                method,
                file.path,
                headers={"if-none-match": known.replace("ETAG", file.etag), "range": "bytes=0-"},
            )
            assert answer.status_code == (206 if status == 200 else status)
            assert answer.headers["etag"] == file.etag
            assert status == 200 or answer.content == b""

    def test_too_many_ranges_give_the_whole(self, finished: Finished, file: File) -> None:
        many = ",".join(f"{2 * n}-{2 * n}" for n in range(ranges.MAX_RANGES + 1))
        assert finished.client.get(file.path, headers={"range": f"bytes={many}"}).content == file.content

    def test_a_client_that_leaves_harms_nobody(self, finished: Finished, file: File) -> None:
        for _ in range(5):
            with finished.client.stream("GET", file.path) as answer:
                next(answer.iter_raw(10))
        assert finished.client.get(file.path).content == file.content


class TestGone:
    @pytest.fixture(params=["local", "s3"])
    def mine(self, request: pytest.FixtureRequest, serve: Callable[..., Any]) -> Finished:
        if request.param == "local":
            return finish(serve())
        return finish(serve(storage=request.getfixturevalue("s3_server").settings()))

    def test_a_file_that_is_gone_is_an_error_without_paths(self, mine: Finished) -> None:
        mine.server.files.delete(f"videos/{mine.job['id']}.mp4")
        for path in (mine.job["video"]["url"], mine.job["video"]["signed_url"]):
            answer = mine.client.get(path)
            assert answer.status_code == 500
            error = answer.json()["error"]
            assert error["code"] == "storage_error"
            assert str(mine.server.folder) not in error["message"]

    def test_a_deleted_job_takes_its_file_and_its_links(self, mine: Finished) -> None:
        link, path = mine.job["video"]["signed_url"], mine.job["video"]["url"]
        assert mine.client.get(link).status_code == 200
        assert mine.client.delete(f"/api/v1/jobs/{mine.job['id']}").status_code == 204
        assert mine.client.get(path).status_code == 404
        assert mine.client.get(link).json()["error"]["code"] == "link_not_found"
        assert list(mine.server.files.files_in("videos")) == []


@pytest.fixture(scope="module")
def closed(serve: Callable[..., Any]) -> Finished:
    """A server with keys; the video is of one of them."""
    server = serve(storage={"link_seconds": 3600})
    _, secret = Keys(server.store).create("owner")
    server.client.headers["authorization"] = f"Bearer {secret}"
    eventually(lambda: httpx.get(f"{server.url}/api/v1/jobs", trust_env=False).status_code == 401)
    return finish(server)


class TestSignedLinks:
    def test_who_has_one_needs_no_key(self, closed: Finished) -> None:
        link = closed.job["video"]["signed_url"]
        assert link.startswith(f"{closed.server.url}/files/")
        assert httpx.get(link, trust_env=False).content == closed.content
        assert httpx.get(link, headers={"authorization": "Bearer wrong"}, trust_env=False).status_code == 200
        assert (
            httpx.get(f"{closed.server.url}{closed.job['video']['url']}", trust_env=False).status_code == 401
        )

    def test_whatever_is_wrong_is_the_same_404(self, closed: Finished) -> None:
        link = closed.job["video"]["signed_url"]
        start, _, token = link.rpartition("/")
        job_id, output, end, mac, suffix = token.split(".")
        wrong = [
            f"{job_id}.{output}.{int(end) + 3600}.{mac}.{suffix}",
            f"{job_id}.1.{end}.{mac}.{suffix}",
            f"{job_id}.{output}.{end}.{mac[::-1]}.{suffix}",
            f"{job_id}.{output}.{end}.{mac}.gif",
            f"{closed.job['id'][::-1]}.{output}.{end}.{mac}.{suffix}",
            "a",
            "%2e%2e%2fsecrets.key",
        ]
        answers = [httpx.get(f"{start}/{one}", trust_env=False) for one in wrong]
        assert {answer.status_code for answer in answers} == {404}
        assert {answer.json()["error"]["code"] for answer in answers[:-1]} == {"link_not_found"}
        assert len({answer.text for answer in answers[:-1]}) == 1

    def test_the_end_is_told_and_kept(self, closed: Finished) -> None:
        end = datetime.fromisoformat(closed.job["video"]["signed_url_expires_at"])
        assert timedelta(minutes=59) < end - datetime.now(UTC) < timedelta(minutes=61)
        assert f".{int(end.timestamp())}." in closed.job["video"]["signed_url"]

    def test_links_begin_with_the_public_url(self, serve: Callable[..., Any]) -> None:
        public = finish(serve(server={"public_url": "https://videos.example/v/"}))
        assert public.job["video"]["signed_url"].startswith("https://videos.example/v/files/")

    def test_links_begin_as_the_job_was_made(self, closed: Finished) -> None:
        url = closed.server.url.replace("127.0.0.1", "localhost")
        headers = closed.client.headers
        seen = httpx.get(f"{url}/api/v1/jobs/{closed.job['id']}", headers=headers, trust_env=False).json()
        assert seen["video"]["signed_url"].startswith(closed.server.url)


@pytest.fixture(scope="module")
def sent_on(serve: Callable[..., Any], s3_server: seaweed.Server) -> Finished:
    return finish(serve(storage=s3_server.settings(content="redirect")))


class TestRedirect:
    def test_get_is_sent_to_the_storage(self, sent_on: Finished, s3_server: seaweed.Server) -> None:
        for path in (sent_on.job["video"]["url"], sent_on.job["video"]["signed_url"]):
            answer = sent_on.client.get(path, headers={"range": "bytes=1-2"})
            assert (answer.status_code, answer.content) == (302, b"")
            assert answer.headers["location"].startswith(s3_server.endpoint)
            assert "no-store" in answer.headers["cache-control"]
            followed = sent_on.client.get(path, follow_redirects=True)
            assert (followed.status_code, followed.content) == (200, sent_on.content)
            assert followed.headers["content-type"] == "video/mp4"
            part = sent_on.client.get(path, headers={"range": "bytes=5-9"}, follow_redirects=True)
            assert (part.status_code, part.content) == (206, sent_on.content[5:10])

    def test_so_are_pictures(self, sent_on: Finished) -> None:
        for number, (name, kind) in enumerate(
            [("thumbnail", "image/webp"), ("spritesheet", "image/jpeg")], 1
        ):
            path = sent_on.job["video"][name]["url"]
            assert sent_on.client.get(path).status_code == 302
            followed = sent_on.client.get(path, follow_redirects=True)
            assert followed.content == CONTENT[number:] + CONTENT[:number]
            assert followed.headers["content-type"] == kind

    def test_what_needs_no_file_is_answered_here(self, sent_on: Finished) -> None:
        path = sent_on.job["video"]["url"]
        head = sent_on.client.head(path)
        assert (head.status_code, head.headers["content-length"]) == (200, str(SIZE))
        assert sent_on.client.get(path, headers={"if-none-match": ETAG}).status_code == 304

    def test_a_folder_has_no_addresses(self, serve: Callable[..., Any]) -> None:
        local = finish(serve(storage={"content": "redirect"}))
        assert local.client.get(local.job["video"]["url"]).status_code == 200


class TestAway:
    """An object storage that does not answer: nothing is promised, nothing is lost, and clients know to come again."""

    @pytest.fixture
    def away(self, serve: Callable[..., Any]) -> Any:
        bucket = {"kind": "s3", "url": "s3://bucket", "endpoint": "http://127.0.0.1:9"}
        return serve(storage={**bucket, "access_key_id": "a", "secret_access_key": "b"})

    def test_what_needs_no_file_goes_on(self, away: Any) -> None:
        made = away.client.post("/api/v1/jobs", json={"prompt": "a dog"})
        assert made.status_code == 201
        assert away.client.delete(f"/api/v1/jobs/{made.json()['id']}").status_code == 204

    def test_a_picture_that_cannot_be_kept_makes_no_job(self, away: Any) -> None:
        picture = io.BytesIO()
        Image.new("RGB", (96, 64)).save(picture, "PNG")
        for path, field in (("/api/v1/jobs", "image"), ("/v1/videos", "input_reference")):
            sent = {"files": {field: ("a.png", picture.getvalue(), "image/png")}, "data": {"prompt": "a dog"}}
            answer = away.client.post(path, **sent)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["error"]["code"] == "storage_unavailable"
            assert "127.0.0.1" not in answer.text
        assert away.client.get("/api/v1/jobs").json()["jobs"] == []

    def test_a_download_is_503(self, away: Any) -> None:
        job_id = away.client.post("/api/v1/jobs", json={"prompt": "a dog"}).json()["id"]
        lease = away.claim()
        size = {"height": 64, "width": 96, "num_frames": 17, "fps": 8}
        video = Video(key="videos/a.mp4", media_type="video/mp4", num_bytes=1, sha256="c0ffee", **size)
        away.store.succeed(lease, [video], {"choices": [], "seconds": {}}, device="cpu")
        job = away.client.get(f"/api/v1/jobs/{job_id}").json()
        for path in (job["video"]["url"], f"/v1/videos/video_{job_id}/content", job["video"]["signed_url"]):
            answer = away.client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
            assert int(answer.headers["retry-after"]) > 0
        assert away.client.delete(f"/api/v1/jobs/{job_id}").status_code == 204

"""update_s3 and reset_s3 over HTTP: what of the vendor's details is the bucket, what is refused, where links lead then."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

import seaweed
from tests.dialects.conftest import content_of
from vitascope import app
from vitascope.dialects._enterprise.management.storage import Place, place_of
from vitascope.domain.access import Scope
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.video import stored_keys
from vitascope.service.keys import Keys
from vitascope.storage import S3Storage

ENTERPRISE, VIDEO = "/api/v1/enterprise", "/api/v1/enterprise/video"
OUTBOUND = {"allow": ["127.0.0.1"]}
ACCOUNT = "0123456789abcdef0123456789abcdef"


def details(s3: seaweed.Server, **other: Any) -> dict[str, Any]:
    """What the vendor's clients send, in its own words."""
    return {
        "key": "",
        "deploy_type": "video",
        "public_url": "",
        "region_name": "us-east-1",
        "endpoint_url": f"{s3.endpoint}/{seaweed.BUCKET}",
        "aws_access_key_id": seaweed.KEY,
        "aws_secret_access_key": seaweed.SECRET,
        "image_directory": s3.prefix(),
        **other,
    }


def post(server: Any, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    answer = server.client.post(path, json=body)
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("url", "directory", "bucket", "expected"),
    [
        # the vendor's own examples
        (
            "https://stable-diffusion-api.s3.amazonaws.com",
            "generations",
            "",
            Place("https://s3.eu-west-1.amazonaws.com", "stable-diffusion-api", "generations"),
        ),
        (
            "https://storage.googleapis.com",
            "generations",
            "",
            Place("https://storage.googleapis.com", "generations", ""),
        ),
        (
            "https://my.bucket.s3.ap-southeast-2.amazonaws.com/",
            "/a/b/",
            "",
            Place("https://s3.ap-southeast-2.amazonaws.com", "my.bucket", "a/b"),
        ),
        ("s3.amazonaws.com", "a/b", "", Place("https://s3.eu-west-1.amazonaws.com", "a", "b")),
        (
            f"https://{ACCOUNT}.r2.cloudflarestorage.com/videos",
            "a",
            "",
            Place(f"https://{ACCOUNT}.r2.cloudflarestorage.com", "videos", "a"),
        ),
        (
            "https://Space.nyc3.digitaloceanspaces.com",
            "a",
            "",
            Place("https://nyc3.digitaloceanspaces.com", "space", "a"),
        ),
        (
            "https://videos.oss-cn-hangzhou.aliyuncs.com",
            "a",
            "",
            Place("https://videos.oss-cn-hangzhou.aliyuncs.com", "videos", "a", path_style=False),
        ),
        ("http://minio:9000/b/c/", "d", "", Place("http://minio:9000", "b", "c/d")),
        ("http://minio:9000", "b/d", "", Place("http://minio:9000", "b", "d")),
        ("https://x.example/storage/v1/s3/", "d", "b", Place("https://x.example/storage/v1/s3", "b", "d")),
    ],
)
def test_the_bucket_is_found_in_what_the_vendor_asks_for(
    url: str, directory: str, bucket: str, expected: Place
) -> None:
    assert place_of(url, "eu-west-1", directory, bucket) == expected


def test_a_bucket_that_nothing_names_is_asked_for() -> None:
    with pytest.raises(InvalidParameter, match="`bucket_name` is missing"):
        place_of("https://minio.example", "eu-west-1", "")
    with pytest.raises(InvalidParameter, match="must be a URL"):
        place_of("https://[", "eu-west-1", "")


def test_new_videos_go_to_the_bucket_and_links_say_so(
    serve: Callable[..., Any], s3_server: seaweed.Server
) -> None:
    server = serve(outbound=OUTBOUND)
    sent = details(s3_server, deploy_type="text_to_image")
    status, body = post(server, f"{VIDEO}/update_s3", sent)
    assert (status, body["status"], body["message"]) == (200, "success", "S3 details updated successfully")
    assert f"`{seaweed.BUCKET}`" in body["tip"]
    assert body["tip"].endswith("; this server makes videos only")
    assert seaweed.SECRET not in str(body)
    in_use = server.store.bucket_in_use()
    assert (in_use.bucket, in_use.prefix) == (seaweed.BUCKET, sent["image_directory"])
    places = app.open_places(server.settings, server.store)
    assert places.key_for_new("videos/a.1.0.mp4") == f"{in_use.id}/a.1.0.mp4"
    for path in (f"{ENTERPRISE}/reset_s3", f"{VIDEO}/reset_s3", f"{ENTERPRISE}/reset_s3_details"):
        status, body = post(server, path, {"key": "", "deploy_type": "video"})
        assert (status, body["status"], body["message"]) == (200, "success", "S3 details reset successfully")
    assert body["tip"] == "no bucket was named"
    assert server.store.bucket_in_use() is None
    assert places.key_for_new("videos/a.1.0.mp4") == "videos/a.1.0.mp4"


@pytest.fixture
def public(s3_server: seaweed.Server) -> Iterator[str]:
    """Where anyone can read the bucket; its address."""
    behind = S3Storage(
        seaweed.BUCKET,
        endpoint=s3_server.endpoint,
        region="us-east-1",
        access_key_id=seaweed.KEY,
        secret_access_key=seaweed.SECRET,
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with behind.open(self.path.removeprefix("/public/")) as file:
                content = file.read()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}/public/"
        web.shutdown()
        thread.join()


def test_a_public_address_is_tried_and_named(
    serve: Callable[..., Any], s3_server: seaweed.Server, public: str
) -> None:
    server = serve(outbound=OUTBOUND)
    for public_url, words in (
        (public, None),
        (f"{s3_server.endpoint}/{seaweed.BUCKET}", "its server answers 403"),
        ("", "linked to through this server"),
    ):
        _, body = post(server, f"{VIDEO}/update_s3", details(s3_server, public_url=public_url))
        assert body["status"] == "success"
        assert words is None or words in body["tip"]
        in_use = server.store.bucket_in_use()
        assert ("could not read" in body["tip"]) == (words == "its server answers 403")
        assert list(server.files.files_in(in_use.id)) == []
        if words is None:
            assert server.files.public_url_for(f"{in_use.id}/a.mp4").startswith(f"{public}{in_use.prefix}/")


def test_replies_link_to_the_bucket_and_beside_it_to_this_server(
    serve: Callable[..., Any], s3_server: seaweed.Server, public: str
) -> None:
    server = serve(outbound=OUTBOUND)
    server.start_worker()

    def made() -> dict[str, Any]:
        status, body = post(server, f"{VIDEO}/text2video", {"key": "", "prompt": "a dog"})
        assert (status, body["status"]) == (200, "success"), body
        return body

    before = made()
    post(server, f"{VIDEO}/update_s3", details(s3_server, public_url=public))
    in_use = server.store.bucket_in_use()
    body = made()
    post(server, f"{VIDEO}/reset_s3", {"key": ""})
    assert before["output"] == before["proxy_links"]
    (link,), (proxy_link,) = body["output"], body["proxy_links"]
    assert link.startswith(f"{public}{in_use.prefix}/{in_use.id}/")
    assert link.endswith(".mp4")
    assert proxy_link.startswith(f"{server.url}/files/")
    assert proxy_link.endswith(".mp4")
    contents = {httpx.get(url, trust_env=False).content for url in (link, proxy_link)}
    assert contents == {content_of(0)}
    status, fetched = post(server, f"{VIDEO}/fetch/{body['id']}", {"key": ""})
    assert (status, fetched["output"]) == (200, body["output"])
    assert post(server, f"{VIDEO}/fetch/{before['id']}", {"key": ""})[1]["output"][0].startswith(server.url)


def test_a_video_in_a_bucket_is_downloaded_linked_and_deleted(
    serve: Callable[..., Any], s3_server: seaweed.Server
) -> None:
    """Through this server, by whoever fetches it, while new ones go elsewhere again."""
    server = serve(outbound=OUTBOUND)
    post(server, f"{ENTERPRISE}/update_s3", details(s3_server))
    in_use = server.store.bucket_in_use()
    job_id = server.client.post("/api/v1/jobs", json={"prompt": "a dog"}).json()["id"]
    server.finish(server.claim())
    post(server, f"{ENTERPRISE}/reset_s3", {"key": ""})
    keys = stored_keys(server.store.get(job_id).videos)
    assert [key.partition("/")[0] for key in keys] == [in_use.id] * 3
    made = server.client.get(f"/api/v1/jobs/{job_id}").json()
    for variant, number in (("video", 0), ("thumbnail", 1)):
        content = server.client.get(f"/api/v1/jobs/{job_id}/content?variant={variant}")
        assert content.content == content_of(number)
    linked = server.client.get(made["video"]["signed_url"], headers={"range": "bytes=10-19"})
    assert (linked.status_code, linked.content) == (206, content_of(0)[10:20])
    assert {file.key for file in server.files.files_in(in_use.id)} == set(keys)
    assert server.client.delete(f"/api/v1/jobs/{job_id}").status_code == 204
    assert list(server.files.files_in(in_use.id)) == []


@pytest.mark.parametrize("path", [f"{ENTERPRISE}/update_s3", f"{VIDEO}/update_s3"])
def test_what_cannot_be_used_is_refused_in_the_vendors_shape(
    serve: Callable[..., Any], s3_server: seaweed.Server, path: str
) -> None:
    server = serve(outbound=OUTBOUND)
    for changes, words in (
        ({"aws_secret_access_key": "wrong-secret"}, "refuses the credentials"),
        (
            {"aws_secret_access_key": ["wrong-secret"]},
            "`aws_secret_access_key` is given, but it must be text",
        ),
        ({"aws_secret_access_key": None}, "`aws_secret_access_key` is missing"),
        ({"aws_access_key_id": ""}, "`aws_access_key_id` is missing"),
        ({"endpoint_url": None}, "`endpoint_url` is missing"),
        ({"region_name": " "}, "`region_name` is missing"),
        ({"region_name": "a b"}, "`region_name` is 'a b'"),
        ({"public_url": "cdn.example"}, "`public_url` is 'cdn.example'"),
        ({"image_directory": "../a"}, "`image_directory` is '../a'"),
        ({"bucket_name": "Not A Bucket"}, "`bucket_name` is 'Not A Bucket'"),
        ({"bucket_name": "no-such-bucket", "endpoint_url": s3_server.endpoint}, "there is no bucket"),
        ({"endpoint_url": "https://127.0.0.2/b"}, "`endpoint_url` is 'https://127.0.0.2'"),
        ({"endpoint_url": "http://93.184.215.14/b"}, "it must begin with https://"),
        ({"endpoint_url": "ftp://host/b"}, "`endpoint_url` is 'ftp://host'"),
    ):
        status, body = post(server, path, details(s3_server, **changes))
        assert body["status"] == "error"
        assert words in body["message"]
        assert body["message"] == body["messege"]
        assert "wrong-secret" not in str(body)
        assert status == (400 if path.startswith(VIDEO) else 200)
    assert server.store.bucket_in_use() is None


def test_the_native_api_does_the_same(
    serve: Callable[..., Any], s3_server: seaweed.Server, public: str
) -> None:
    server = serve(outbound=OUTBOUND)
    by_settings = {"is_by_settings": True, "bucket": None, "warning": None}
    assert server.client.get("/api/v1/storage").json() == by_settings
    described = {
        "bucket": seaweed.BUCKET,
        "prefix": s3_server.prefix(),
        "endpoint": s3_server.endpoint,
        "access_key_id": seaweed.KEY,
        "public_url": public,
    }
    secret = {"secret_access_key": seaweed.SECRET}
    for wrong, words in (
        (described, "`secret_access_key` is missing"),
        ({**described, "secret_access_key": 12345678}, "`secret_access_key` is given"),
        ({**described, "secret_access_key": "wrong"}, "refuses the credentials"),
        ({**described, **secret, "endpoint": "http://10.0.0.1"}, "`endpoint` is"),
        ({**described, **secret, "bucket": ""}, "`bucket` is"),
        ({**described, **secret, "buckets": "a"}, "did you mean `bucket`?"),
    ):
        answer = server.client.post("/api/v1/storage", json=wrong)
        assert (answer.status_code, words in answer.text) == (400, True), answer.text
        assert "12345678" not in answer.text
    used = server.client.post("/api/v1/storage", json={**described, **secret})
    assert (used.status_code, used.json()["warning"]) == (200, None)
    shown = server.client.get("/api/v1/storage").json()
    assert shown == {**used.json(), "warning": None}
    assert described.items() <= shown["bucket"].items()
    assert shown["bucket"]["folder"] == server.store.bucket_in_use().id
    assert seaweed.SECRET not in used.text
    assert server.client.delete("/api/v1/storage").json() == by_settings
    assert server.store.bucket_in_use() is None


@pytest.mark.parametrize(("prefix", "folder"), [(ENTERPRISE, "stablediffusionapi"), (VIDEO, "modelslab")])
def test_replies_are_as_they_were(
    serve: Callable[..., Any], s3_server: seaweed.Server, prefix: str, folder: str
) -> None:
    server = serve(outbound=OUTBOUND)
    given = details(s3_server)
    found: dict[str, dict[str, Any]] = {}
    for name, call, body in (
        ("update_s3", "update_s3", given),
        ("update_s3: other kind", "update_s3", {**given, "deploy_type": "realtime"}),
        ("update_s3: wrong secret", "update_s3", {**given, "aws_secret_access_key": "wrong"}),
        ("update_s3: nothing", "update_s3", {"key": ""}),
        ("reset_s3", "reset_s3", {"key": ""}),
        ("reset_s3: again", "reset_s3", {"key": "", "deploy_type": "text_to_image"}),
    ):
        found[name] = dict(zip(("http", "reply"), post(server, f"{prefix}/{call}", body), strict=True))
    text = json.dumps(found, indent=1).replace(given["image_directory"], "DIRECTORY")
    text = re.sub(r"vitascope-[0-9a-f]{16}", "FOLDER", text)
    path = Path(__file__).parent.parent / folder / "s3.json"
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(text + "\n")
    assert json.loads(text) == json.loads(path.read_text())


def test_only_admins_may(serve: Callable[..., Any], s3_server: seaweed.Server) -> None:
    server = serve(outbound=OUTBOUND)
    keys = Keys(server.store)
    _, generate = keys.create("g")
    _, admin = keys.create("a", (Scope.ADMIN,))
    for name in ("update_s3", "reset_s3"):
        status, body = post(server, f"{VIDEO}/{name}", details(s3_server, key=generate))
        assert (status, body["code"]) == (403, "permission_denied")
        status, body = post(server, f"{VIDEO}/{name}", details(s3_server, key="wrong"))
        assert (status, body["code"]) == (401, "invalid_api_key")
    assert server.store.bucket_in_use() is None
    assert post(server, f"{ENTERPRISE}/update_s3", details(s3_server, key=admin))[1]["status"] == "success"


def test_a_server_that_goes_nowhere_takes_no_bucket(
    serve: Callable[..., Any], s3_server: seaweed.Server
) -> None:
    server = serve(outbound={"enabled": False})
    _, body = post(server, f"{ENTERPRISE}/update_s3", details(s3_server))
    assert "URLs are not called by this server" in body["message"]

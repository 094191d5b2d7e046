"""What every storage does, on a folder and on a real S3 server."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import subprocess
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import seaweed
from vitascope.domain.errors import StorageError, StorageUnavailable
from vitascope.storage import LocalStorage, Places, S3Storage, Storage, s3

KEY = "videos/3f/video_3f.mp4"


def bucket(server: seaweed.Server, prefix: str, name: str = seaweed.BUCKET, **other: object) -> S3Storage:
    values = {"access_key_id": seaweed.KEY, "secret_access_key": seaweed.SECRET, **other}
    return S3Storage(name, prefix, endpoint=server.endpoint, region="us-east-1", **values)  # type: ignore[arg-type]


class Others:
    """Places beside the own one, by name."""

    def __init__(self, places: dict[str, Storage]) -> None:
        self.places = places
        self.new: str | None = None

    def open(self, name: str) -> Storage:
        return self.places[name]

    def for_new_videos(self) -> str | None:
        return self.new

    def public_url_for(self, key: str) -> str | None:
        return f"https://videos.example/{key}"

    def names(self) -> list[str]:
        return list(self.places)


@pytest.fixture(params=["local", "s3", "places"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return LocalStorage(tmp_path / "files")
    if request.param == "places":
        return Places(LocalStorage(tmp_path / "files"), Others({}))
    server: seaweed.Server = request.getfixturevalue("s3_server")
    return bucket(server, f"{server.prefix()}/below")


def made(tmp_path: Path, content: bytes = b"frames") -> Path:
    path = tmp_path / "made.mp4"
    path.write_bytes(content)
    return path


def content_of(storage: Storage, key: str) -> bytes:
    with storage.open(key) as file:
        return file.read()


class TestStorage:
    def test_put_takes_the_file_over(self, storage: Storage, tmp_path: Path) -> None:
        path = made(tmp_path)
        storage.put(path, KEY)
        assert not path.exists()
        with storage.open(KEY) as file:
            assert file.read() == b"frames"
            file.seek(2)
            assert file.read() == b"ames"
        found = storage.stat(KEY)
        assert found.num_bytes == 6
        assert abs((datetime.now(UTC) - found.written_at).total_seconds()) < 100
        storage.fetch(KEY, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"frames"

    def test_put_again_replaces(self, storage: Storage, tmp_path: Path) -> None:
        storage.put(made(tmp_path, b"first"), KEY)
        storage.put(made(tmp_path, b"second"), KEY)
        storage.put_bytes(b"third", "inputs/a.png")
        storage.put_bytes(b"fourth", "inputs/a.png")
        assert [content_of(storage, key) for key in (KEY, "inputs/a.png")] == [b"second", b"fourth"]

    def test_a_copy_is_a_file_of_its_own_and_never_in_memory(self, storage: Storage, tmp_path: Path) -> None:
        content = os.urandom(1024) * 1024 * 32
        storage.put(made(tmp_path, content), KEY)
        tracemalloc.start()
        storage.copy(KEY, "inputs/a.video")
        assert tracemalloc.get_traced_memory()[1] < len(content) * 2 / 3  # two parts, on their way to S3
        tracemalloc.stop()
        storage.delete(KEY)
        assert content_of(storage, "inputs/a.video") == content
        assert [file.key for file in storage.files_in("inputs")] == ["inputs/a.video"]
        with pytest.raises(StorageError, match="no file `videos"):
            storage.copy(KEY, "inputs/b.video")
        assert [file.key for file in storage.files_in("inputs")] == ["inputs/a.video"]

    def test_parts_are_read_as_they_are_asked_for(
        self, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for room in ("s3", "local"):
            monkeypatch.setattr(f"vitascope.storage.{room}.READ_BYTES", 100)
        content = bytes(range(256)) * 4
        storage.put(made(tmp_path, content), KEY)
        for start, end in ((0, 1024), (5, 6), (99, 301), (1000, 1024), (7, 7)):
            pieces = list(storage.read(KEY, start, end))
            assert b"".join(pieces) == content[start:end]
            assert all(len(piece) <= 100 for piece in pieces)

    def test_what_is_missing_is_said_by_its_key(self, storage: Storage, tmp_path: Path) -> None:
        acts: list[Callable[[], object]] = [
            lambda: storage.open(KEY),
            lambda: storage.stat(KEY),
            lambda: list(storage.read(KEY, 0, 1)),
            lambda: storage.fetch(KEY, tmp_path / "copy"),
            lambda: storage.put(tmp_path / "no", KEY),
        ]
        for act in acts:
            with pytest.raises(StorageError, match=r"no file `videos/3f/video_3f\.mp4`") as caught:
                act()
            assert not isinstance(caught.value, StorageUnavailable)
            assert str(tmp_path) not in caught.value.message

    def test_delete_twice_is_delete(self, storage: Storage, tmp_path: Path) -> None:
        storage.delete(KEY)
        storage.put(made(tmp_path), KEY)
        storage.delete(KEY)
        storage.delete(KEY)
        with pytest.raises(StorageError):
            storage.stat(KEY)

    def test_files_are_listed_with_their_age(self, storage: Storage) -> None:
        assert list(storage.files_in("videos")) == []
        keys = {"videos/a.1.mp4", KEY, "videos/3f/4a/b.gif"}
        for key in (*keys, "inputs/a.png", "videosandmore/c.mp4"):
            storage.put_bytes(b"content", key)
        ages = {file.key: file.age_seconds for file in storage.files_in("videos")}
        assert set(ages) == keys
        assert all(-100 < age < 100 for age in ages.values())
        assert {file.key for file in storage.files_in("inputs")} == {"inputs/a.png"}

    def test_readers_never_see_half_a_file(self, storage: Storage, tmp_path: Path) -> None:
        """Two contents of different lengths replace each other while others read."""
        contents = [bytes([number]) * (s3.PART_BYTES + 1 + number) for number in range(2)]
        seen = set()

        def look() -> None:
            for _ in range(20):
                try:
                    size = storage.stat(KEY).num_bytes
                except StorageError:
                    size = 0
                seen.add(size)

        with concurrent.futures.ThreadPoolExecutor() as pool:
            looking = pool.submit(look)
            for number in itertools.islice(itertools.cycle((0, 1)), 4):
                storage.put(made(tmp_path, contents[number]), KEY)
            looking.result()
        assert seen <= {0, *map(len, contents)}
        assert content_of(storage, KEY) == contents[1]

    @pytest.mark.parametrize(
        "key", ["", "/etc/passwd", "../a", "a//b", "a/", ".hidden", "A", "a b", "x" * 201]
    )
    def test_other_names_are_not_keys(self, storage: Storage, tmp_path: Path, key: str) -> None:
        acts: list[Callable[[], object]] = [
            lambda: storage.open(key),
            lambda: storage.stat(key),
            lambda: list(storage.read(key, 0, 1)),
            lambda: storage.path_for(key),
            lambda: storage.fetch(key, tmp_path / "copy"),
            lambda: storage.url_for(key, expires_seconds=60),
            lambda: storage.public_url_for(key),
            lambda: storage.key_for_new(key),
            lambda: storage.delete(key),
            lambda: storage.put_bytes(b"", key),
            lambda: storage.put(made(tmp_path), key),
            lambda: list(storage.files_in(key)),
        ]
        for act in acts:
            with pytest.raises(StorageError, match="not a storage key"):
                act()


class TestPlaces:
    """What only several places have."""

    def test_a_file_is_where_its_key_says(self, tmp_path: Path) -> None:
        own, first, second = (LocalStorage(tmp_path / name) for name in ("own", "first", "second"))
        others = Others({"vitascope-1": first, "vitascope-2": second})
        places = Places(own, others)
        assert places.elsewhere() == ["vitascope-1", "vitascope-2"]
        assert places.key_for_new(KEY) == KEY
        others.new = "vitascope-1"
        key = places.key_for_new(KEY)
        assert key == "vitascope-1/video_3f.mp4"
        places.put(made(tmp_path), key)
        places.put_bytes(b"own", KEY)
        assert [file.key for file in places.files_in("vitascope-1")] == [key]
        assert [file.key for file in places.files_in("videos")] == [KEY]
        assert content_of(first, key) == content_of(places, key) == b"frames"
        assert b"".join(places.read(key, 1, 3)) == b"ra"
        assert places.stat(key).num_bytes == 6
        assert (places.public_url_for(key), places.public_url_for(KEY)) == (
            f"https://videos.example/{key}",
            None,
        )
        for target in ("inputs/a.video", "vitascope-2/a.mp4"):
            places.copy(key, target)
            assert content_of(places, target) == b"frames"
        assert content_of(second, "vitascope-2/a.mp4") == b"frames"
        places.fetch("vitascope-2/a.mp4", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"frames"
        assert places.path_for(key) == first.path_for(key)
        assert places.url_for(key, expires_seconds=60) is None
        places.delete(key)
        assert list(first.files_in("vitascope-1")) == []
        assert content_of(own, KEY) == b"own"


class TestS3:
    """What only a bucket has."""

    @pytest.fixture
    def storage(self, s3_server: seaweed.Server) -> S3Storage:
        return bucket(s3_server, s3_server.prefix())

    def test_large_files_go_in_parts_and_are_compared(
        self, storage: S3Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = os.urandom(2 * s3.PART_BYTES + 12345)
        monkeypatch.setattr(storage, "_holds", lambda *_: pytest.fail("the tag was not as expected"))
        for size in (0, 1, s3.PART_BYTES, s3.PART_BYTES + 1, len(content)):
            storage.put(made(tmp_path, content[:size]), KEY)
            assert content_of(storage, KEY) == content[:size]
        with monkeypatch.context() as patch:
            patch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))  # no room on this machine is needed
            storage.put_bytes(content, "inputs/a.video")
        assert content_of(storage, "inputs/a.video") == content

    def test_without_a_checksum_in_the_answer_the_file_is_read_back(
        self, storage: S3Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(s3, "_etag_of", lambda *_: "encrypted")
        storage.put(made(tmp_path, b"whole"), KEY)
        assert content_of(storage, KEY) == b"whole"
        monkeypatch.setattr(S3Storage, "read", lambda *_: iter([b"other"]))
        path = made(tmp_path, b"whole")
        with pytest.raises(StorageUnavailable, match="arrived damaged"):
            storage.put(path, KEY)
        assert path.exists()
        with pytest.raises(StorageError, match="no file"):
            storage.stat(KEY)

    def test_its_own_addresses_need_no_key_and_end(self, storage: S3Storage, tmp_path: Path) -> None:
        import urllib.error
        import urllib.request

        storage.put(made(tmp_path), KEY)
        url = storage.url_for(KEY, expires_seconds=60)
        with urllib.request.urlopen(url) as answer:
            assert (answer.read(), answer.headers["content-type"]) == (b"frames", "video/mp4")
        for bad in (url.partition("?")[0], url[:-1] + ("0" if url[-1] != "0" else "1")):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(bad)
            caught.value.close()
            assert caught.value.code == 403

    @pytest.mark.parametrize(
        ("public_url", "prefix", "begins"),
        [
            (None, "a", None),
            ("https://videos.example", "", "https://videos.example"),
            ("https://videos.example/", "a/b", "https://videos.example/a/b"),
            ("https://cdn.example/a/b/", "a/b", "https://cdn.example/a/b"),
            ("https://cdn.example/xa", "a", "https://cdn.example/xa/a"),
        ],
    )
    def test_public_addresses_end_as_the_file_does(
        self, public_url: str | None, prefix: str, begins: str | None
    ) -> None:
        storage = S3Storage("bucket", prefix, endpoint="http://127.0.0.1:9", public_url=public_url)
        assert storage.public_url_for(KEY) == (begins and f"{begins}/{KEY}")

    def test_what_is_wrong_is_said_in_one_sentence(self, s3_server: seaweed.Server) -> None:
        place = s3_server.prefix()
        bucket(s3_server, place).check()
        assert list(bucket(s3_server, place).files_in("inputs")) == [], "nothing is left of the check"
        wrong = [
            (bucket(s3_server, place, secret_access_key="wrong"), "refuses the credentials"),
            (bucket(s3_server, place, access_key_id="nobody"), "refuses the credentials"),
            (bucket(s3_server, place, "missing-bucket"), "no bucket `missing-bucket`"),
            (
                bucket(
                    s3_server, place, access_key_id=seaweed.READER, secret_access_key=seaweed.READER_SECRET
                ),
                f"`{seaweed.BUCKET}` cannot be written to",
            ),
        ]
        for storage, sentence in wrong:
            with pytest.raises(StorageError, match=sentence) as caught:
                storage.check()
            assert not isinstance(caught.value, StorageUnavailable)
            assert caught.value.hint
            assert "\n" not in caught.value.message
        for answer, sentence in (
            ((200, b"<html>a web server</html>"), "what answers at the endpoint is no object storage"),
            ((404, b"<html>not found</html>"), "the object storage answers 404"),
            ((400, b"<html>plain HTTP to an HTTPS port</html>"), "the object storage answers 400"),
            ((400, b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>"), "in another region"),
            ((403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>"), "this machine's clock is wrong"),
        ):
            with answering(*answer) as endpoint, pytest.raises(StorageError, match=sentence) as caught:
                S3Storage("bucket", endpoint=endpoint, access_key_id="a", secret_access_key="b").check()
            assert not isinstance(caught.value, StorageUnavailable), "asking again does not help"
            assert "storage.region" in (caught.value.hint or "")
        for status in (429, 500, 503):
            with answering(status, b"") as endpoint, pytest.raises(StorageUnavailable):
                S3Storage("bucket", endpoint=endpoint, access_key_id="a", secret_access_key="b").check()
        nowhere = S3Storage("bucket", endpoint="http://127.0.0.1:9", access_key_id="a", secret_access_key="b")
        with pytest.raises(StorageUnavailable, match="does not answer"):
            nowhere.check()

    def test_what_it_refuses_later_is_said_too(self, s3_server: seaweed.Server, tmp_path: Path) -> None:
        storage = bucket(s3_server, s3_server.prefix(), secret_access_key="wrong")
        path = made(tmp_path)
        for act in (
            lambda: storage.put(path, KEY),
            lambda: storage.put_bytes(b"", KEY),
            lambda: storage.delete(KEY),
        ):
            with pytest.raises(StorageUnavailable, match="refuses the credentials"):
                act()
        assert path.exists()


@contextlib.contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that says the same whatever it is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte, where this machine lets us have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_while_a_file_is_copied_to_it(small_disk: Path, tmp_path: Path) -> None:
    """From the work folder on another disk: half a file is nowhere, and what was there before is whole."""
    storage = LocalStorage(small_disk / "files")
    storage.put(made(tmp_path, b"first"), KEY)
    path = made(tmp_path, b"x" * 2**21)
    with pytest.raises(StorageError, match="the disk is full"):
        storage.put(path, KEY)
    with pytest.raises(StorageError, match="the disk is full"):
        storage.put_bytes(b"x" * 2**21, "inputs/a.png")
    assert path.exists()
    assert content_of(storage, KEY) == b"first"
    assert [file.name for file in small_disk.rglob("*") if file.is_file()] == ["video_3f.mp4"]
    storage.put_bytes(b"x", "inputs/a.png")


def test_a_disk_that_fills_while_a_file_is_fetched_to_it(small_disk: Path, s3_server: seaweed.Server) -> None:
    storage = bucket(s3_server, s3_server.prefix())
    # the end of the second is in no buffer that was written before the file is closed
    for num_bytes in (2**21, 2**20 - 4096 + 100):
        storage.put_bytes(b"x" * num_bytes, "inputs/a.video")
        (small_disk / "other").write_bytes(b"x" * 4096)
        with pytest.raises(StorageError, match="No space left") as caught:
            storage.fetch("inputs/a.video", small_disk / "copy")
        assert not isinstance(caught.value, StorageUnavailable)
        assert [file.name for file in small_disk.iterdir()] == ["other"]

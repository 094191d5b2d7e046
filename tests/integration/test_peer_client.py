"""What a peer answers is believed no more than a stranger's answer, and its key goes to it alone."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vitascope.domain.errors import UrlRefused
from vitascope.outbound import peer as peers
from vitascope.outbound.peer import Peer, PeerAway, PeerRefused

KEY = "vs_secret"
FILE = bytes(range(256)) * 500
Answer = tuple[int, dict[str, str], bytes]


class Fake(ThreadingHTTPServer):
    """Answers each path as it is told to, and remembers what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.rfile.read(int(headers.get("content-length", 0)))
                fake.asked.append((self.command, self.path, headers))
                status, more, content = fake.answers.get(self.path.partition("?")[0], (404, {}, b"{}"))
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def says(self, path: str, body: Any, status: int = 200, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[path] = status, headers, content


@pytest.fixture
def fakes() -> Iterator[Callable[[], Fake]]:
    made: list[tuple[Fake, threading.Thread]] = []

    def make() -> Fake:
        fake = Fake()
        thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        made.append((fake, thread))
        return fake

    yield make
    for fake, thread in made:
        fake.shutdown()
        thread.join()
        fake.server_close()


@pytest.fixture
def fake(fakes: Callable[[], Fake]) -> Fake:
    return fakes()


@pytest.fixture
def peer(fake: Fake) -> Iterator[Peer]:
    made = Peer(f"{fake.url}/", KEY)
    yield made
    made.close()


def download(peer: Peer, path: Path, content: bytes = FILE) -> bytes:
    peer.download("a1", 0, "video", path, len(content), hashlib.sha256(content).hexdigest())
    return path.read_bytes()


def test_its_state_is_read(fake: Fake, peer: Peer) -> None:
    fake.says("/readyz", {"accepts_jobs": True})
    fake.says("/api/v1/queue", {"wait_seconds": 3, "version": "9", "deployment": "d"})
    assert peer.state() == peers.PeerState("9", "d", 3.0)
    assert all(headers["authorization"] == f"Bearer {KEY}" for _, _, headers in fake.asked)
    fake.says("/api/v1/queue", {"queued": 0})
    assert peer.state().wait_seconds is None, "an older server does not tell"
    fake.says("/readyz", {"accepts_jobs": False, "reason": "the disk is full"})
    with pytest.raises(PeerAway, match="accepts no jobs now"):
        peer.state()


def test_a_model_is_there_if_its_files_are(fake: Fake, peer: Peer) -> None:
    path = "/api/v1/models/org/name"
    for shown, there in (
        ({"downloaded": True, "problem": None}, True),
        ({"downloaded": False, "problem": None}, False),
        ({"downloaded": True, "problem": "damaged"}, False),
        ({}, False),
    ):
        fake.says(path, shown)
        assert (peer.model("org/name") == shown) is there
    for status in (404, 403):
        fake.says(path, {}, status)
        assert peer.model("org/name") is None


def test_a_file_is_what_was_announced_or_is_not_taken(fake: Fake, peer: Peer, tmp_path: Path) -> None:
    path, out = "/api/v1/jobs/a1/content", tmp_path / "a"
    fake.says(path, FILE)
    assert download(peer, out) == FILE
    for wrong in (FILE + b"x", FILE[:-1], b"x" + FILE[1:], b""):
        fake.says(path, wrong)
        with pytest.raises(PeerAway, match="another file than it had said"):
            download(peer, out)
    fake.says(path, {"error": {"code": "video_expired"}}, 404)
    with pytest.raises(PeerRefused, match="answered 404 video_expired"):
        download(peer, out)


def test_the_key_is_not_shown_where_a_download_leads(
    fake: Fake, peer: Peer, fakes: Callable[[], Fake], tmp_path: Path
) -> None:
    """A peer may have clients fetch files from its bucket; what else it answers is not followed."""
    bucket = fakes()
    bucket.says("/file", FILE)
    fake.says("/api/v1/jobs/a1/content", b"", 302, location=f"{bucket.url}/file?signature=x")
    assert download(peer, tmp_path / "a") == FILE
    ((_, _, headers),) = bucket.asked
    assert "authorization" not in headers
    bucket.says("/file", b"", 302, location=f"{bucket.url}/file")
    with pytest.raises(PeerAway, match="from one address to the next"):
        download(peer, tmp_path / "a")
    fake.says("/api/v1/jobs/a1", b"", 302, location=f"{bucket.url}/file")
    with pytest.raises(PeerRefused, match="answered 302"):
        peer.job("a1")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"<html>",
        b"null",
        b"[" * 100_000,
        b"\xff\xfe{",
        b'{"seconds": NaN}',
        b'{"seconds": Infinity}',
        b'{"seconds": 1e999}',
        b'{"reason": "\\uD800"}',
        b'{"reason": "\\u0000"}',
    ],
)
def test_an_answer_that_is_not_its_apis_is_none(body: bytes, fake: Fake, peer: Peer) -> None:
    fake.says("/api/v1/jobs/a1", body)
    with pytest.raises(PeerAway):
        peer.job("a1")


def test_what_only_looks_like_an_escape_is_text(fake: Fake, peer: Peer) -> None:
    fake.says("/api/v1/jobs/a1", b'{"prompt": "\\\\u0000 \\ud83d\\ude00"}')
    assert peer.job("a1") == {"prompt": "\\u0000 \U0001f600"}


def test_an_event_without_an_end_is_not_kept(fake: Fake, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MAX_LINE_BYTES", 1000)
    # of its end more is announced than comes: who waits for the line waits until the timeout
    fake.says("/api/v1/jobs/a1/events", b"data: " + b"x" * 200_000, **{"content-length": "1000000"})
    with pytest.raises(PeerAway, match="an event of megabytes"):
        list(peer.events("a1", 0))


def test_an_endless_answer_is_not_read(fake: Fake, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MAX_ANSWER_BYTES", 1000)
    fake.says("/api/v1/jobs/a1", {"prompt": "x" * 1000})
    with pytest.raises(PeerAway, match="more than 1000 bytes"):
        peer.job("a1")


@pytest.mark.parametrize("name", ["", "../keys", "a/b", "a?b", "a" * 65, "ä"])
def test_a_jobs_name_cannot_lead_elsewhere(name: str, fake: Fake, peer: Peer) -> None:
    with pytest.raises(PeerAway, match="a name that is none"):
        peer.delete(name)
    assert fake.asked == []


def test_a_refusal_says_whether_it_is_for_now(fake: Fake, peer: Peer) -> None:
    for status, is_for_now in ((401, True), (403, True), (429, True), (503, True), (400, False), (409, False), (413, False)):  # fmt: skip
        fake.says("/api/v1/plan", {"error": {"code": "queue_full", "message": KEY}}, status)
        with pytest.raises(PeerRefused) as refused:
            peer.plan({})
        assert (refused.value.is_for_now, str(refused.value)) == (is_for_now, f"answered {status} queue_full")
    fake.says("/api/v1/plan", {"error": {"code": "Not <a> code"}}, 429, **{"retry-after": "7"})
    with pytest.raises(PeerRefused, match=r"answered 429$") as refused:
        peer.plan({})
    assert refused.value.retry_after_seconds == 7
    fake.says("/api/v1/plan", {}, 429, **{"retry-after": "999999"})
    with pytest.raises(PeerRefused) as refused:
        peer.plan({})
    assert refused.value.retry_after_seconds == peers.MAX_RETRY_SECONDS


def test_events_are_read_as_they_come(fake: Fake, peer: Peer) -> None:
    text = b'id: 1\nevent: queued\ndata: {"sequence": 1, "kind": "queued"}\n\n: nothing new\n\ndata: nonsense\n\n'
    fake.says("/api/v1/jobs/a1/events", text)
    events = peer.events("a1", 5)
    assert [next(events), next(events)] == [{"sequence": 1, "kind": "queued"}, None]
    with pytest.raises(PeerAway):
        next(events)
    assert fake.asked[0][2]["last-event-id"] == "5"
    fake.says("/api/v1/jobs/a1/events", {"error": {"code": "job_not_found"}}, 404)
    with pytest.raises(PeerRefused, match="job_not_found"):
        next(peer.events("a1", 0))


def test_one_that_is_away_is_away_and_no_more_is_said(fake: Fake, peer: Peer) -> None:
    fake.shutdown()
    fake.server_close()
    with pytest.raises(PeerAway) as away:
        peer.state()
    assert away.value.reason == "cannot be reached"
    for url in ("ftp://a", "http://", "a", "http://a b"):
        with pytest.raises(UrlRefused):
            Peer(url)
    assert peers.shown_url("http://me:pw@b:1/x/") == "http://b:1/x"

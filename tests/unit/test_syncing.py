"""Taking over a peer's models, over a real connection."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from vitascope.domain.access import OPEN
from vitascope.domain.added import ModelKind
from vitascope.domain.errors import InvalidParameter, ModelInUse, PeerUnavailable
from vitascope.service import Wish
from vitascope.service.syncing import Syncing

KEY = "vs-key"


class Book:
    """Takes what is added down."""

    def __init__(self) -> None:
        self.wishes: list[Wish] = []

    def add(self, wish: Wish, _caller: Any) -> None:
        if wish.id == "taken":
            raise ModelInUse("`taken` is another model's id")
        self.wishes.append(wish)


@contextlib.contextmanager
def peer(status: int, answer: Any) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.headers["authorization"] == f"Bearer {KEY}" and self.path == "/api/v1/added-models"
            body = json.dumps(answer).encode()
            self.send_response(status if good else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def row(name: Any, source: Any, kind: Any = "pipeline", revision: Any = None) -> dict[str, Any]:
    return {"id": name, "source": source, "kind": kind, "revision": revision, "command": "c"}


def test_what_the_peer_has_is_added_and_what_cannot_be_is_told() -> None:
    rows = [
        row("a", "hub:x/a", revision="c0ffee"),
        row("b", "folder:/models/b"),
        row("c", "url:https://a.example/c.safetensors", "lora"),
        row("taken", "hub:x/t"),
        row("odd", 7),
        row("odder", "hub:x/y", "program"),
    ]
    book = Book()
    with peer(200, {"models": rows}) as url:
        synced = Syncing(book, [("http://127.0.0.1:9", "another"), (url, KEY)]).take_over(KEY, OPEN)  # type: ignore[arg-type]
    assert synced.taken == ("a", "b", "c")
    assert list(synced.left) == ["taken", "odd", "odder"]
    assert book.wishes == [
        Wish("a", "hub:x/a", ModelKind.PIPELINE, "c0ffee"),
        Wish("b", "/models/b"),
        Wish("c", "https://a.example/c.safetensors", ModelKind.LORA),
    ]


@pytest.mark.parametrize(
    ("status", "answer"), [(403, {}), (500, {}), (200, []), (200, {}), (200, {"models": ["a"]})]
)
def test_an_answer_that_cannot_be_used(status: int, answer: Any) -> None:
    with peer(status, answer) as url, pytest.raises(PeerUnavailable):
        Syncing(Book(), [(url, KEY)]).take_over(KEY, OPEN)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["", "wrong", "vs-ke", "\ud800", "é"])
def test_a_key_of_no_peer_goes_nowhere(key: str) -> None:
    syncing = Syncing(Book(), [("http://127.0.0.1:9", KEY), ("http://127.0.0.1:10", None)])  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter) as caught:
        syncing.take_over(key, OPEN)
    assert key not in caught.value.message or not key

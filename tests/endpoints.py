"""A service of the operator's that answers as a test says: a real HTTP server on loopback."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What is sent back."""

    body: bytes = b""
    status: int = 200
    kind: str = "application/json"
    #: Bytes are sent one at a time, with so many seconds between them, until the test ends.
    drip_seconds: float | None = None
    #: Nothing is sent until the test ends.
    hangs: bool = False
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(value: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(value).encode(), status)


def chat(text: str | None, **more: Any) -> Answer:
    """Make what a chat endpoint says."""
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    return json_answer({"choices": [{"index": 0, "message": message, "finish_reason": "stop", **more}]})


@dataclass
class Service:
    """The running server: what it was asked, and what it says to that."""

    url: str
    answer: Callable[[dict[str, Any]], Answer]
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def serving(answer: Callable[[dict[str, Any]], Answer] | Answer) -> Iterator[Service]:
    said = answer if callable(answer) else lambda _body: answer

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            service.asked.append(body)
            service.headers.append({name.lower(): value for name, value in self.headers.items()})
            service.paths.append(self.path)
            with contextlib.suppress(OSError):  # who asked may be gone
                self._send(service.answer(body))

        def _send(self, answer: Answer) -> None:
            if answer.hangs:
                service.is_over.wait(60)
                return
            self.send_response(answer.status)
            for name, value in {"content-type": answer.kind, **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            if answer.drip_seconds is None:
                self.wfile.write(answer.body)
                return
            for byte in answer.body:
                self.wfile.write(bytes([byte]))
                if service.is_over.wait(answer.drip_seconds):
                    return

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service = Service(f"http://127.0.0.1:{server.server_address[1]}/v1", said)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield service
    finally:
        service.is_over.set()
        server.shutdown()
        thread.join()
        server.server_close()

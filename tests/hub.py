"""A model hub on a loopback port: enough of the real one's file API for its own client, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

NAME = "someone/tiny"
COMMIT = "c0ffee" * 6 + "c0de"

LFS = (".safetensors", ".bin", ".pt")


@dataclass
class Repository:
    """Files of one commit, which `main` is."""

    files: dict[str, bytes]
    commit: str = COMMIT

    @classmethod
    def of(cls, folder: Path) -> Repository:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return cls({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})

    def listing(self, name: str) -> dict[str, Any]:
        siblings = []
        for path, content in self.files.items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": git_id(content)}
            if path.endswith(LFS):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        return {
            "id": name,
            "modelId": name,
            "sha": self.commit,
            "siblings": siblings,
            "tags": [],
            "downloads": 0,
        }


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Hub:
    """The hub: what it has, what it does wrong, and what was asked of it."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    url: str = ""
    #: Bytes after which the connection breaks, each time that one of these files is sent; per file one value a time.
    cuts: dict[str, list[int]] = field(default_factory=dict)
    #: Files that come with a flipped byte.
    damaged: set[str] = field(default_factory=set)
    #: Files that stop in the middle until `go_on` is set.
    stalled: set[str] = field(default_factory=set)
    go_on: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)
    #: Method, path and Range of each request.
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    #: What a listing says of sizes, where that is not true.
    sizes: dict[str, int] = field(default_factory=dict)
    token: str | None = None

    def sent(self, name: str) -> list[str | None]:
        """Ranges with which a file was asked for."""
        return [part for method, path, part in self.requests if method == "GET" and path.endswith(f"/{name}")]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(is_head=True)

    def do_GET(self) -> None:
        self._answer(is_head=False)

    def _answer(self, *, is_head: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers["Range"]))
        if self.hub.token is not None and self.headers["Authorization"] != f"Bearer {self.hub.token}":
            self._refuse(401, "GatedRepo")
        elif path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            self._list(name, revision)
        else:
            name, _, rest = path.strip("/").partition("/resolve/")
            revision, _, file = rest.partition("/")
            self._send(name, revision, file, is_head=is_head)

    def _found(self, name: str, revision: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._refuse(404, "RepoNotFound")
        elif revision not in ("", "main", repository.commit):
            self._refuse(404, "RevisionNotFound")
            return None
        return repository

    def _list(self, name: str, revision: str) -> None:
        if (repository := self._found(name, revision)) is None:
            return
        listing = repository.listing(name)
        for entry in listing["siblings"]:
            entry["size"] = self.hub.sizes.get(entry["rfilename"], entry["size"])
        body = json.dumps(listing).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, name: str, revision: str, file: str, *, is_head: bool) -> None:
        if (repository := self._found(name, revision)) is None:
            return
        if file not in repository.files:
            self._refuse(404, "EntryNotFound", repository.commit)
            return
        content = repository.files[file]
        etag = hashlib.sha256(content).hexdigest() if file.endswith(LFS) else git_id(content)
        if file in self.hub.damaged:
            content = (
                bytes([content[0] ^ 1]) + content[1:]
                if len(content) < 9
                else content[:8] + bytes([content[8] ^ 1]) + content[9:]
            )
        start = 0
        if self.headers["Range"]:
            start = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", repository.commit)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not is_head:
            self._write(file, content[start:])

    def _write(self, file: str, content: bytes) -> None:
        if file in self.hub.stalled:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.hub.reached.set()
            self.hub.go_on.wait(60)
            content = content[len(content) // 2 :]
        if self.hub.cuts.get(file):
            self.wfile.write(content[: self.hub.cuts[file].pop(0)])
            self.close_connection = True
            return
        try:
            self.wfile.write(content)
        except OSError:
            self.close_connection = True

    def _refuse(self, status: int, code: str, commit: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()

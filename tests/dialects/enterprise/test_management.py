"""The vendor's management calls over HTTP: paths, replies, who may. What they do to a worker is in tests/integration/test_management.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vitascope import __version__
from vitascope.domain.access import KeyLimits, Scope
from vitascope.domain.command import CommandKind, CommandStatus
from vitascope.domain.job import JobStatus
from vitascope.service.keys import Keys

ENTERPRISE, VIDEO, V6 = "/api/v1/enterprise", "/api/v1/enterprise/video", "/api/v6/video"
EVERYWHERE = (ENTERPRISE, VIDEO, V6)


def call(server: Any, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    answer = server.client.post(path, json=body)
    return answer.status_code, answer.json()


def submit(server: Any, **body: Any) -> str:
    return str(server.client.post("/api/v1/jobs", json={"prompt": "a dog", **body}).json()["id"])


@pytest.mark.parametrize("prefix", EVERYWHERE)
def test_calls_that_need_no_worker(server: Any, prefix: str) -> None:
    status, body = call(server, f"{prefix}/system_details", key="")
    assert (status, body["status"], body["message"]) == (200, "error", "no worker is running")
    server.store.worker_seen("w1", "cpu", ["small"])
    for name in ("update_server", "update"):
        status, body = call(server, f"{prefix}/{name}", key="any")
        assert (status, body["status"], __version__ in body["message"]) == (200, "success", True)
    server.store.worker_stopped("w1")

"""A server without keys and the pages that a browser shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", "[::2]", "localhost.evil"],
)
def test_other_names_are_not_answered(server: Any, host: str) -> None:
    for path in ("/v1/videos", "/api/v1/jobs", "/metrics"):
        answer = server.client.get(path, headers={"Host": host})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden_origin")
        assert "x-request-id" in answer.headers


@pytest.mark.parametrize(
    "host", ["127.0.0.1:1", "localhost", "LOCALHOST:8000", "[::1]:8000", "127.9.9.9", "app.localhost"]
)
def test_names_of_this_machine_are(server: Any, host: str) -> None:
    assert server.client.get("/v1/videos", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "http://["]
)
def test_pages_of_other_sites_cannot_write(server: Any, origin: str) -> None:
    for method, path in (("POST", "/v1/videos"), ("POST", "/api/v1/jobs"), ("DELETE", "/v1/videos/x")):
        answer = server.client.request(method, path, data={"prompt": "a"}, headers={"Origin": origin})
        assert answer.status_code == 403
    ours = server.client.post(
        "/api/v1/jobs", json={"prompt": "a"}, headers={"Origin": "http://localhost:5173"}
    )
    assert ours.status_code == 201


def test_the_public_name_is_answered(serve: Callable[..., Any]) -> None:
    client = serve(server={"public_url": "https://videos.example/base"}).client
    assert client.get("/v1/videos", headers={"Host": "videos.example"}).status_code == 200
    assert client.get("/v1/videos", headers={"Host": "other.example"}).status_code == 403


def test_who_opens_the_server_on_purpose_gets_it_open(serve: Callable[..., Any]) -> None:
    client = serve(server={"allow_public": True}).client
    assert client.get("/v1/videos", headers={"Host": "my-machine.lan"}).status_code == 200

"""What lies before every dialect: slow clients, pages of other sites that are let in."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

from vitascope import app

ORIGIN = "https://app.example"


def test_a_body_that_stops_coming_is_answered(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitascope.dialects._http.body.GAP_SECONDS", 0.2)
    address = urlsplit(serve().url)
    head = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(head + b'{"prompt"')
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body_too_slow" in answer


def test_a_connection_without_a_request_is_closed(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.server, "SILENT_SECONDS", 0.5)
    address = urlsplit(web)
    with (
        socket.create_connection((address.hostname, address.port), timeout=30) as silent,
        socket.create_connection((address.hostname, address.port), timeout=30) as slow,
    ):
        slow.sendall(b"GET /livez HTTP/1.1\r\nHost: loc")
        assert silent.recv(1) == b""
        assert slow.recv(1) == b""


def test_a_connection_that_is_used_stays(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.server, "SILENT_SECONDS", 1.0)
    used = HTTPConnection(urlsplit(web).netloc, timeout=30)
    until = time.monotonic() + 3.5
    while time.monotonic() < until:
        used.request("GET", "/livez")
        assert used.getresponse().read() == b'{"status":"ok"}'
    used.close()


def test_a_connection_that_was_used_waits_longer_than_one_that_never_was(
    web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.server, "SILENT_SECONDS", 0.2)
    address = urlsplit(web)
    used = HTTPConnection(address.netloc, timeout=30)
    used.request("GET", "/livez")
    used.getresponse().read()
    own = used.sock
    with socket.create_connection((address.hostname, address.port), timeout=30) as silent:
        assert silent.recv(1) == b""
    used.request("GET", "/livez")
    assert used.getresponse().status == 200
    assert used.sock is own
    used.close()


def test_pages_of_named_sites_may_call(serve: Callable[..., Any]) -> None:
    client = serve(server={"cors_origins": (ORIGIN,)}).client
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, http-referer, x-openrouter-title",
    }
    allowed = client.options("/v1/videos", headers=asked)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, ORIGIN)
    made = client.post("/api/v1/jobs", json={"prompt": "a"}, headers={"Origin": ORIGIN})
    assert (made.status_code, made.headers["access-control-allow-origin"]) == (201, ORIGIN)
    assert "location" in made.headers["access-control-expose-headers"].lower()
    refused = client.post("/v1/videos", json={}, headers={"Origin": ORIGIN})
    assert refused.headers["access-control-allow-origin"] == ORIGIN, "a page can read why"
    other = client.post("/api/v1/jobs", json={"prompt": "a"}, headers={"Origin": "https://evil.example"})
    assert other.status_code == 403
    assert "access-control-allow-origin" not in other.headers


def test_by_default_no_page_may(serve: Callable[..., Any]) -> None:
    client = serve().client
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.options("/v1/videos", headers=asked).headers
    assert "access-control-allow-origin" not in client.get("/v1/videos", headers={"Origin": ORIGIN}).headers

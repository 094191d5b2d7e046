"""Other servers check a URL with one parser and fetch it with another. Here it is read once, strictly."""

from __future__ import annotations

import sys
from typing import Any

import pytest

URLS = [
    "http://example.com\\@127.0.0.1/", "http://127.0.0.1\\@example.com/", "http://example.com@127.0.0.1/", "http://127.0.0.1#@example.com/",
    "http://127.0.0.1:80\\@example.com/", "http:127.0.0.1/", "http:///127.0.0.1/", "http:\\\\127.0.0.1/", "http://127.0.0.1%2f@example.com/",
    "http://[::ffff:127.0.0.1]/", "http://127.1/", "http://0x7f.1/", "http://2130706433/", "http://127.0.0.1./", "http://localhost%00.example.com/",
    "http://example.com\t@127.0.0.1/", "http://example.com\n@127.0.0.1/", "http://\u2460\u2461\u2466.0.0.1/", "file:///etc/passwd", "gopher://127.0.0.1:6379/_x",
]  # fmt: skip
CONNECTED: list[object] = []
IS_WATCHING = False


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if IS_WATCHING and event == "socket.connect":
        CONNECTED.append(arguments[1])


sys.addaudithook(_watch)


@pytest.mark.parametrize("url", URLS)
def test_what_two_programs_could_read_differently_is_not_fetched(
    server: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (server.client.base_url.host, server.client.base_url.port)
    CONNECTED.clear()
    monkeypatch.setattr(sys.modules[__name__], "IS_WATCHING", True)
    answer = server.client.post("/v1/videos", json={"prompt": "a", "input_reference": {"image_url": url}})
    monkeypatch.setattr(sys.modules[__name__], "IS_WATCHING", False)
    assert answer.status_code == 400
    assert [address for address in CONNECTED if address != own] == []

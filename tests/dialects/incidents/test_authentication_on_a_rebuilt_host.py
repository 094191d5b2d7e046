"""Other servers decide by a URL that they put together from the Host header. Here the route that was chosen decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vitascope.service.keys import Keys


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost/livez?"}, {"Host": "localhost/livez#"}, {"Host": "127.0.0.1:80/health"}, {"X-Forwarded-Host": "x/livez"},
        {"X-Original-URL": "/livez"}, {"X-Rewrite-URL": "/livez"}, {"X-Forwarded-Prefix": "/livez"}, {"Forwarded": "host=livez"},
        {"X-Forwarded-For": "127.0.0.1"}, {"X-HTTP-Method-Override": "GET"},
    ],
)  # fmt: skip
def test_headers_do_not_open_a_route(serve: Callable[..., Any], headers: dict[str, str]) -> None:
    server = serve()
    Keys(server.store).create("first")
    for method, path in (
        ("GET", "/v1/videos"),
        ("POST", "/v1/videos"),
        ("GET", "/api/v1/keys"),
        ("GET", "/metrics"),
    ):
        assert server.client.request(method, path, headers=headers).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "//v1/videos",
        "/livez/../v1/videos",
        "/v1/videos/",
        "/V1/videos",
        "/v1/%76ideos",
        "/livez/..%2fv1/videos",
        "/v1/videos;x",
    ],
)
def test_another_spelling_of_a_path_opens_nothing(serve: Callable[..., Any], path: str) -> None:
    server = serve()
    Keys(server.store).create("first")
    answer = server.client.get(path)
    assert answer.status_code in (401, 404)

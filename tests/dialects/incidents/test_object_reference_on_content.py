"""Other servers hand any video to whoever knows its id. Here another key's is an unknown one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitascope.service.keys import Keys


def test_another_keys_file_is_not_found(serve: Callable[..., Any]) -> None:
    server = serve()
    keys = Keys(server.store)
    mine, other = (keys.create(name)[1] for name in ("mine", "other"))
    made = server.client.post(
        "/v1/videos", json={"prompt": "a"}, headers={"Authorization": f"Bearer {mine}"}
    ).json()
    server.finish(server.store.claim("w", 60.0))
    path = f"/v1/videos/{made['id']}/content"

    def fetch(key: str | None, method: str = "GET", **headers: str) -> Any:
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return server.client.request(method, path, headers=headers)

    assert fetch(mine).status_code == 200
    for method in ("GET", "HEAD"):
        assert fetch(other, method).status_code == 404
        assert fetch(other, method, Range="bytes=0-9").status_code == 404
        assert fetch(None, method).status_code == 401
    etag = fetch(mine).headers["etag"]
    assert fetch(other, **{"If-None-Match": etag}).status_code == 404, (
        "not 304: that would tell that it is there"
    )

"""Other servers write uploads under the name that the client gives. Here that name is not looked at."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


def snapshot(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        "../../evil.png",
        "/tmp/evil.png",
        "..\\..\\evil.png",
        "C:\\evil.png",
        "a/../../../evil.png",
        "evil\u202egnp.exe",
        "." * 300,
        "..",
    ],
)
def test_a_files_name_leads_nowhere(serve: Callable[..., Any], name: str) -> None:
    server = serve()
    buffer = io.BytesIO()
    Image.new("RGB", (96, 64), "red").save(buffer, "PNG")
    made = server.client.post(
        "/v1/videos", data={"prompt": "a"}, files={"input_reference": (name, buffer.getvalue(), "image/png")}
    )
    assert made.status_code == 200
    stored = snapshot(server.settings.files_folder)
    assert stored == {f"inputs/{made.json()['id'].removeprefix('video_')}.png"}
    assert not [path for path in snapshot(server.settings.home.parent) if "evil" in path]


@pytest.mark.parametrize(
    "job_id",
    ["../../vitascope.db", "..%2f..%2fvitascope.db", "%2e%2e%2fvitascope.db", "video_../x", "video_..%00"],
)
def test_an_id_leads_nowhere(serve: Callable[..., Any], job_id: str) -> None:
    client = serve().client
    for path in (f"/v1/videos/{job_id}/content", f"/api/v1/jobs/{job_id}/content", f"/v1/videos/{job_id}"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert b"SQLite" not in answer.content

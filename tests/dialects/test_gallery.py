"""The gallery: what it shows, and to whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from vitascope.dialects.native import schema
from vitascope.domain.access import Scope
from vitascope.service.keys import Keys
from waiting import eventually

GALLERY = "/api/v1/gallery"


def make(server: Any, prompt: str, **more: Any) -> str:
    answer = server.client.post("/api/v1/jobs", json={"prompt": prompt, "is_public": True, **more})
    assert answer.status_code == 201, answer.text
    assert answer.json()["is_public"] is more.get("is_public", True)
    server.finish(server.claim())
    return str(answer.json()["id"])


def page(server: Any, **query: Any) -> dict[str, Any]:
    answer = server.client.get(GALLERY, params=query)
    assert answer.status_code == 200, answer.text
    schema.GalleryPage.model_validate(answer.json(), extra="forbid")
    found: dict[str, Any] = answer.json()
    return found


def prompts(found: dict[str, Any]) -> list[str]:
    return [video["prompt"] for video in found["videos"]]


def test_public_videos_are_shown_until_they_are_gone(serve: Callable[..., Any]) -> None:
    server = serve()
    assert page(server) == {"videos": [], "has_more": False, "last_id": None}
    make(server, "a secret", is_public=False)
    first, second = make(server, "a hill"), make(server, "a dog", num_videos=2)
    found = page(server)
    assert prompts(found) == ["a dog", "a dog", "a hill"]
    assert [video["index"] for video in found["videos"]] == [0, 1, 0]
    assert "secret" not in str(found)
    for video in found["videos"]:
        for name in ("video_url", "thumbnail_url", "spritesheet_url"):
            assert httpx.get(video[name], trust_env=False).status_code == 200, "a link needs no key"
    assert set(found["videos"][0]) == set(schema.GalleryVideo.model_fields)
    assert (found["last_id"], found["has_more"]) == (first, False)
    assert prompts(page(server, limit=1)) == ["a dog", "a dog"]
    assert prompts(page(server, limit=1, after=second)) == ["a hill"]
    server.client.delete(f"/api/v1/jobs/{second}")
    assert prompts(page(server)) == ["a hill"]


@pytest.mark.parametrize(
    ("query", "parameter"), [({"limit": 0}, "limit"), ({"after": "x"}, "after"), ({"owner": "me"}, "owner")]
)
def test_bad_queries(server: Any, query: dict[str, Any], parameter: str) -> None:
    answer = server.client.get(GALLERY, params=query)
    assert (answer.status_code, answer.json()["error"]["parameter"]) == (400, parameter)


@pytest.mark.parametrize("is_open", [False, True])
def test_strangers_look_only_where_the_operator_lets_them(serve: Callable[..., Any], is_open: bool) -> None:
    server = serve(gallery={"open": is_open})
    make(server, "a hill")
    keys = Keys(server.store)
    key = keys.create("any", (Scope.READ,))[1]
    eventually(lambda: server.client.get("/api/v1/jobs").status_code == 401)
    assert server.client.get(GALLERY).status_code == (200 if is_open else 401)
    answer = server.client.get(GALLERY, headers={"authorization": f"Bearer {key}"})
    assert prompts(answer.json()) == ["a hill"], "any key sees what others have made public"
    job_id = answer.json()["videos"][0]["id"]
    mine = server.client.get(f"/api/v1/jobs/{job_id}", headers={"authorization": f"Bearer {key}"})
    assert mine.status_code == 404, "but not their jobs"

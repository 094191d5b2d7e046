"""Several videos of one request and the pictures of each, as clients see them in both APIs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from vitascope.domain.video import Video
from vitascope.service.keys import Keys
from waiting import eventually

SIZE = {"height": 64, "width": 96, "num_frames": 17, "fps": 8}


def make(server: Any, **asked: Any) -> dict[str, Any]:
    answer = server.client.post("/api/v1/jobs", json={"prompt": "a dog", **asked})
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


def look(server: Any, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get(f"/api/v1/jobs/{job['id']}").json()
    return found


def refused(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def ways(job: dict[str, Any]) -> tuple[str, str]:
    return f"/v1/videos/video_{job['id']}/content", f"/api/v1/jobs/{job['id']}/content"


class TestNative:
    def test_a_job_shows_all_its_videos(self, server: Any) -> None:
        made = make(server, num_videos=3, seed=7)
        assert (made["num_videos"], made["seed"], made["videos"], made["video"]) == (3, 7, [], None)
        server.finish(server.claim())
        job = look(server, made)
        assert [(video["index"], video["seed"]) for video in job["videos"]] == [(0, 7), (1, 8), (2, 9)]
        assert job["video"] == job["videos"][0]
        assert job["failed_videos"] == []
        contents = set()
        for video in job["videos"]:
            for file in (video, video["thumbnail"], video["spritesheet"]):
                whole = server.client.get(file["url"])
                assert whole.headers["content-type"] == file["media_type"]
                assert len(whole.content) == file["num_bytes"]
                assert httpx.get(file["signed_url"], trust_env=False).content == whole.content
                contents.add(whole.content)
        assert len(contents) == 9

    def test_the_sheet_says_how_it_is_laid_out(self, server: Any) -> None:
        made = make(server)
        server.finish(server.claim())
        sheet = look(server, made)["video"]["spritesheet"]
        assert (sheet["rows"], sheet["columns"], sheet["num_tiles"]) == (4, 5, 17)

    def test_seeds_begin_again_after_the_highest(self, server: Any) -> None:
        made = make(server, num_videos=2, seed=2**63 - 1)
        server.finish(server.claim())
        assert [video["seed"] for video in look(server, made)["videos"]] == [2**63 - 1, 0]

    def test_what_failed_is_told(self, server: Any) -> None:
        made = make(server, num_videos=3)
        lease = server.claim()
        videos = [
            Video(index=index, key=f"videos/{made['id']}.{index}.mp4", media_type="video/mp4", num_bytes=1, sha256="0", **SIZE)
            for index in (0, 2)
        ]  # fmt: skip
        failed = [{"index": 1, "code": "out_of_memory", "message": "The device ran out of memory."}]
        server.store.succeed(lease, videos, {"choices": [], "seconds": {}, "failed_videos": failed})
        job = look(server, made)
        assert [video["index"] for video in job["videos"]] == [0, 2]
        assert job["failed_videos"] == failed
        for way in ways(job):
            error = refused(server.client.get(way, params={"index": 1}), 404)
            assert error["code"] == "video_failed"
            assert "The device ran out of memory." in error["message"]
            error = refused(server.client.get(way, params={"index": 2, "variant": "thumbnail"}), 404)
            assert error["message"].startswith("there is no thumbnail")

    @pytest.mark.parametrize(("asked", "nearest"), [(0, 1), (-1, 1), (11, 10), (10**15, 10)])
    def test_too_many_are_refused(self, server: Any, asked: int, nearest: int) -> None:
        answer = server.client.post("/api/v1/jobs", json={"prompt": "a dog", "num_videos": asked})
        error = refused(answer, 400)
        assert (error["parameter"], error["nearest"]) == ("num_videos", nearest)

    def test_a_plan_counts_them(self, server: Any) -> None:
        planned = server.client.post("/api/v1/plan", json={"prompt": "a dog", "num_videos": 4}).json()
        assert (planned["num_videos"], planned["total_steps"]) == (4, 12)

    def test_a_retry_makes_as_many(self, server: Any) -> None:
        made = make(server, num_videos=2, seed=5)
        server.finish(server.claim())
        again = server.client.post(f"/api/v1/jobs/{made['id']}/retry").json()
        assert (again["num_videos"], again["seed"]) == (2, 5)
        server.finish(server.claim())

    def test_unknown_parameters_are_refused(self, server: Any) -> None:
        made = make(server)
        path = ways(made)[1]
        assert refused(server.client.get(path, params={"indx": 0}), 400)["hint"] == "did you mean `index`?"
        server.finish(server.claim())


class TestWhichFile:
    @pytest.mark.parametrize(
        ("asked", "parameter"),
        [
            ({"index": "2"}, "index"),
            ({"index": "-1"}, "index"),
            ({"index": "9" * 40}, "index"),
            ({"index": "one"}, "index"),
            ({"index": "0.5"}, "index"),
            ({"variant": "poster"}, "variant"),
            ({"variant": "../../secrets.key"}, "variant"),
        ],
    )
    def test_what_cannot_be_is_refused_whether_it_is_finished_or_not(
        self, server: Any, asked: dict[str, str], parameter: str
    ) -> None:
        made = make(server, num_videos=2)
        for way in ways(made):
            error = refused(server.client.get(way, params=asked), 400)
            assert error.get("param", error.get("parameter")) == parameter
        server.finish(server.claim())
        for way in ways(made):
            error = refused(server.client.get(way, params=asked), 400)
            assert error.get("param", error.get("parameter")) == parameter

    def test_nothing_is_ready_before_the_end(self, server: Any) -> None:
        made = make(server, num_videos=2)
        for way in ways(made):
            for asked in ({}, {"variant": "thumbnail"}, {"index": "1", "variant": "spritesheet"}):
                error = refused(server.client.get(way, params=asked), 404)
                assert error["code"] == "video_not_ready"
        server.finish(server.claim())

    def test_empty_values_are_the_usual_ones(self, server: Any) -> None:
        made = make(server)
        server.finish(server.claim())
        for way in ways(made):
            answer = server.client.get(f"{way}?index=&variant=")
            assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
            name = answer.headers["content-disposition"].rpartition("=")[2].strip('"')
            assert name == f"{way.split('/')[-2]}.mp4"

    def test_a_link_leads_to_its_file_only(self, server: Any) -> None:
        made = make(server, num_videos=2)
        server.finish(server.claim())
        link = look(server, made)["videos"][1]["thumbnail"]["signed_url"]
        start, _, token = link.rpartition("/")
        job_id, output, end, mac, suffix = token.split(".")
        assert output == "1t"
        for other in ("1", "0t", "1s", "2t", "1x", "t"):
            answer = server.client.get(f"{start}/{job_id}.{other}.{end}.{mac}.{suffix}")
            assert refused(answer, 404)["code"] == "link_not_found"


class TestUsers:
    def test_videos_are_listed_by_user(self, serve: Callable[..., Any]) -> None:
        server = serve()
        made = [make(server, user=user)["id"] for user in ("ann", "bob", "ann")]
        for way, key, prefix in (("/v1/videos", "data", "video_"), ("/api/v1/jobs", "jobs", "")):

            def listed(way: str = way, key: str = key, **asked: Any) -> list[str]:
                answer = server.client.get(way, params=asked)
                assert answer.status_code == 200
                return [one["id"] for one in answer.json()[key]]

            ann = [prefix + made[2], prefix + made[0]]
            assert listed(user="ann") == ann
            assert listed(user="ann", limit=1) == ann[:1]
            assert listed(user="ann", after=ann[0]) == ann[1:]
            assert listed(user="a" * 300) == []
            assert len(listed(user="")) == 3

    def test_a_user_is_looked_for_among_ones_own(self, serve: Callable[..., Any]) -> None:
        server = serve()
        clients = []
        for name in ("one", "two"):
            _, secret = Keys(server.store).create(name)
            headers = {"authorization": f"Bearer {secret}"}
            clients.append(httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=60))
        eventually(lambda: server.client.get("/api/v1/jobs").status_code == 401)
        for client in clients:
            assert client.post("/v1/videos", json={"prompt": "a dog", "user": "ann"}).status_code == 200
        for client in clients:
            assert len(client.get("/v1/videos?user=ann").json()["data"]) == 1
            client.close()


class TestMultipart:
    def test_numbers_come_as_text(self, server: Any) -> None:
        fields = {"prompt": (None, "a dog"), "num_videos": (None, "2")}
        answer = server.client.post("/api/v1/jobs", files=fields)
        assert answer.json()["num_videos"] == 2
        server.finish(server.claim())

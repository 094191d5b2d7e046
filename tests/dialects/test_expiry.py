"""Files that are kept for a while only, and a disk without room, as clients meet them."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa
from PIL import Image
from starlette.testclient import TestClient

from vitascope import app, settings
from vitascope.dialects.native import schema
from vitascope.domain.request import TEMP_SECONDS
from vitascope.service import Expiry
from vitascope.store.for_expiry import GRACE
from vitascope.store.tables import jobs
from waiting import eventually

TOO_MUCH = 2**62


def let_expire(server: Any, job_id: str) -> None:
    """Put the end of a job's time into the past; where the clock is the real one, nobody waits for it."""
    past = datetime.now(UTC) - GRACE
    with server.store._database.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(expires_at=past))


def created(server: Any, **asked: Any) -> dict[str, Any]:
    answer = server.client.post("/api/v1/jobs", json={"prompt": "a dog", **asked})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def finished(server: Any, **asked: Any) -> str:
    job_id: str = created(server, **asked)["id"]
    server.finish(server.claim())
    return job_id


def shown(server: Any, job_id: str) -> dict[str, Any]:
    answer = server.client.get(f"/api/v1/jobs/{job_id}")
    schema.Job.model_validate(answer.json(), extra="forbid")
    job: dict[str, Any] = answer.json()
    return job


def picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (96, 64), "red").save(content, "PNG")
    return content.getvalue()


class TestAsking:
    def test_how_long_is_asked_for_and_shown(self, serve: Callable[..., Any]) -> None:
        server = serve()
        made = created(server, expires_in_seconds=TEMP_SECONDS)
        assert (made["expires_in_seconds"], made["expires_at"], made["expired_at"]) == (86400, None, None)
        server.finish(server.claim())
        job = shown(server, made["id"])
        ended, expires = (datetime.fromisoformat(job[name]) for name in ("finished_at", "expires_at"))
        assert expires - ended == timedelta(days=1)
        video = server.client.get(f"/v1/videos/video_{made['id']}").json()
        assert video["expires_at"] == int(expires.timestamp())

    def test_by_default_files_are_kept(self, serve: Callable[..., Any]) -> None:
        server = serve()
        job = shown(server, finished(server))
        assert (job["expires_in_seconds"], job["expires_at"]) == (None, None)
        assert server.client.get(f"/v1/videos/video_{job['id']}").json()["expires_at"] is None

    def test_the_servers_own_time_counts_where_a_request_has_none(self, serve: Callable[..., Any]) -> None:
        server = serve(storage={"expire_seconds": 3600})
        assert created(server)["expires_in_seconds"] == 3600
        assert created(server, expires_in_seconds="60")["expires_in_seconds"] == 60
        made = server.client.post("/v1/videos", json={"prompt": "a dog"}).json()
        assert made["expires_at"] == made["created_at"] + 3600, "as if it were ready at once"
        for _ in range(3):
            server.finish(server.claim())
        done = server.client.get(f"/v1/videos/{made['id']}").json()
        assert done["expires_at"] - done["completed_at"] == 3600

    @pytest.mark.parametrize(("asked", "nearest"), [(59, 60), (0, 60), (-1, 60), (2**40, 315360000)])
    def test_limits(self, server: Any, asked: int, nearest: int) -> None:
        answer = server.client.post("/api/v1/jobs", json={"prompt": "a", "expires_in_seconds": asked})
        error = answer.json()["error"]
        assert (answer.status_code, error["parameter"], error["nearest"]) == (
            400,
            "expires_in_seconds",
            nearest,
        )

    @pytest.mark.parametrize("asked", ["soon", 1.5, [60], True])
    def test_what_is_no_number_of_seconds(self, server: Any, asked: object) -> None:
        answer = server.client.post("/api/v1/jobs", json={"prompt": "a", "expires_in_seconds": asked})
        assert (answer.status_code, answer.json()["error"]["parameter"]) == (400, "expires_in_seconds")

    def test_a_failed_video_has_no_end_in_the_vendors_dialect(self, serve: Callable[..., Any]) -> None:
        server = serve(storage={"expire_seconds": 3600})
        made = created(server)
        server.client.post(f"/api/v1/jobs/{made['id']}/cancel")
        assert shown(server, made["id"])["expires_at"] is not None
        assert server.client.get(f"/v1/videos/video_{made['id']}").json()["expires_at"] is None


class TestExpired:
    @pytest.mark.parametrize("is_swept", [False, True], ids=["time is over", "swept"])
    def test_every_way_to_the_file_says_so(self, serve: Callable[..., Any], is_swept: bool) -> None:
        server = serve()
        job_id = finished(server, expires_in_seconds=60)
        let_expire(server, job_id)
        if is_swept:
            Expiry(server.store, server.files).advance()
            assert list(server.files.files_in("videos")) == []
        for path in (f"/api/v1/jobs/{job_id}/content", f"/v1/videos/video_{job_id}/content"):
            for headers in ({}, {"range": "bytes=0-9"}, {"if-none-match": '"c0ffee"'}):
                answer = server.client.get(path, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "video_expired")
                assert "expired at" in answer.json()["error"]["message"]
            assert server.client.head(path).status_code == 404

    def test_nobody_on_the_way_keeps_it_for_longer(self, serve: Callable[..., Any]) -> None:
        server = serve()
        for asked, least, most in ((None, 86400, 86400), (2 * TEMP_SECONDS, 86400, 86400), (60, 1, 60)):
            job_id = finished(server, expires_in_seconds=asked)
            told = server.client.get(f"/api/v1/jobs/{job_id}/content").headers["cache-control"]
            assert least <= int(told.removeprefix("private, max-age=")) <= most

    def test_it_is_still_shown_and_listed(self, serve: Callable[..., Any]) -> None:
        server = serve()
        job_id = finished(server, expires_in_seconds=60)
        before = shown(server, job_id)
        let_expire(server, job_id)
        Expiry(server.store, server.files).advance()
        job = shown(server, job_id)
        unlinked = {"signed_url": None, "signed_url_expires_at": None}
        pictures = {name: {**before["video"][name], **unlinked} for name in ("thumbnail", "spritesheet")}
        without_links = {**before["video"], **unlinked, **pictures}
        assert (job["status"], job["progress"], job["video"]) == ("succeeded", 100, without_links)
        assert job["expired_at"] is not None
        assert server.client.get("/api/v1/jobs").json()["jobs"] == [job]
        video = server.client.get(f"/v1/videos/video_{job_id}").json()
        assert (video["status"], video["error"]) == ("completed", None)
        assert video["expires_at"] < video["completed_at"] + 60
        assert server.client.get("/v1/videos").json()["data"] == [video]
        assert server.client.delete(f"/api/v1/jobs/{job_id}").status_code == 204

    def test_the_vendors_sdk_raises_what_it_knows(self, serve: Callable[..., Any]) -> None:
        server = serve()
        job_id = finished(server, expires_in_seconds=60)
        let_expire(server, job_id)
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as sdk,
            pytest.raises(openai.NotFoundError) as error,
        ):
            sdk.videos.download_content(f"video_{job_id}")
        assert error.value.code == "video_expired"

    def test_it_is_made_again_from_what_is_still_known(self, serve: Callable[..., Any]) -> None:
        server = serve()
        job_id = finished(server, expires_in_seconds=60, seed=7)
        let_expire(server, job_id)
        Expiry(server.store, server.files).advance()
        again = server.client.post(f"/api/v1/jobs/{job_id}/retry")
        assert again.status_code == 201
        assert (again.json()["seed"], again.json()["expires_in_seconds"]) == (7, 60)

    def test_a_repeated_retry_finds_its_job_though_the_inputs_have_expired(
        self, serve: Callable[..., Any]
    ) -> None:
        server = serve()
        sent = {"data": {"prompt": "a dog", "expires_in_seconds": "60"}, "files": {"image": picture()}}
        job_id = server.client.post("/api/v1/jobs", **sent).json()["id"]
        server.client.post(f"/api/v1/jobs/{job_id}/cancel")
        path, headers = f"/api/v1/jobs/{job_id}/retry", {"idempotency-key": "again"}
        first = server.client.post(path, headers=headers)
        let_expire(server, job_id)
        second = server.client.post(path, headers=headers)
        assert (first.status_code, second.status_code) == (201, 200), second.text
        assert second.json()["id"] == first.json()["id"]

    @pytest.mark.parametrize("is_swept", [False, True], ids=["time is over", "swept"])
    def test_it_is_not_made_again_without_what_was_sent(
        self, serve: Callable[..., Any], is_swept: bool
    ) -> None:
        server = serve()
        made = server.client.post(
            "/api/v1/jobs",
            data={"prompt": "a dog", "expires_in_seconds": "60"},
            files={"image": ("dog.png", picture(), "image/png")},
        ).json()
        server.finish(server.claim())
        let_expire(server, made["id"])
        if is_swept:
            Expiry(server.store, server.files).advance()
            assert [*server.files.files_in("inputs"), *server.files.files_in("videos")] == []
        answer = server.client.post(f"/api/v1/jobs/{made['id']}/retry")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_conflict")
        assert "its first frame is not kept any more" in answer.json()["error"]["message"]

    def test_the_web_process_removes_what_has_expired(
        self, serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Expiry.__init__, "__kwdefaults__", {"pass_seconds": 0.01})
        server = serve()
        job_id = finished(server, expires_in_seconds=60)
        let_expire(server, job_id)
        eventually(lambda: shown(server, job_id)["expired_at"])
        assert list(server.files.files_in("videos")) == []

    def test_metrics_tell_what_is_late(self, serve: Callable[..., Any]) -> None:
        server = serve()
        job_id = finished(server, expires_in_seconds=60)
        assert "vitascope_files_overdue 0.0" in server.client.get("/metrics").text
        let_expire(server, job_id)
        assert "vitascope_files_overdue 1.0" in server.client.get("/metrics").text


@pytest.fixture(scope="module")
def full(serve: Callable[..., Any]) -> Any:
    """A server on a disk that has less room than it shall."""
    return serve(storage={"min_free_bytes": TOO_MUCH})


class TestFullDisk:
    @pytest.mark.parametrize("path", ["/api/v1/jobs", "/v1/videos"])
    def test_new_jobs_are_refused_before_anything_is_stored(self, full: Any, path: str) -> None:
        form = {"data": {"prompt": "a dog"}, "files": {"image": ("dog.png", picture(), "image/png")}}
        for body in ({"json": {"prompt": "a dog"}}, form):
            for headers in ({}, {"idempotency-key": path}, {"x-stainless-retry-count": "1"}):
                answer = full.client.post(path, headers=headers, **body)
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (503, "disk_full")
                assert error["message"] == "The server has too little disk space left for another video."
                assert answer.headers["retry-after"] == "30"
        assert list(full.files.files_in("inputs")) == []
        assert full.client.get("/api/v1/jobs").json()["jobs"] == []

    def test_the_vendors_sdk_raises_what_it_knows(self, full: Any) -> None:
        with (
            openai.OpenAI(base_url=f"{full.url}/v1", api_key="any", max_retries=0) as sdk,
            pytest.raises(openai.InternalServerError) as error,
        ):
            sdk.videos.create(prompt="a dog")
        assert (error.value.status_code, error.value.code) == (503, "disk_full")

    def test_readiness_and_metrics_say_so(self, full: Any) -> None:
        full.store.worker_seen("w1")
        answer = full.client.get("/readyz")
        assert answer.status_code == 200, "a load balancer must let deletions through"
        reason = f"the disk is nearly full: fewer than {TOO_MUCH} bytes are free"
        assert answer.json() == {"status": "ok", "accepts_jobs": False, "reason": reason}
        (line,) = [
            line
            for line in full.client.get("/metrics").text.splitlines()
            if "disk_free_bytes " in line and line[0] != "#"
        ]
        assert 0 < float(line.split()[1]) < TOO_MUCH

    def test_what_was_acknowledged_goes_on(self, serve: Callable[..., Any]) -> None:
        """A repeated request still finds its job, and jobs are read, cancelled and deleted, which makes room."""
        roomy = serve()
        body = {"json": {"prompt": "a dog", "seed": 1}, "headers": {"idempotency-key": "mine"}}
        job_id = roomy.client.post("/api/v1/jobs", **body).json()["id"]
        with _reopened(roomy) as full:
            self._goes_on(full, body, job_id)

    def _goes_on(self, full: TestClient, body: dict[str, Any], job_id: str) -> None:
        assert full.post("/api/v1/jobs", **body).json()["id"] == job_id
        assert full.get(f"/api/v1/jobs/{job_id}").status_code == 200
        assert full.post(f"/api/v1/jobs/{job_id}/cancel").status_code == 200
        assert full.post(f"/api/v1/jobs/{job_id}/retry").status_code == 503
        assert full.post("/api/v1/plan", json={"prompt": "a dog"}).status_code == 200
        assert full.delete(f"/api/v1/jobs/{job_id}").status_code == 204


def _reopened(server: Any) -> TestClient:
    """Another web process on the same data, whose disk has no room."""
    loaded = settings.load(
        home=server.settings.home, engine={"default_model": "small"}, storage={"min_free_bytes": TOO_MUCH}
    )
    return TestClient(app.create_web_app(loaded), base_url="http://127.0.0.1")

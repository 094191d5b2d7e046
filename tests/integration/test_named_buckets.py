"""update_s3 and reset_s3 on real processes: the next file is in the bucket, after restarts too, and the ones before are served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import seaweed
from serving import Server
from vitascope.storage import S3Storage
from waiting import eventually

ENTERPRISE, VIDEO = "/api/v1/enterprise", "/api/v1/enterprise/video"


class Named(Server):
    """A server that may go to buckets of this machine."""

    def call(self, path: str, **body: Any) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}{path}", json={"key": "", **body}, timeout=60)
        assert answer.json()["status"] == "success", answer.text
        found: dict[str, Any] = answer.json()
        return found

    def make(self) -> dict[str, Any]:
        asked = {"prompt": "a dog", "width": 64, "height": 64, "num_frames": 5}
        job_id = httpx.post(f"{self.url}/api/v1/jobs", json=asked).json()["id"]

        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = httpx.get(f"{self.url}/api/v1/jobs/{job_id}").json()
            return found if found["finished_at"] else None

        made = eventually(ended, timeout_seconds=120)
        assert made["status"] == "succeeded", made
        return made

    def content(self, job: dict[str, Any]) -> bytes:
        answer = httpx.get(job["video"]["signed_url"])
        assert answer.status_code == 200
        assert answer.content == httpx.get(f"{self.url}/api/v1/jobs/{job['id']}/content").content
        return answer.content


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Named]:
    made = Named(tmp_path)
    yield made
    made.stop()
    log = made.log.read_text()
    assert "Traceback" not in log
    assert seaweed.SECRET not in log


def test_the_next_file_is_in_the_bucket_that_was_named(server: Named, s3_server: seaweed.Server) -> None:
    environment = {"VITASCOPE_OUTBOUND__ALLOW": '["127.0.0.1"]'}
    server.start("--engine", "fake", **environment)
    prefix = s3_server.prefix()
    behind = S3Storage(
        seaweed.BUCKET,
        prefix,
        endpoint=s3_server.endpoint,
        region="us-east-1",
        access_key_id=seaweed.KEY,
        secret_access_key=seaweed.SECRET,
    )
    before = server.make()
    told = server.call(
        f"{VIDEO}/update_s3",
        deploy_type="video",
        public_url=f"{s3_server.endpoint}/{seaweed.BUCKET}",
        region_name="us-east-1",
        endpoint_url=f"{s3_server.endpoint}/{seaweed.BUCKET}",
        aws_access_key_id=seaweed.KEY,
        aws_secret_access_key=seaweed.SECRET,
        image_directory=prefix,
    )
    assert "could not read a file of it at `public_url`: its server answers 403" in told["tip"]
    place = told["tip"].partition("/`")[0].rpartition("/")[2]
    with_it = [server.make()]
    server.stop()
    server.start("--engine", "fake", **environment)
    with_it.append(server.make())
    server.call(f"{ENTERPRISE}/reset_s3")
    after = server.make()
    keys = {file.key for file in behind.files_in(place)}
    for job in with_it:
        (key,) = {key for key in keys if f"/{job['id']}." in key and key.endswith(".mp4")}
        with behind.open(key) as file:
            assert file.read() == server.content(job)
    assert len(keys) == 6, "with their pictures"
    local = {path.name for path in (server.home / "files" / "videos").iterdir()}
    for job in (before, after):
        assert len({name for name in local if name.startswith(f"{job['id']}.")}) == 3
        assert server.content(job)
    assert len(local) == 6
    httpx.delete(f"{server.url}/api/v1/jobs/{with_it[0]['id']}")
    assert {file.key for file in behind.files_in(place)} == {
        key for key in keys if f"/{with_it[1]['id']}." in key
    }

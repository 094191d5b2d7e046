"""Buckets that are named while the server runs: new videos go there at once, older ones stay where they are and are served and removed there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import seaweed
from tests.integration.test_worker import Bench
from vitascope import media
from vitascope.domain.bucket import KEYS_BEGIN, Bucket
from vitascope.domain.errors import BucketRefused, InvalidParameter, StorageError, StorageUnavailable
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.video import stored_keys
from vitascope.outbound import AllowList, Outbound
from vitascope.service import Buckets, Expiry, OpenBuckets
from vitascope.service.links import Links
from vitascope.service.results import Results
from vitascope.storage import Places
from vitascope.store import Cipher, Store
from vitascope.worker import sweep
from waiting import eventually

ALLOWED = AllowList.of(["127.0.0.1"])
CIPHER = Cipher((b"k" * 32,))
PUBLIC = "https://videos.example"


def outbound(allow: AllowList = ALLOWED) -> Outbound:
    async def at_once(_seconds: float) -> None: ...

    return Outbound(allow, sleep=at_once)


def described(server: seaweed.Server, **other: Any) -> Bucket:
    values = {
        "bucket": seaweed.BUCKET,
        "prefix": server.prefix(),
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "path_style": True,
        "access_key_id": seaweed.KEY,
        "secret_access_key": seaweed.SECRET,
        "public_url": PUBLIC,
    }
    return Bucket(id="", **{**values, **other})


def places_of(bench: Bench, store: Store | None = None) -> Places:
    """What another process opens."""
    return Places(bench.own, OpenBuckets(store or bench.store, outbound))  # type: ignore[attr-defined]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, f"sqlite:///{tmp_path / 'jobs.db'}")
    made.store.close()
    made.store = Store.open(f"sqlite:///{tmp_path / 'jobs.db'}", cipher=CIPHER)
    made.own = made.files  # type: ignore[attr-defined]
    made.files = places_of(made)  # type: ignore[assignment]
    yield made
    made.close()


@pytest.fixture
def buckets(bench: Bench) -> Buckets:
    return Buckets(bench.store, outbound())


def results_of(bench: Bench) -> Results:
    store = bench.store
    links = Links(lambda: store.derived_keys("links"), None, 3600)
    return Results(
        store,
        bench.files,
        links,
        sends_to_storage=False,
        certificates="",
        clock=lambda: datetime.now(UTC),
    )


def make(bench: Bench, **asked: Any) -> Job:
    job = bench.ended(bench.submit(num_inference_steps=1, **asked))
    assert job.status is JobStatus.SUCCEEDED, job.error
    return job


def check_files(bench: Bench, job: Job, place: str) -> None:
    """Each file of the job is in that place, whole."""
    assert job.videos
    for video in job.videos:
        for file in video.files:
            assert file.key.partition("/")[0] == place
            assert file.key.rpartition("/")[2].startswith(f"{job.id}.")
            with bench.files.open(file.key) as opened:
                assert hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256


def test_new_videos_go_to_the_bucket_that_is_named_at_once_and_back(
    bench: Bench, buckets: Buckets, s3_server: seaweed.Server
) -> None:
    bench.start_worker()
    before = make(bench)
    used = buckets.use(described(s3_server))
    with_it = make(bench, num_videos=2)
    second = buckets.use(described(s3_server))
    with_second = make(bench)
    assert buckets.reset()
    after = make(bench)
    assert used.id != second.id
    for job, place in (
        (before, "videos"),
        (with_it, used.id),
        (with_second, second.id),
        (after, "videos"),
    ):
        check_files(bench, job, place)
        assert set(stored_keys(job.videos)) == {
            file.key for file in bench.files.files_in(place) if f"/{job.id}." in file.key
        }
    assert len(stored_keys(with_it.videos)) == 6, "pictures too"
    results = results_of(bench)
    assert results.public_url_for(before) is None
    assert with_it.video is not None
    assert results.public_url_for(with_it) == f"{PUBLIC}/{used.prefix}/{with_it.video.key}"
    assert (results.public_url_for(with_it, 1) or "").endswith(".1.mp4")
    assert (results.public_url_for(with_it, 1, "thumbnail") or "").endswith(".webp")
    assert results.public_url_for(with_it, 2) is None
    assert results.provenance(with_it).state == "valid"
    stored = results.open_video(with_second)
    assert b"".join(stored.read(0, stored.num_bytes))[4:8] == b"ftyp"


def test_a_job_that_runs_takes_part_and_a_restart_forgets_nothing(
    bench: Bench, buckets: Buckets, s3_server: seaweed.Server, tmp_path: Path
) -> None:
    bench.step_seconds = 0.05
    running = bench.submit(num_inference_steps=40)
    bench.start_worker()
    bench.wait(running, lambda found: found.stage == "denoise")
    used = buckets.use(described(s3_server))
    check_files(bench, bench.ended(running), used.id)
    bench.stop()
    bench.store.close()
    bench.store = Store.open(f"sqlite:///{tmp_path / 'jobs.db'}", cipher=CIPHER)
    bench.files = places_of(bench)  # type: ignore[assignment]
    bench.start_worker()
    check_files(bench, make(bench), used.id)
    check_files(bench, bench.store.get(running.id), used.id)


def test_a_bucket_is_tried_before_it_is_taken(
    bench: Bench, buckets: Buckets, s3_server: seaweed.Server, caplog: pytest.LogCaptureFixture
) -> None:
    good = buckets.use(described(s3_server))
    for wrong, meaning in (
        ({"secret_access_key": "wrong-secret"}, "refuses the credentials"),
        (
            {"access_key_id": seaweed.READER, "secret_access_key": seaweed.READER_SECRET},
            "cannot be written to with these credentials",
        ),
        ({"bucket": "no-such-bucket"}, "there is no bucket `no-such-bucket`"),
        ({"endpoint": "http://127.0.0.1:9"}, "does not answer"),
    ):
        with pytest.raises(BucketRefused, match=meaning) as caught:
            buckets.use(described(s3_server, **wrong))
        assert "secret" not in caught.value.message
    assert bench.store.bucket_in_use() == replace(good, secret_access_key="")
    assert bench.store.bucket_ids() == [good.id]
    assert list(bench.files.files_in(good.id)) == []
    assert "wrong-secret" not in caplog.text
    for name, value in (
        ("bucket", "B"),
        ("prefix", "../up"),
        ("prefix", "a//b"),
        ("prefix", "a" * 201),
        ("region", "us east"),
        ("public_url", "ftp://videos"),
        ("public_url", "https://videos.example/?a=b"),
        ("access_key_id", ""),
        ("secret_access_key", "two words"),
    ):
        with pytest.raises(InvalidParameter) as refused:
            buckets.use(described(s3_server, **{name: value}))
        assert refused.value.parameter == name
        assert "two words" not in refused.value.message


def test_the_endpoint_must_be_one_that_this_server_may_go_to(bench: Bench) -> None:
    def refusal(allow: AllowList | None, endpoint: str) -> str:
        buckets = Buckets(bench.store, None if allow is None else outbound(allow))
        bucket = Bucket(
            id="",
            bucket="videos",
            prefix="",
            endpoint=endpoint,
            region="us-east-1",
            path_style=True,
            access_key_id="a",
            secret_access_key="b",
        )
        try:
            asyncio.run(buckets.check_address(bucket))
        except InvalidParameter as error:
            assert error.parameter == "endpoint"
            return error.rule
        return ""

    nobody = AllowList()
    assert "no public address" in refusal(nobody, "https://127.0.0.1")
    assert "no public address" in refusal(nobody, "https://169.254.169.254")
    assert "begin with https" in refusal(nobody, "http://93.184.215.14")
    assert "port must be" in refusal(nobody, "https://93.184.215.14:9000")
    assert "user name" in refusal(nobody, "https://a:b@93.184.215.14")
    assert refusal(nobody, "https://93.184.215.14") == ""
    assert refusal(ALLOWED, "http://127.0.0.1:9000") == ""
    assert refusal(None, "https://93.184.215.14") == "URLs are not called by this server"


def test_an_endpoint_that_is_not_allowed_any_more_is_not_gone_to(
    bench: Bench, buckets: Buckets, s3_server: seaweed.Server
) -> None:
    used = buckets.use(described(s3_server))
    strict = OpenBuckets(bench.store, lambda: outbound(AllowList()))
    with pytest.raises(StorageUnavailable, match="cannot be opened: the URL is refused"):
        strict.open(used.id)
    with pytest.raises(StorageError, match="no bucket `vitascope-0`"):
        strict.open("vitascope-0")
    others = Store.open(f"sqlite:///{bench.folder / 'jobs.db'}", cipher=Cipher((b"x" * 32,)))
    with pytest.raises(StorageUnavailable, match="encrypted with another key"):
        OpenBuckets(others, outbound).open(used.id)
    others.close()


def test_a_bucket_that_goes_away_is_waited_for_and_a_reset_ends_the_waiting(
    bench: Bench, buckets: Buckets, caplog: pytest.LogCaptureFixture
) -> None:
    with seaweed.running() as server:
        used = buckets.use(described(server))
        bench.start_worker(lease_seconds=2)
        earlier = make(bench)
        server.stop()
        waiting = bench.submit(num_inference_steps=1)
        eventually(lambda: "does not answer: tried again" in caplog.text, 120)
        bench.wait(waiting, lambda found: found.stage == "store")
        buckets.reset()
        ended = bench.ended(waiting)
        assert ended.attempt == 1
        check_files(bench, ended, "videos")
        with pytest.raises(StorageUnavailable):
            results_of(bench).open_video(bench.store.get(earlier.id))
        server.start()

        def is_readable() -> bool:  # its volumes come after its doors
            with contextlib.suppress(StorageUnavailable):
                check_files(bench, bench.store.get(earlier.id), used.id)
                return True
            return False

        eventually(is_readable, 60)


def test_other_credentials_mend_a_bucket_everywhere(
    bench: Bench, buckets: Buckets, s3_server: seaweed.Server
) -> None:
    described_once = described(s3_server)
    used = buckets.use(described_once)
    bench.start_worker()
    job = make(bench)
    bench.store.use_bucket(replace(used, secret_access_key="revoked"))
    elsewhere = places_of(bench)
    for places in (bench.files, elsewhere):
        with pytest.raises(StorageUnavailable, match="answers 403"):
            places.stat(stored_keys(job.videos)[0])
    assert buckets.use(described_once).id == used.id
    for places in (bench.files, elsewhere):
        assert places.stat(stored_keys(job.videos)[0]).num_bytes


def test_files_go_from_the_bucket_as_from_the_folder(
    bench: Bench, buckets: Buckets, s3_server: seaweed.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a job is deleted, when its time is over, and when nobody needs them; nothing else that is in the bucket goes."""
    used = buckets.use(described(s3_server))
    bench.start_worker()
    kept, deleted, expiring = make(bench), make(bench), make(bench, expires_in_seconds=3600)
    # other people's, in the same directory: other names, and what looks like a video of ours
    strangers = replace(used, id=f"{KEYS_BEGIN}strangers")
    bench.store.use_bucket(strangers)
    foreign = f"{strangers.id}/{deleted.id}.1.0.mp4"
    bench.files.put_bytes(b"theirs", foreign)
    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "bucket_ids", lambda: [used.id])  # as another deployment's store has it
        buckets.reset()
        for key in bench.store.delete(deleted.id):
            if "thumbnail" not in key:
                bench.files.delete(key)
        later = Store.open(
            f"sqlite:///{bench.folder / 'jobs.db'}", lambda: datetime.now(UTC) + timedelta(hours=2)
        )
        Expiry(later, bench.files).advance()
        later.close()
        orphan = f"{used.id}/{deleted.id}.9.0.mp4"
        bench.files.put_bytes(b"orphan", orphan)
        patch.setattr(sweep, "LEAST_AGE_SECONDS", -1.0)
        sweep.SweepElsewhere(bench.store, bench.files).sweep()
    assert {file.key for file in bench.files.files_in(used.id)} == set(stored_keys(kept.videos))
    assert bench.store.get(expiring.id).expired_at is not None
    assert [file.key for file in bench.files.files_in(strangers.id)] == [foreign]


def test_a_place_that_is_away_keeps_no_other_from_being_swept(
    bench: Bench, buckets: Buckets, s3_server: seaweed.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "LEAST_AGE_SECONDS", -1.0)
    used = [buckets.use(described(s3_server)) for _ in range(2)]
    bench.start_worker()
    make(bench)
    bench.stop()
    for bucket in used:
        bench.files.put_bytes(b"orphan", f"{bucket.id}/job1.9.0.mp4")
    away = bench.store.bucket(used[0].id)
    assert away is not None
    bench.store.use_bucket(replace(away, endpoint="http://127.0.0.1:9"))
    swept = sweep.SweepElsewhere(bench.store, bench.files)
    swept.begin()
    eventually(lambda: f"{used[1].id}/job1.9.0.mp4" not in listed(bench, used[1]), 120)
    bench.store.use_bucket(away)
    assert f"{used[0].id}/job1.9.0.mp4" in listed(bench, used[0])


def listed(bench: Bench, bucket: Bucket) -> set[str]:
    return {file.key for file in bench.files.files_in(bucket.id)}


def test_a_video_in_a_bucket_can_be_made_an_input(
    bench: Bench, buckets: Buckets, s3_server: seaweed.Server
) -> None:
    buckets.use(described(s3_server))
    bench.start_worker()
    job = make(bench)
    assert job.video is not None
    bench.files.copy(job.video.key, "inputs/again.video")
    path = bench.files.path_for("inputs/again.video")
    assert path is not None
    assert media.probe(path).num_frames == job.video.num_frames
    continued = make(bench, video="inputs/again.video", strength=1.0)
    assert continued.status is JobStatus.SUCCEEDED

"""Several videos of one job with their pictures, and the end users for whom jobs are made."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from vitascope.domain.errors import StorageLimitReached
from vitascope.domain.job import Job, JobError, JobStatus, Lease
from vitascope.domain.video import Picture, Video
from vitascope.store import Store
from vitascope.store.database import connect
from vitascope.store.tables import HEAD
from vitascope.store.upgrade import MIGRATIONS

SIZE: dict[str, Any] = {"sha256": "00", "height": 64, "width": 96}


def video(index: int, job_id: str = "a") -> Video:
    """A video of 100 bytes with pictures of 10 and 1."""
    stem = f"videos/{job_id}.1.{index}"
    return Video(
        index=index,
        key=f"{stem}.mp4",
        media_type="video/mp4",
        num_bytes=100,
        num_frames=17,
        fps=8,
        thumbnail=Picture(key=f"{stem}.thumbnail.webp", media_type="image/webp", num_bytes=10, **SIZE),
        spritesheet=Picture(key=f"{stem}.spritesheet.jpg", media_type="image/jpeg", num_bytes=1, **SIZE),
        **SIZE,
    )


def claimed(store: Store) -> Lease:
    lease = store.claim("w1", 15.0)
    assert lease is not None
    return lease


def keys(*videos: Video) -> list[str]:
    return [file.key for one in videos for file in one.files]


class TestVideos:
    def test_they_are_read_back_by_their_index(self, store: Store, create: Callable[..., Job]) -> None:
        create(num_videos=3)
        failed = [{"index": 1, "code": "out_of_memory", "message": "The device ran out of memory."}]
        store.succeed(claimed(store), [video(0), video(2)], {"failed_videos": failed})
        job = store.get("a")
        assert job.videos == (video(0), video(2))
        assert job.video == video(0)
        assert job.failed_videos == {1: JobError("out_of_memory", "The device ran out of memory.")}

    def test_a_key_is_charged_with_all_that_is_stored(self, store: Store, create: Callable[..., Job]) -> None:
        create(num_videos=2, key_id="k")
        store.succeed(claimed(store), [video(0), video(1)], {})
        with pytest.raises(StorageLimitReached, match="222 bytes"):
            create("b", key_id="k", max_storage_bytes=222)
        create("b", key_id="k", max_storage_bytes=223)

    def test_deleting_names_every_file(self, store: Store, create: Callable[..., Job]) -> None:
        create(num_videos=2, image="inputs/a.png")
        made = [video(0), video(1)]
        store.succeed(claimed(store), made, {})
        assert store.unowned(keys(*made)) == set()
        assert store.delete("a") == ["inputs/a.png", *keys(*made)]
        assert store.unowned(keys(*made)) == set(keys(*made))

    def test_a_job_that_was_deleted_while_it_ran_keeps_none(
        self, store: Store, create: Callable[..., Job]
    ) -> None:
        create(num_videos=2)
        lease = claimed(store)
        store.delete("a")
        assert store.succeed(lease, [video(0), video(1)], {}) == keys(video(0), video(1))

    def test_all_of_them_expire(self, store: Store, create: Callable[..., Job], clock: Any) -> None:
        create(num_videos=2, expires_in_seconds=60)
        store.succeed(claimed(store), [video(0), video(1)], {})
        clock.now += timedelta(seconds=130)
        (removal,) = store.begin_removal(10)
        assert list(removal.keys) == keys(video(0), video(1))


class TestUsers:
    def test_jobs_are_listed_by_user(self, store: Store, create: Callable[..., Job]) -> None:
        for job_id, user, key_id in [("a", "ann", ""), ("b", None, ""), ("c", "ann", "k"), ("d", "bob", "")]:
            create(job_id, user=user, key_id=key_id)

        def listed(**asked: Any) -> str:
            return "".join(job.id for job in store.page(**asked).jobs)

        assert listed(user="ann") == "ca"
        assert listed(user="ann", order="asc", limit=1) == "a"
        assert listed(user="ann", after="c") == "a"
        assert listed(user="ann", owner="k") == "c"
        assert listed(user="ann", statuses=[JobStatus.RUNNING]) == ""
        assert listed(user="nobody") == listed(user="") == ""
        assert listed() == "dcba"

    def test_a_name_that_databases_refuse_is_no_danger(
        self, store: Store, create: Callable[..., Job]
    ) -> None:
        create(user="a\0b\ud800")
        assert [job.id for job in store.page(user="a\0b\ud800").jobs] == ["a"]


OLD_VIDEO = {
    "key": "videos/a.1.mp4",
    "media_type": "video/mp4",
    "num_bytes": 100,
    "num_frames": 17,
    "fps": 8,
    **SIZE,
}


def test_jobs_of_the_revision_before_are_kept(
    url: str, open_store: Callable[[], Store], create: Callable[..., Job]
) -> None:
    """A job with its one video and its user, as revision 0009 had it."""
    create(user="ann\0")
    create("b")
    with closing(connect(url)) as database:
        with database.write() as connection:
            connection.execute(sa.text("DROP INDEX ix_jobs_user_number"))
            connection.execute(sa.text('ALTER TABLE jobs DROP COLUMN "user"'))
            connection.execute(sa.text("ALTER TABLE jobs RENAME COLUMN videos TO video"))
            ended = "status = 'succeeded', finished_at = created_at, num_bytes = 100"
            update = sa.text(f"UPDATE jobs SET video = :video, {ended} WHERE id = 'a'")
            connection.execute(update, {"video": json.dumps(OLD_VIDEO)})
        with database.upgrade_lock(), database.write() as connection:
            arguments = Config()
            arguments.set_main_option("script_location", str(MIGRATIONS))
            arguments.set_main_option("path_separator", "os")
            arguments.attributes["connection"] = connection
            command.stamp(arguments, "0009")
            command.upgrade(arguments, "0010")
            command.stamp(arguments, HEAD)  # the rest is there already
    store = open_store()
    assert store.get("a").videos == (Video(**OLD_VIDEO),)
    assert store.get("b").videos == ()
    assert [job.id for job in store.page(user="ann\0").jobs] == ["a"]

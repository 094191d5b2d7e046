"""Public videos, whatever the database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from vitascope.domain.errors import InvalidParameter
from vitascope.domain.job import Job
from vitascope.domain.video import Video
from vitascope.store import Store
from vitascope.store.for_gallery import _IS_SHOWN
from vitascope.store.tables import jobs

Create = Callable[..., Job]


def end(store: Store, job_id: str) -> None:
    lease = store.claim("w", 15.0, job_id=job_id)
    assert lease is not None
    video = Video(
        key=f"videos/{job_id}.mp4", media_type="video/mp4", num_bytes=1, sha256="", height=2, width=2, num_frames=1, fps=1
    )  # fmt: skip
    store.succeed(lease, [video], {})


def shown(store: Store, clock: Any, **asked: Any) -> list[str]:
    return [job.id for job in store.gallery(now=clock(), **asked).jobs]


class TestGallery:
    def test_only_what_is_public_and_there_is_shown(self, store: Store, create: Create, clock: Any) -> None:
        create("private", key_id="a")
        for name in ("old", "waits", "expires", "deleted", "new"):
            create(name, key_id=name, is_public=True, expires_in_seconds=60 if name == "expires" else None)
        assert shown(store, clock) == []
        for name in ("private", "old", "expires", "deleted", "new"):
            end(store, name)
        assert shown(store, clock) == ["new", "deleted", "expires", "old"], "the newest first, whosever"
        store.delete("deleted")
        assert shown(store, clock) == ["new", "expires", "old"]
        page = store.gallery(now=clock() + timedelta(seconds=61))
        assert [job.id for job in page.jobs] == ["new", "old"]

    def test_pages_go_on_after_what_is_shown_no_more(self, store: Store, create: Create, clock: Any) -> None:
        for name in ("a", "b", "c"):
            create(name, is_public=True)
            end(store, name)
        page = store.gallery(now=clock(), limit=2)
        assert ([job.id for job in page.jobs], page.has_more) == (["c", "b"], True)
        store.delete("b")
        page = store.gallery(now=clock(), limit=2, after="b")
        assert ([job.id for job in page.jobs], page.has_more) == (["a"], False)

    @pytest.mark.parametrize("after", ["private", "nobody", "\x00", "x" * 999])
    def test_others_jobs_are_no_places(self, store: Store, create: Create, clock: Any, after: str) -> None:
        create("private")
        with pytest.raises(InvalidParameter, match="no public video has this id"):
            store.gallery(now=clock(), after=after)

    def test_a_page_costs_no_look_at_all_jobs(self, store: Store) -> None:
        query = sa.select(jobs.c.id).where(_IS_SHOWN).order_by(jobs.c.number.desc()).limit(20)
        with store._database.read() as connection:
            if connection.dialect.name != "sqlite":
                return  # PostgreSQL decides by what is in the table
            text = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
            plan = " ".join(str(row) for row in connection.execute(sa.text(f"EXPLAIN QUERY PLAN {text}")))
        assert "ix_jobs_public" in plan

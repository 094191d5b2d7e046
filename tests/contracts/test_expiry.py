"""Files that are kept for a while only: on every database, with sweepers killed at each point, in twos, and with clocks turned."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from vitascope.domain.errors import (
    JobNotFound,
    StorageError,
    StorageLimitReached,
    StoreUnavailable,
    VideoExpired,
    VideoFailed,
)
from vitascope.domain.job import Job, JobError, JobStatus
from vitascope.domain.video import Video
from vitascope.service import Expiry, Service, expiry
from vitascope.storage import LocalStorage
from vitascope.store import Removal, Store
from vitascope.store.for_expiry import GRACE, TRY_AGAIN, _begun, _expired
from vitascope.worker import sweep
from vitascope.worker.sweep import Sweep

KEPT_SECONDS = 600
GONE_SECONDS = KEPT_SECONDS + GRACE.total_seconds()
AGAIN_SECONDS = TRY_AGAIN.total_seconds()

Create = Callable[..., Job]


@pytest.fixture
def files(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "files")


@pytest.fixture
def service(store: Store, files: LocalStorage, clock: Any) -> Service:
    return Service(store, None, files, clock=clock)  # type: ignore[arg-type]


@pytest.fixture
def make(store: Store, create: Create, files: LocalStorage) -> Callable[..., Job]:
    """Makes a job with a picture of its own and a video, or one that failed."""

    def make_one(job_id: str, *, fails: bool = False, **asked: Any) -> Job:
        asked = {"image": f"inputs/{job_id}.png", "expires_in_seconds": KEPT_SECONDS, **asked}
        if asked["image"] is not None:
            files.put_bytes(b"picture", asked["image"])
        create(job_id, **asked)
        lease = store.claim("w1", 15)
        assert lease is not None
        if fails:
            store.fail(lease, JobError("out_of_memory", "The device ran out of memory."))
        else:
            key = f"videos/{job_id}.1.mp4"
            files.put_bytes(b"video", key)
            store.succeed(lease, [video(key)], {})
        return store.get(job_id)

    return make_one


def video(key: str, num_bytes: int = 5) -> Video:
    return Video(
        key=key,
        media_type="video/mp4",
        num_bytes=num_bytes,
        sha256="",
        height=64,
        width=96,
        num_frames=17,
        fps=8,
    )


def there(files: LocalStorage) -> set[str]:
    return {file.key for folder in ("inputs", "videos") for file in files.files_in(folder)}


def removed(store: Store, max_jobs: int = 100) -> list[str]:
    return [removal.job_id for removal in store.begin_removal(max_jobs)]


def check_truth(store: Store, files: LocalStorage, service: Service, job_ids: str) -> None:
    """Whatever has happened: a file that is gone is told as expired, and none is said to be gone that is there."""
    there_now = there(files)
    for job_id in job_ids:
        job = store.get(job_id)
        own = {key for key in (f"inputs/{job_id}.png", f"videos/{job_id}.1.mp4") if key in there_now}
        if job.expired_at is not None:
            assert not own, f"{job_id} is told expired, and {own} is there"
        if job.video is None:
            with pytest.raises(VideoFailed):
                service.results.open_video(job)
        elif job.video.key not in there_now:
            with pytest.raises(VideoExpired):
                service.results.open_video(job)


class TestStore:
    def test_time_counts_from_the_end(self, store: Store, create: Create, clock: Any) -> None:
        create(expires_in_seconds=KEPT_SECONDS)
        clock.advance(10 * KEPT_SECONDS)  # waiting for its turn costs nothing
        assert store.get("a").expires_at is None
        lease = store.claim("w1", 15)
        assert lease is not None
        assert lease.job.expires_at is None
        clock.advance(7)
        store.succeed(lease, [video("videos/a.mp4")], {})
        job = store.get("a")
        assert job.expires_at == clock.now + timedelta(seconds=KEPT_SECONDS)
        assert (job.expired_at, job.is_expired(clock.now)) == (None, False)
        assert not job.is_expired(clock.now + timedelta(seconds=KEPT_SECONDS - 1))
        assert job.is_expired(clock.now + timedelta(seconds=KEPT_SECONDS))

    def test_every_end_counts(self, store: Store, create: Create, clock: Any) -> None:
        """A job that failed has what was sent for it."""
        for job_id in "abcd":
            create(job_id, expires_in_seconds=KEPT_SECONDS)
        store.request_cancel("d")
        for end in (
            lambda lease: store.fail(lease, JobError("internal_error", "")),
            lambda lease: store.release(lease, count_attempt=True, max_attempts=1),
            lambda lease: (store.request_cancel(lease.job.id), store.finish_cancelled(lease)),
        ):
            end(store.claim("w1", 15))
        assert {store.get(job_id).expires_at for job_id in "abcd"} == {
            clock.now + timedelta(seconds=KEPT_SECONDS)
        }

    def test_a_job_that_is_queued_again_has_not_ended(self, store: Store, create: Create) -> None:
        create(expires_in_seconds=KEPT_SECONDS)
        lease = store.claim("w1", 15)
        assert lease is not None
        store.release(lease, count_attempt=True)
        assert store.get("a").expires_at is None

    def test_what_is_to_be_kept_is_never_chosen(
        self, store: Store, make: Callable[..., Job], clock: Any
    ) -> None:
        make("a", expires_in_seconds=None)
        make("b")
        clock.advance(GONE_SECONDS - 1)  # it is given out no more, but is still there for who has been let in
        assert removed(store) == []
        assert store.count_overdue() == 0
        clock.advance(1)
        assert store.count_overdue() == 1
        assert store.begin_removal(10) == [Removal("b", ("inputs/b.png", "videos/b.1.mp4"))]
        assert store.count_overdue() == 1
        assert store.finish_removal(["b"]) == 1
        assert store.count_overdue() == 0
        clock.advance(10 * AGAIN_SECONDS)
        assert removed(store) == []
        assert store.get("b").expired_at is not None
        assert store.get("a").expires_at is None

    def test_the_longest_expired_go_first_in_bounded_numbers(
        self, store: Store, make: Callable[..., Job], clock: Any
    ) -> None:
        for job_id in "abc":
            make(job_id)
            clock.advance(1)
        clock.advance(GONE_SECONDS)
        assert removed(store, 2) == ["a", "b"]
        assert removed(store, 2) == ["c"]

    def test_what_was_begun_is_nobody_elses_for_a_while(
        self, store: Store, open_store: Callable[[], Store], make: Callable[..., Job], clock: Any
    ) -> None:
        make("a")
        clock.advance(GONE_SECONDS)
        other = open_store()
        assert removed(store) == ["a"]
        assert removed(other) == []
        clock.advance(AGAIN_SECONDS)
        assert removed(other) == ["a"]
        assert other.finish_removal(["a"]) == 1
        told = other.get("a").expired_at
        clock.advance(1)
        assert store.finish_removal(["a"]) == 0
        assert store.get("a").expired_at == told

    def test_nothing_is_finished_that_was_not_begun(
        self, store: Store, make: Callable[..., Job], clock: Any
    ) -> None:
        make("a")
        clock.advance(GONE_SECONDS)
        assert store.finish_removal(["a", "nobody"]) == 0
        assert store.get("a").expired_at is None

    def test_a_removal_that_was_begun_is_not_taken_back_by_a_clock(
        self, store: Store, make: Callable[..., Job], clock: Any
    ) -> None:
        make("a")
        clock.advance(GONE_SECONDS)
        assert removed(store) == ["a"]
        clock.advance(-GONE_SECONDS)
        job = store.get("a")
        assert job.is_expired(clock.now)
        assert removed(store) == ["a"], "its mark is of the future: whoever made it is not at it"

    def test_a_deleted_job_is_no_exception(self, store: Store, make: Callable[..., Job], clock: Any) -> None:
        """Who deleted it may have been killed before its files were."""
        make("a")
        store.delete("a")
        clock.advance(GONE_SECONDS)
        assert removed(store) == ["a"]
        assert store.finish_removal(["a"]) == 1
        assert removed(store) == []

    def test_only_what_is_there_counts_for_a_keys_storage(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        create(expires_in_seconds=KEPT_SECONDS, key_id="k1")
        lease = store.claim("w1", 15)
        assert lease is not None
        store.succeed(lease, [video("videos/a.mp4", num_bytes=1000)], {})
        clock.advance(GONE_SECONDS)
        assert removed(store) == ["a"]
        with pytest.raises(StorageLimitReached):  # as long as it may be there
            create("b", key_id="k1", max_storage_bytes=1000)
        store.finish_removal(["a"])
        create("b", key_id="k1", max_storage_bytes=1000)

    def test_files_of_an_expired_job_are_nobodys(
        self, store: Store, make: Callable[..., Job], clock: Any
    ) -> None:
        """What an attempt that was lost has left, and comes late, is swept."""
        make("a")
        keys = ["inputs/a.png", "videos/a.1.mp4", "videos/a.7.mp4"]
        assert store.unowned(keys) == {"videos/a.7.mp4"}
        clock.advance(GONE_SECONDS)
        assert removed(store) == ["a"]
        assert store.unowned(keys) == {"videos/a.7.mp4"}
        store.finish_removal(["a"])
        assert store.unowned(keys) == set(keys)

    def test_lists_and_events_stay_as_they_were(
        self, store: Store, make: Callable[..., Job], clock: Any
    ) -> None:
        made = make("a")
        events = store.events("a")
        clock.advance(GONE_SECONDS)
        removed(store)
        store.finish_removal(["a"])
        (job,) = store.page().jobs
        assert (job.status, job.video, job.progress) == (JobStatus.SUCCEEDED, made.video, 100)
        assert job.expired_at == clock.now
        assert store.events("a") == events

    def test_looking_costs_no_more_with_each_job_that_is_kept(self, store: Store, clock: Any) -> None:
        database = store._database
        if not database.has_quick_reads:
            pytest.skip("the planner of PostgreSQL decides by the size of tables")
        for query, index in ((_begun, "ix_jobs_removal_tried_at"), (_expired, "ix_jobs_expires_at")):
            with database.read() as connection:
                compiled = query(clock.now).compile(
                    connection, compile_kwargs={"literal_binds": True, "render_postcompile": True}
                )
                told = connection.execute(sa.text(f"EXPLAIN QUERY PLAN {compiled}")).all()
            assert [f"USING INDEX {index} " in row.detail for row in told] == [True], told


class Killed(BaseException):
    """The process is gone."""


class Fragile:
    """A store and a storage that kill who calls them, at the call of that number: before it has done anything, or after all of it."""

    def __init__(self, store: Store, files: LocalStorage, at: int, *, after: bool) -> None:
        self._store, self._files = store, files
        self._left, self._after = at, after
        self.is_dead = False

    def _do(self, call: Callable[[], Any]) -> Any:
        assert not self.is_dead
        self._left -= 1
        if self._left >= 0:
            return call()
        self.is_dead = True
        if self._after:
            call()
        raise Killed

    def begin_removal(self, max_jobs: int) -> Sequence[Removal]:
        return self._do(lambda: self._store.begin_removal(max_jobs))  # type: ignore[no-any-return]

    def finish_removal(self, job_ids: Collection[str]) -> int:
        return self._do(lambda: self._store.finish_removal(job_ids))  # type: ignore[no-any-return]

    def delete(self, key: str) -> None:
        self._do(lambda: self._files.delete(key))


class TestSweeper:
    @pytest.mark.parametrize("back", [0, 2 * GONE_SECONDS], ids=["", "clock set back"])
    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("point", range(7))
    def test_killed_at_each_point(
        self,
        store: Store,
        files: LocalStorage,
        service: Service,
        make: Callable[..., Job],
        clock: Any,
        point: int,
        after: bool,
        back: float,
    ) -> None:
        """The calls: begin, delete four times, finish; at the last point nobody is killed."""
        for job_id in "ab":
            make(job_id)
        make("c", fails=True, image=None)
        make("d", expires_in_seconds=None)
        clock.advance(GONE_SECONDS)
        fragile = Fragile(store, files, point, after=after)
        if point < 6:
            with pytest.raises(Killed):
                Expiry(fragile, fragile).advance()
        else:
            Expiry(fragile, fragile).advance()
        assert fragile.is_dead == (point < 6)
        clock.advance(-back)
        check_truth(store, files, service, "abcd")
        clock.advance(AGAIN_SECONDS + back)
        Expiry(store, files).advance()
        check_truth(store, files, service, "abcd")
        assert there(files) == {"inputs/d.png", "videos/d.1.mp4"}
        assert [store.get(job_id).expired_at is not None for job_id in "abcd"] == [True] * 3 + [False]
        service.results.open_video(store.get("d"))  # which is not refused

    def test_a_failed_jobs_files_go_too(
        self, store: Store, files: LocalStorage, make: Callable[..., Job], clock: Any
    ) -> None:
        make("a", fails=True)
        clock.advance(GONE_SECONDS)
        Expiry(store, files).advance()
        assert there(files) == set()
        assert store.get("a").expired_at == clock.now

    def test_several_at_once_do_it_once(
        self,
        store: Store,
        open_store: Callable[[], Store],
        files: LocalStorage,
        service: Service,
        make: Callable[..., Job],
        clock: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(expiry, "JOBS_AT_ONCE", 3)
        job_ids = "abcdefghijklmnopqrstuvwxyz"
        for job_id in job_ids:
            make(job_id)
        clock.advance(GONE_SECONDS)
        deleted: list[str] = []
        errors: list[BaseException] = []

        class Noted:
            def delete(self, key: str) -> None:
                deleted.append(key)
                files.delete(key)

        start = threading.Barrier(4)

        def sweep(own: Store) -> None:
            start.wait()
            try:
                while Expiry(own, Noted()).advance():
                    pass
            except BaseException as error:  # noqa: BLE001  shown by the assertion
                errors.append(error)

        threads = [threading.Thread(target=sweep, args=(open_store(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        Expiry(store, files).advance()  # what one of them left while another held it
        assert errors == []
        assert there(files) == set()
        assert len(deleted) == len(set(deleted)), "none was deleted twice"
        check_truth(store, files, service, job_ids)
        assert all(store.get(job_id).expired_at for job_id in job_ids)

    def test_one_that_is_slow_meets_another(
        self, store: Store, files: LocalStorage, service: Service, make: Callable[..., Job], clock: Any
    ) -> None:
        """It was taken for dead after a minute; what it does then changes nothing."""
        make("a")
        clock.advance(GONE_SECONDS)

        class Slow:
            def delete(self, key: str) -> None:
                clock.advance(AGAIN_SECONDS)
                Expiry(store, files).advance()
                check_truth(store, files, service, "a")
                files.delete(key)

        Expiry(store, Slow()).advance()
        check_truth(store, files, service, "a")
        assert there(files) == set()

    def test_a_storage_that_is_away_is_tried_later(
        self,
        store: Store,
        files: LocalStorage,
        service: Service,
        make: Callable[..., Job],
        clock: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        for job_id in "abcdef":
            make(job_id)
        clock.advance(GONE_SECONDS)
        tried: list[str] = []

        class Away:
            def delete(self, key: str) -> None:
                tried.append(key)
                raise StorageError("the storage does not answer")

        Expiry(store, Away()).advance()
        assert len(tried) == expiry.FAILURES_AT_ONCE, "it is not asked for each of thousands"
        assert "does not answer" in caplog.text
        assert store.count_overdue() == 6
        check_truth(store, files, service, "abcdef")
        with pytest.raises(VideoExpired):
            service.results.open_video(store.get("a"))
        Expiry(store, files).advance()
        assert store.count_overdue() == 6, "not at once again"
        clock.advance(AGAIN_SECONDS)
        Expiry(store, files).advance()
        assert there(files) == set()
        assert store.count_overdue() == 0

    def test_a_file_that_cannot_be_deleted_keeps_no_other(
        self, store: Store, files: LocalStorage, service: Service, make: Callable[..., Job], clock: Any
    ) -> None:
        for job_id in "abc":
            make(job_id)
        clock.advance(GONE_SECONDS)

        class Stubborn:
            def delete(self, key: str) -> None:
                if key == "videos/a.1.mp4":
                    raise StorageError
                files.delete(key)

        Expiry(store, Stubborn()).advance()
        assert there(files) == {"videos/a.1.mp4"}
        assert [store.get(job_id).expired_at is None for job_id in "abc"] == [True, False, False]
        check_truth(store, files, service, "abc")

    def test_files_that_can_never_be_deleted_do_not_keep_the_others_for_ever(
        self, store: Store, files: LocalStorage, make: Callable[..., Job], clock: Any
    ) -> None:
        for job_id in "abcdef":
            make(job_id)
        clock.advance(GONE_SECONDS)

        class Locked:
            def delete(self, key: str) -> None:
                if key[key.index("/") + 1] in "abcd":
                    raise StorageError
                files.delete(key)

        sweeper = Expiry(store, Locked())
        sweeper.advance()
        assert store.count_overdue() == 6, "three in a row look like a storage that is away"
        clock.advance(AGAIN_SECONDS)
        sweeper.advance()
        clock.advance(AGAIN_SECONDS)
        sweeper.advance()
        assert store.count_overdue() == 4

    def test_it_outlives_a_store_that_is_away_and_a_surprise(self, files: LocalStorage) -> None:
        calls: list[int] = []

        class Odd:
            def begin_removal(self, max_jobs: int) -> Iterator[Removal]:
                calls.append(max_jobs)
                if len(calls) == 1:
                    raise StoreUnavailable("away")
                if len(calls) == 2:
                    raise RuntimeError("nobody foresaw it")
                sweeper.stop()
                return iter(())

            def finish_removal(self, job_ids: Collection[str]) -> int:
                raise AssertionError

        sweeper = Expiry(Odd(), files, pass_seconds=0)  # type: ignore[arg-type]
        sweeper.run()
        assert len(calls) == 3

    def test_it_stops_between_two_jobs(
        self, store: Store, files: LocalStorage, service: Service, make: Callable[..., Job], clock: Any
    ) -> None:
        for job_id in "ab":
            make(job_id)
        clock.advance(GONE_SECONDS)

        class Last:
            def delete(self, key: str) -> None:
                files.delete(key)
                sweeper.stop()

        sweeper = Expiry(store, Last())
        sweeper.run()
        assert there(files) == {"inputs/b.png", "videos/b.1.mp4"}
        check_truth(store, files, service, "ab")
        assert store.get("a").expired_at is not None

    def test_the_clock_set_forward_and_back(
        self, store: Store, files: LocalStorage, service: Service, make: Callable[..., Job], clock: Any
    ) -> None:
        make("a")
        clock.advance(-100 * GONE_SECONDS)
        Expiry(store, files).advance()
        service.results.open_video(store.get("a"))  # which is not refused
        clock.advance(101 * GONE_SECONDS)
        Expiry(store, files).advance()
        told = store.get("a").expired_at
        assert told is not None
        clock.advance(-200 * GONE_SECONDS)
        Expiry(store, files).advance()
        assert store.get("a").expired_at == told
        with pytest.raises(VideoExpired):
            service.results.open_video(store.get("a"))
        check_truth(store, files, service, "a")

    @pytest.mark.parametrize("sweep_first", [False, True])
    def test_what_a_killed_worker_has_left_goes_too(
        self,
        store: Store,
        files: LocalStorage,
        create: Create,
        clock: Any,
        monkeypatch: pytest.MonkeyPatch,
        sweep_first: bool,
    ) -> None:
        """It was killed between putting its file and saying so; the next attempt made the video."""
        monkeypatch.setattr(sweep, "LEAST_AGE_SECONDS", 0.0)
        create("a", expires_in_seconds=KEPT_SECONDS)
        assert store.claim("w1", 15) is not None
        files.put_bytes(b"video", "videos/a.1.mp4")
        clock.advance(16)
        store.requeue_lapsed(max_attempts=3)
        lease = store.claim("w2", 15)
        assert lease is not None
        files.put_bytes(b"video", "videos/a.2.mp4")
        Sweep(store, files).advance()
        assert there(files) == {"videos/a.1.mp4", "videos/a.2.mp4"}, "the job has not ended"
        store.succeed(lease, [video("videos/a.2.mp4")], {})
        clock.advance(GONE_SECONDS)
        steps = [Expiry(store, files), Sweep(store, files)]
        for step in reversed(steps) if sweep_first else steps:
            step.advance()
        assert there(files) == set()

    def test_a_job_that_is_deleted_between_the_steps(
        self, store: Store, files: LocalStorage, make: Callable[..., Job], clock: Any
    ) -> None:
        make("a")
        clock.advance(GONE_SECONDS)

        class Deleting:
            def delete(self, key: str) -> None:
                if key.startswith("inputs/"):
                    for own in store.delete("a"):
                        files.delete(own)
                files.delete(key)

        Expiry(store, Deleting()).advance()
        assert there(files) == set()
        with pytest.raises(JobNotFound):
            store.get("a")


def test_a_surprise_in_one_removal_does_not_keep_the_others(caplog: pytest.LogCaptureFixture) -> None:
    others: list[int] = []

    class Odd:
        looks = 0

        def begin_removal(self, max_jobs: int) -> Sequence[Removal]:
            self.looks += 1
            if self.looks == 2:
                expiry_run.stop()
            message = "nobody foresaw this"
            raise RuntimeError(message)

        def finish_removal(self, job_ids: Collection[str]) -> int:
            return 0

    def other() -> bool:
        others.append(1)
        return False

    expiry_run = Expiry(Odd(), LocalStorage(Path("/nowhere")), pass_seconds=0, others=[other])
    expiry_run.run()
    assert len(others) == 2
    assert "expired files were not removed" in caplog.text

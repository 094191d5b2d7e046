"""What every store does, whatever the database. A second database is a second parameter of `url`."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from vitascope.domain.errors import InvalidParameter, JobConflict, JobNotFound, LeaseLost, QueueFull
from vitascope.domain.job import TRANSITIONS, Job, JobError, JobStatus, Lease
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.video import Video
from vitascope.store import Store
from vitascope.store.changes import move
from vitascope.store.tables import jobs

LEASE_SECONDS = 15.0
LIMIT = 100_000


def video(key: str = "videos/a.mp4") -> Video:
    return Video(
        key=key,
        media_type="video/mp4",
        num_bytes=10,
        sha256="00",
        height=64,
        width=96,
        num_frames=17,
        fps=8,
    )


@pytest.fixture(params=["sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def open_store(url: str, clock: Any) -> Iterator[Callable[[], Store]]:
    """Opens the same database again and again, as other processes do."""
    opened: list[Store] = []

    def open_one() -> Store:
        opened.append(Store.open(url, clock))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    return open_store()


@pytest.fixture
def create(store: Store, small_spec: ModelSpec) -> Callable[..., Job]:
    def create_one(job_id: str = "a", max_queued: int = LIMIT, **asked: Any) -> Job:
        request = GenerationRequest(**{"prompt": "a dog", "model": "sora-2", "seed": 1, **asked})
        return store.create(job_id, request, plan(request, small_spec), max_queued)

    return create_one


Create = Callable[..., Job]


def claimed(store: Store, worker_id: str = "w1") -> Lease:
    lease = store.claim(worker_id, LEASE_SECONDS)
    assert lease is not None
    return lease


def kinds(store: Store, job_id: str = "a") -> list[str]:
    found = store.events(job_id)
    assert [event.sequence for event in found] == list(range(1, len(found) + 1))
    return [event.kind for event in found]


class TestCreateAndRead:
    def test_a_job_is_read_back_as_it_was_created(self, store: Store, create: Create, clock: Any) -> None:
        made = create(metadata={"a": [1, "ü"]}, image="inputs/a.png", user="me")
        assert store.get("a") == made
        assert (made.status, made.progress, made.stage, made.attempt) == (JobStatus.QUEUED, 0, "", 0)
        assert made.request.metadata == {"a": [1, "ü"]}
        assert made.plan.model == "small"
        assert made.created_at == clock.now
        assert made.created_at.tzinfo is UTC
        assert kinds(store) == ["queued"]

    def test_another_process_sees_it_at_once(self, open_store: Callable[[], Store], create: Create) -> None:
        made = create()
        assert open_store().get("a") == made

    def test_an_unknown_job_is_not_found(self, store: Store) -> None:
        for call in (store.get, store.request_cancel, store.delete):
            with pytest.raises(JobNotFound):
                call("nobody")

    def test_a_full_queue_takes_nothing_more(self, store: Store, create: Create) -> None:
        create("a", max_queued=2)
        create("b", max_queued=2)
        with pytest.raises(QueueFull):
            create("c", max_queued=2)
        with pytest.raises(JobNotFound):
            store.get("c")
        claimed(store)
        create("d", max_queued=2)  # a running job does not wait

    def test_pages_follow_each_other_in_both_directions(self, store: Store, create: Create) -> None:
        for job_id in "abcde":
            create(job_id)
        store.delete("d")

        def ids(**asked: Any) -> tuple[str, bool]:
            page = store.page(**asked)
            return "".join(job.id for job in page.jobs), page.has_more

        assert ids(limit=2) == ("ec", True)
        assert ids(limit=2, after="c") == ("ba", False)
        assert ids(limit=3, order="asc") == ("abc", True)
        assert ids(limit=3, order="asc", after="c") == ("e", False)
        assert ids(after="d") == ("cba", False)  # a deleted job still marks its place
        assert ids(limit=0) == ("", True)
        assert ids(after="a") == ("", False)

    def test_a_page_after_an_unknown_job_is_refused(self, store: Store) -> None:
        with pytest.raises(InvalidParameter) as refused:
            store.page(after="nobody")
        assert refused.value.parameter == "after"


class TestWork:
    def test_the_longest_waiting_job_is_claimed_first(self, store: Store, create: Create, clock: Any) -> None:
        create("b")
        clock.advance(-3600)  # a clock that is set back changes nothing
        create("a")
        assert [claimed(store).job.id, claimed(store).job.id] == ["b", "a"]
        assert store.claim("w1", LEASE_SECONDS) is None

    def test_a_claimed_job_runs(self, store: Store, create: Create, clock: Any) -> None:
        create()
        clock.advance(5)
        lease = claimed(store)
        assert lease.job == store.get("a")
        assert (lease.job.status, lease.job.attempt, lease.job.started_at) == (
            JobStatus.RUNNING,
            1,
            clock.now,
        )
        assert (lease.expires_at - clock.now).total_seconds() == LEASE_SECONDS
        assert kinds(store) == ["queued", "running"]

    def test_many_connections_claim_each_job_once(
        self, open_store: Callable[[], Store], create: Create
    ) -> None:
        """Two processes and four threads at once: nobody gets what another has."""
        for number in range(40):
            create(f"job{number}")
        stores = [open_store(), open_store()]
        got: list[str] = []
        start = threading.Barrier(4)

        def work(store: Store, worker_id: str) -> None:
            start.wait()
            while (lease := store.claim(worker_id, LEASE_SECONDS)) is not None:
                got.append(lease.job.id)

        threads = [threading.Thread(target=work, args=(stores[n % 2], f"w{n}")) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == sorted(f"job{number}" for number in range(40))

    def test_creating_threads_share_the_limit(
        self, open_store: Callable[[], Store], small_spec: ModelSpec
    ) -> None:
        request = GenerationRequest(prompt="a", model="small", seed=1)
        made = plan(request, small_spec)
        stores = [open_store(), open_store()]
        refused: list[str] = []

        def fill(store: Store, name: str) -> None:
            for number in range(20):
                try:
                    store.create(f"{name}{number}", request, made, max_queued=30)
                except QueueFull:
                    refused.append(name)

        threads = [threading.Thread(target=fill, args=(stores[n], f"t{n}")) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 10
        assert stores[0].queue_stats().queued == {"small": 30}

    def test_progress_only_rises_and_stays_below_100(self, store: Store, create: Create) -> None:
        create()
        lease = claimed(store)
        for percent, shown in ((10, 10), (5, 10), (40, 40), (100, 99), (-1, 99)):
            assert store.report(lease, percent, "denoise") is False
            assert (store.get("a").progress, store.get("a").stage) == (shown, "denoise")

    def test_success_shows_the_video(self, store: Store, create: Create, clock: Any) -> None:
        create()
        lease = claimed(store)
        clock.advance(60)
        assert store.succeed(lease, video(), {"choices": []}) == []
        job = store.get("a")
        assert (job.status, job.progress, job.finished_at) == (JobStatus.SUCCEEDED, 100, clock.now)
        assert (job.video, job.details, job.error) == (video(), {"choices": []}, None)
        assert kinds(store) == ["queued", "running", "succeeded"]

    def test_failure_keeps_its_reason(self, store: Store, create: Create) -> None:
        create()
        store.fail(claimed(store), JobError("out_of_memory", "The device ran out of memory."))
        job = store.get("a")
        assert job.status is JobStatus.FAILED
        assert job.error == JobError("out_of_memory", "The device ran out of memory.")
        assert kinds(store)[-1] == "failed"

    def test_a_job_handed_back_waits_again_from_nothing(self, store: Store, create: Create) -> None:
        create()
        lease = claimed(store)
        store.report(lease, 50, "denoise")
        store.release(lease, count_attempt=False)
        job = store.get("a")
        assert (job.status, job.progress, job.stage, job.attempt) == (JobStatus.QUEUED, 0, "", 0)
        assert claimed(store).token == lease.token + 1

    def test_attempts_are_limited(self, store: Store, create: Create) -> None:
        create()
        for attempt in (1, 2):
            lease = claimed(store)
            assert lease.job.attempt == attempt
            store.release(lease, count_attempt=True, max_attempts=3)
            assert store.get("a").status is JobStatus.QUEUED
        store.release(claimed(store), count_attempt=True, max_attempts=3)
        job = store.get("a")
        assert job.status is JobStatus.FAILED
        assert job.error is not None
        assert job.error.code == "worker_lost"


class TestLeases:
    def test_a_lapsed_job_runs_again(self, store: Store, create: Create, clock: Any) -> None:
        create()
        claimed(store)
        clock.advance(LEASE_SECONDS - 1)
        assert store.requeue_lapsed(3) == 0
        clock.advance(2)
        assert store.requeue_lapsed(3) == 1
        assert store.requeue_lapsed(3) == 0
        assert claimed(store, "w2").job.attempt == 2

    def test_a_renewed_lease_does_not_lapse(self, store: Store, create: Create, clock: Any) -> None:
        """A job of half an hour with a live worker is never taken from it."""
        create()
        lease = claimed(store)
        for _ in range(360):
            clock.advance(5)
            assert store.renew(lease, LEASE_SECONDS) is False
            assert store.requeue_lapsed(3) == 0
        store.succeed(lease, video(), {})

    def test_too_many_lapses_fail_the_job(self, store: Store, create: Create, clock: Any) -> None:
        create()
        for _ in range(3):
            claimed(store)
            clock.advance(LEASE_SECONDS + 1)
            assert store.requeue_lapsed(3) == 1
        job = store.get("a")
        assert (job.status, job.error and job.error.code) == (JobStatus.FAILED, "worker_lost")

    def test_a_worker_back_from_the_dead_writes_nothing(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        create()
        stale = claimed(store)
        clock.advance(LEASE_SECONDS + 1)
        store.requeue_lapsed(3)
        calls: list[Callable[[Lease], object]] = [
            lambda lease: store.renew(lease, LEASE_SECONDS),
            lambda lease: store.report(lease, 50, "denoise"),
            lambda lease: store.succeed(lease, video(), {}),
            lambda lease: store.fail(lease, JobError("x", "y")),
            lambda lease: store.finish_cancelled(lease),
            lambda lease: store.release(lease, count_attempt=True),
        ]

        def nothing_is_written() -> None:
            before = store.get("a"), kinds(store)
            for call in calls:
                with pytest.raises(LeaseLost):
                    call(stale)
            assert (store.get("a"), kinds(store)) == before

        nothing_is_written()  # while it waits again
        fresh = claimed(store, "w2")
        nothing_is_written()  # while another has it
        store.succeed(fresh, video(), {})
        nothing_is_written()  # when it has ended
        stale = fresh
        nothing_is_written()  # and by the same worker

    def test_a_late_worker_may_finish_what_nobody_took(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        create()
        lease = claimed(store)
        clock.advance(LEASE_SECONDS * 10)
        store.succeed(lease, video(), {})
        assert store.get("a").status is JobStatus.SUCCEEDED


class TestCancelAndDelete:
    def test_a_queued_job_is_cancelled_at_once_and_never_starts(self, store: Store, create: Create) -> None:
        create()
        assert store.request_cancel("a").status is JobStatus.CANCELLED
        assert store.claim("w1", LEASE_SECONDS) is None
        assert kinds(store) == ["queued", "cancelled"]

    def test_a_running_job_is_asked_to_stop(self, store: Store, create: Create) -> None:
        create()
        lease = claimed(store)
        for _ in range(2):  # asking twice is one wish
            job = store.request_cancel("a")
            assert (job.status, job.cancel_requested) == (JobStatus.RUNNING, True)
        assert store.renew(lease, LEASE_SECONDS) is True
        assert store.report(lease, 10, "denoise") is True
        store.finish_cancelled(lease)
        job = store.get("a")
        assert (job.status, job.error) == (JobStatus.CANCELLED, None)
        assert kinds(store) == ["queued", "running", "cancel_requested", "cancelled"]

    def test_an_ended_job_stays_as_it_is(self, store: Store, create: Create) -> None:
        create()
        store.succeed(claimed(store), video(), {})
        before = store.get("a")
        assert store.request_cancel("a") == before

    @pytest.mark.parametrize("way", ["release", "lapse"])
    def test_a_job_that_shall_stop_does_not_wait_again(
        self, store: Store, create: Create, clock: Any, way: str
    ) -> None:
        create()
        lease = claimed(store)
        store.request_cancel("a")
        if way == "release":
            store.release(lease, count_attempt=False)
        else:
            clock.advance(LEASE_SECONDS + 1)
            store.requeue_lapsed(3)
        assert store.get("a").status is JobStatus.CANCELLED

    def test_a_deleted_job_is_gone_and_names_its_files(self, store: Store, create: Create) -> None:
        create(image="inputs/a.png")
        store.succeed(claimed(store), video(), {})
        assert store.delete("a") == ["inputs/a.png", "videos/a.mp4"]
        with pytest.raises(JobNotFound):
            store.get("a")
        with pytest.raises(JobNotFound):
            store.delete("a")
        assert store.page().jobs == ()

    def test_a_deleted_queued_job_never_starts(self, store: Store, create: Create) -> None:
        create(image="inputs/a.png")
        assert store.delete("a") == ["inputs/a.png"]
        assert store.claim("w1", LEASE_SECONDS) is None

    def test_a_deleted_running_job_leaves_its_files_to_its_worker(self, store: Store, create: Create) -> None:
        create("a", image="inputs/a.png")
        create("b")
        create("c")
        create("d", image="inputs/d.png")
        leases = [claimed(store) for _ in range(4)]
        assert [store.delete(job_id) for job_id in "abcd"] == [[], [], [], []]
        assert store.renew(leases[0], LEASE_SECONDS) is True
        assert store.succeed(leases[0], video(), {}) == ["inputs/a.png", "videos/a.mp4"]
        assert store.fail(leases[1], JobError("x", "y")) == []
        assert store.finish_cancelled(leases[2]) == []
        assert store.release(leases[3], count_attempt=False) == ["inputs/d.png"]
        assert kinds(store, "a") == ["queued", "running", "cancel_requested", "deleted", "cancelled"]


class TestOperators:
    def test_workers_live_while_they_are_seen(self, store: Store, create: Create, clock: Any) -> None:
        assert store.live_workers(30) == 0
        store.worker_seen("w1")
        store.worker_seen("w2")
        assert store.live_workers(30) == 2
        store.worker_stopped("w2")
        assert store.live_workers(30) == 1
        clock.advance(31)
        assert store.live_workers(30) == 0
        create()
        store.renew(claimed(store, "w1"), LEASE_SECONDS)  # a busy worker is seen by its heartbeat
        assert store.live_workers(30) == 1
        store.worker_seen("w2")  # one that starts again lives again
        assert store.live_workers(30) == 2

    def test_stats_count_by_model_and_status(self, store: Store, create: Create, clock: Any) -> None:
        empty = store.queue_stats()
        assert (empty.queued, empty.running, empty.oldest_queued_seconds, empty.total) == ({}, {}, 0.0, {})
        for job_id in "abc":
            create(job_id)
            clock.advance(10)
        store.succeed(claimed(store), video(), {})
        claimed(store)
        stats = store.queue_stats()
        assert (stats.queued, stats.running) == ({"small": 1}, {"small": 1})
        assert stats.oldest_queued_seconds == 10.0
        assert stats.total == {JobStatus.QUEUED: 1, JobStatus.RUNNING: 1, JobStatus.SUCCEEDED: 1}

    def test_ping_answers(self, store: Store) -> None:
        store.ping()


class TestTransitions:
    @pytest.mark.parametrize("before", JobStatus)
    @pytest.mark.parametrize("after", JobStatus)
    def test_only_legal_transitions_are_made(
        self, store: Store, create: Create, clock: Any, before: JobStatus, after: JobStatus
    ) -> None:
        create()
        extra: dict[JobStatus, dict[str, Any]] = {
            JobStatus.RUNNING: {"lease_expires_at": clock.now},
            JobStatus.FAILED: {"error_code": "x", "error_message": "y"},
            JobStatus.SUCCEEDED: {"video": {}},
        }
        if before is not JobStatus.QUEUED:
            claimed(store)
        with store._database.write() as connection:
            row = connection.execute(sa.select(jobs)).one()
            if before not in (JobStatus.QUEUED, JobStatus.RUNNING):
                move(connection, row, before, clock.now, **extra.get(before, {}))
                row = connection.execute(sa.select(jobs)).one()
            if (before, after) in TRANSITIONS:
                move(connection, row, after, clock.now, **extra.get(after, {}))
            else:
                with pytest.raises(JobConflict):
                    move(connection, row, after, clock.now, **extra.get(after, {}))

    def test_the_database_itself_refuses_an_unknown_status(self, store: Store, create: Create) -> None:
        create()
        with pytest.raises(IntegrityError), store._database.write() as connection:
            connection.execute(sa.update(jobs).values(status="sleeping"))

    @pytest.mark.parametrize("seed", range(8))
    def test_no_sequence_of_calls_breaks_the_rules(
        self, store: Store, create: Create, clock: Any, seed: int
    ) -> None:
        """Random clients, workers and crashes: every status follows from the one before, and an end is an end."""
        game = _Game(store, create, clock, random.Random(seed))
        for _ in range(150):
            game.step()
        for job_id in game.ids:
            self._check_history(store, job_id)

    def _check_history(self, store: Store, job_id: str) -> None:
        statuses = [JobStatus(kind) for kind in kinds(store, job_id) if kind in set(JobStatus)]
        assert statuses[0] is JobStatus.QUEUED
        assert set(itertools.pairwise(statuses)) <= TRANSITIONS
        assert not any(status.is_terminal for status in statuses[:-1])


class _Game:
    def __init__(self, store: Store, create: Create, clock: Any, dice: random.Random) -> None:
        self.store = store
        self.create = create
        self.clock = clock
        self.dice = dice
        self.ids: list[str] = []
        self.leases: list[Lease] = []

    def step(self) -> None:
        move = self.dice.choice([self._client, self._worker, self._claim, self._time])
        try:
            move()
        except (JobNotFound, LeaseLost):
            return

    def _client(self) -> None:
        if self.dice.random() < 0.5 or not self.ids:
            self.ids.append(self.create(f"job{len(self.ids)}").id)
        else:
            self.dice.choice([self.store.request_cancel, self.store.delete])(self.dice.choice(self.ids))

    def _claim(self) -> None:
        lease = self.store.claim("w", LEASE_SECONDS)
        if lease is not None:
            self.leases.append(lease)

    def _worker(self) -> None:
        if not self.leases:
            return
        lease = self.dice.choice(self.leases)  # perhaps one that was lost long ago
        calls: list[Callable[[], object]] = [
            lambda: self.store.renew(lease, LEASE_SECONDS),
            lambda: self.store.report(lease, self.dice.randrange(120), "denoise"),
            lambda: self.store.succeed(lease, video(), {}),
            lambda: self.store.fail(lease, JobError("x", "y")),
            lambda: self.store.finish_cancelled(lease),
            lambda: self.store.release(lease, count_attempt=self.dice.random() < 0.5),
        ]
        self.dice.choice(calls)()

    def _time(self) -> None:
        self.clock.advance(self.dice.choice([1, 20]))
        self.store.requeue_lapsed(3)

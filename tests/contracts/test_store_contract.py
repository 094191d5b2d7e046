"""What every store does, whatever the database."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, timedelta
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
from vitascope.domain.webhook import Webhook
from vitascope.store import Lapsed, Store, history, maintenance
from vitascope.store.changes import move
from vitascope.store.clock import utc_now
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


Create = Callable[..., Job]


def claimed(store: Store, worker_id: str = "w1") -> Lease:
    lease = store.claim(worker_id, LEASE_SECONDS)
    assert lease is not None
    return lease


def kinds(store: Store, job_id: str = "a") -> list[str]:
    found = store.events(job_id)
    numbers = [event.sequence for event in found]
    assert numbers == sorted(set(numbers))
    return [event.kind for event in found]


def follow(store: Store, ids: str) -> dict[str, list[int]]:
    """Read the events of several jobs, as a web process does, until all have succeeded; returns their numbers."""
    cursors = dict.fromkeys(ids, 0)
    seen: dict[str, list[int]] = {job_id: [] for job_id in ids}
    running = set(ids)
    while running:
        for event in store.events_after(cursors, limit=7):
            cursors[event.job_id] = event.sequence
            seen[event.job_id].append(event.sequence)
            if event.kind == JobStatus.SUCCEEDED:
                running.remove(event.job_id)
    return seen


class TestCreateAndRead:
    def test_a_job_is_read_back_as_it_was_created(self, store: Store, create: Create, clock: Any) -> None:
        made = create(metadata={"a": [1, "ü"]}, image="inputs/a.png", user="me")
        assert store.get("a") == made
        assert (made.status, made.progress, made.stage, made.attempt) == (JobStatus.QUEUED, 0, "", 0)
        assert made.request.metadata == {"a": [1, "ü"]}
        assert store.get("a").plan is store.get("a").plan, "it is decoded once"
        assert made.plan.model == "small"
        assert made.created_at == clock.now
        assert made.created_at.tzinfo is UTC
        assert kinds(store) == ["queued"]

    def test_long_prompts_do_not_fill_the_memory(self, store: Store, create: Create) -> None:
        made = create(prompt="a" * 30_000)
        assert store.get("a") == made
        assert store.get("a").plan is not store.get("a").plan, "it is not kept"

    def test_any_text_is_kept(self, store: Store, create: Create) -> None:
        """What JSON can carry, PostgreSQL's text and UTF-8 cannot all."""
        odd = "a\x00b \ud800 \U0001f415 '\"\\"
        made = create(prompt=odd, metadata={odd: [odd, None, 1.5]}, user=odd)
        assert (made.request.prompt, store.get("a")) == (odd, made)
        store.fail(claimed(store), JobError("internal_error", odd))
        error = store.get("a").error
        assert error is not None
        assert error.message == "a?b ? \U0001f415 '\"\\"

    @pytest.mark.parametrize("odd", ["a\x00", "\ud800", "a" * 100_000, "", "'"])
    def test_an_odd_id_is_the_id_of_no_job(self, store: Store, create: Create, odd: str) -> None:
        create()
        for call in (store.get, store.request_cancel, store.delete):
            with pytest.raises(JobNotFound):
                call(odd)
        with pytest.raises(InvalidParameter):
            store.page(after=odd)
        assert store.events(odd) == []

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
        assert store.succeed(lease, [video()], {"choices": []}) == []
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

    def test_written_out_prompts_are_there_before_the_end_and_for_the_next_try(
        self, store: Store, create: Create
    ) -> None:
        job = create()
        lease = store.claim("w1", 60)
        assert lease is not None
        assert lease.job.enhanced_prompt is None
        store.keep_prompts(lease, ["one", "two"])
        assert store.get(job.id).enhanced_prompt == "one / two"
        store.keep_settled(lease, {"dtype": "float32"})
        store.release(lease, count_attempt=True)
        again = store.claim("w2", 60)
        assert again is not None
        assert again.job.enhanced_prompts == ("one", "two")
        assert again.job.settled == (("dtype", "float32"),)
        with pytest.raises(LeaseLost):
            store.keep_prompts(lease, ["three"])
        store.fail(again, JobError("invalid_output", "no picture"))
        assert store.get(job.id).enhanced_prompts == ("one", "two")


class TestEvents:
    def test_progress_is_an_event_with_the_percent_that_is_shown(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        create()
        lease = claimed(store)
        for percent in (10, 5, 40):
            clock.advance(1)
            store.report(lease, percent, "denoise")
        found = store.events("a")
        assert [event.sequence for event in found] == [1, 2, 3, 4, 5]
        assert [(event.kind, event.percent, event.stage) for event in found] == [
            ("queued", None, None),
            ("running", None, None),
            ("progress", 10, "denoise"),
            ("progress", 10, "denoise"),
            ("progress", 40, "denoise"),
        ]
        assert (found[4].job_id, found[4].attempt, found[4].created_at) == ("a", 1, clock.now)

    def test_a_reader_goes_on_where_it_was(self, store: Store, create: Create) -> None:
        create()
        lease = claimed(store)
        for percent in range(5):
            store.report(lease, percent, "denoise")
        first = store.events("a", limit=3)
        rest = store.events("a", after=first[-1].sequence)
        assert first + rest == store.events("a")
        assert store.events("a", after=rest[-1].sequence) == []
        assert store.events("nobody") == []

    def test_one_query_follows_many_jobs(self, store: Store, create: Create, small_spec: ModelSpec) -> None:
        for job_id in "abc":
            create(job_id)
        store.request_cancel("b")

        def seen(cursors: dict[str, int], limit: int = 1000) -> list[tuple[str, int]]:
            return [(event.job_id, event.sequence) for event in store.events_after(cursors, limit)]

        assert seen({}) == []
        assert seen({"a": 0, "b": 0, "gone": 0}) == [("a", 1), ("b", 1), ("b", 2)]
        assert seen({"a": 0, "b": 0}, limit=2) == [("a", 1), ("b", 1)]
        assert seen({"c": 1, "a": 1, "b": 1}) == [("b", 2)]
        many = {f"unknown{number}": 0 for number in range(2500)}
        assert seen({**many, "c": 0}) == [("c", 1)]
        assert seen({"a": 0, **many, "b": 0, "c": 0}, limit=2) == [("a", 1), ("b", 1)]

    def test_a_reader_beside_writers_misses_nothing(
        self, open_store: Callable[[], Store], create: Create
    ) -> None:
        """Events become visible in the order of their numbers, whoever writes them and however they are mixed."""
        ids = "abcd"
        for job_id in ids:
            create(job_id)
        writer = open_store()
        leases = {lease.job.id: lease for lease in (claimed(writer) for _ in ids)}

        def work(mine: str) -> None:
            for percent in range(25):
                for job_id in mine:
                    writer.report(leases[job_id], percent, "denoise")
            for job_id in mine:
                writer.succeed(leases[job_id], [video()], {})

        threads = [threading.Thread(target=work, args=(mine,)) for mine in ("ab", "cd")]
        for thread in threads:
            thread.start()
        seen = follow(open_store(), ids)
        for thread in threads:
            thread.join()
        assert seen == {job_id: list(range(1, 29)) for job_id in ids}

    def test_progress_is_pruned_some_time_after_the_end(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        for job_id in "ab":
            create(job_id)
        first, second = claimed(store), claimed(store)
        for lease in (first, second):
            store.report(lease, 50, "denoise")
        store.succeed(first, [video()], {})
        clock.advance(299)
        assert store.prune(progress_after_seconds=300) == 0
        clock.advance(2)
        assert store.prune(progress_after_seconds=300) == 1
        assert store.prune(progress_after_seconds=300) == 0
        assert [event.sequence for event in store.events("a")] == [1, 2, 4]
        assert kinds(store, "a") == ["queued", "running", "succeeded"]
        assert kinds(store, "b") == ["queued", "running", "progress"]  # it still runs

    def test_only_the_newest_preview_is_kept_and_it_goes_with_progress(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        create()
        lease = claimed(store)
        for index in range(3):
            store.report(lease, 10 + index, "denoise")
            store.show(lease, 10 + index, "denoise", f"picture {index}")
        assert kinds(store) == ["queued", "running", *["progress"] * 3, "preview"]
        [shown] = [event for event in store.events("a") if event.kind == "preview"]
        assert (shown.percent, shown.stage, shown.preview) == (12, "denoise", "picture 2")
        assert shown.sequence == 8, "numbers are never given twice"
        assert store.get("a").progress == 12
        store.fail(lease, JobError("x", "y"))
        clock.advance(301)
        assert store.prune() == 4
        assert kinds(store) == ["queued", "running", "failed"]

    def test_processes_that_prune_at_once_do_not_disturb_each_other(
        self, open_store: Callable[[], Store], create: Create, clock: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(history, "JOBS_PER_PRUNING", 3)
        store = open_store()
        for number in range(20):
            create(f"job{number}")
            lease = claimed(store)
            store.report(lease, 50, "denoise")
            store.fail(lease, JobError("x", "y"))
        clock.advance(301)
        pruned: list[int] = []

        def prune(store: Store) -> None:
            while (count := store.prune()) > 0:
                pruned.append(count)

        threads = [threading.Thread(target=prune, args=(each,)) for each in (store, open_store())]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        prune(store)
        assert sum(pruned) == 20
        assert max(pruned) == 3
        assert kinds(store, "job19") == ["queued", "running", "failed"]

    def test_numbers_that_a_power_cut_took_back_are_not_given_again(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        """A client that has seen them resumes after them, and must not miss how the job went on."""
        create()
        claimed(store)
        newest = store.events("a")[-1].sequence
        clock.advance(LEASE_SECONDS + 1)
        store.requeue_lapsed(3)
        assert store.events("a")[-1].sequence > newest + 1000


class TestLeases:
    def test_a_lapsed_job_runs_again(self, store: Store, create: Create, clock: Any) -> None:
        create()
        claimed(store)
        clock.advance(LEASE_SECONDS - 1)
        assert store.requeue_lapsed(3).num_jobs == 0
        clock.advance(2)
        assert store.requeue_lapsed(3).num_jobs == 1
        assert store.requeue_lapsed(3).num_jobs == 0
        assert claimed(store, "w2").job.attempt == 2

    def test_a_renewed_lease_does_not_lapse(self, store: Store, create: Create, clock: Any) -> None:
        """A job of half an hour with a live worker is never taken from it."""
        create()
        lease = claimed(store)
        for _ in range(130):
            clock.advance(14)
            assert store.renew(lease, LEASE_SECONDS) is False
            assert store.requeue_lapsed(3).num_jobs == 0
        store.succeed(lease, [video()], {})

    def test_too_many_lapses_fail_the_job(self, store: Store, create: Create, clock: Any) -> None:
        create()
        for _ in range(3):
            claimed(store)
            clock.advance(LEASE_SECONDS + 1)
            assert store.requeue_lapsed(3).num_jobs == 1
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
            lambda lease: store.show(lease, 50, "denoise", "picture"),
            lambda lease: store.succeed(lease, [video()], {}),
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
        store.succeed(fresh, [video()], {})
        nothing_is_written()  # when it has ended
        stale = fresh
        nothing_is_written()  # and by the same worker

    @pytest.mark.parametrize("hours", [-1, 1])
    def test_a_process_whose_clock_is_wrong_takes_nothing(self, url: str, create: Create, hours: int) -> None:
        """Leases are told by a clock that all processes share; only history is told by a process's own."""
        create()
        with closing(Store.open(url)) as right, closing(Store.open(url)) as wrong:
            wrong._now = lambda: utc_now() + timedelta(hours=hours)
            lease = claimed(right)
            right.worker_seen("w1")
            assert wrong.requeue_lapsed(3).num_jobs == 0
            assert wrong.live_workers(30) == 1
            wrong.renew(lease, LEASE_SECONDS)
            assert right.requeue_lapsed(3).num_jobs == 0
            wrong.renew(lease, -1)
            assert right.requeue_lapsed(3).num_jobs == 1

    def test_a_late_worker_may_finish_what_nobody_took(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        create()
        lease = claimed(store)
        clock.advance(LEASE_SECONDS * 10)
        store.succeed(lease, [video()], {})
        assert store.get("a").status is JobStatus.SUCCEEDED


class TestClearing:
    def test_all_that_wait_are_cancelled_some_at_a_time(self, store: Store, create: Create) -> None:
        assert store.newest_waiting() == 0
        for name in "abcde":
            create(name, key_id=name, webhook=Webhook("https://example.com/hook"))
        lease = claimed(store)
        newest = store.newest_waiting()
        create("late")
        assert [store.cancel_waiting(newest, max_jobs=3) for _ in range(3)] == [3, 1, 0]
        left = {name: store.get(name).status for name in ("a", "b", "c", "d", "e", "late")}
        assert left.pop(lease.job.id) is JobStatus.RUNNING
        assert left.pop("late") is JobStatus.QUEUED
        assert set(left.values()) == {JobStatus.CANCELLED}
        for name in left:
            assert kinds(store, name) == ["queued", "cancelled"]
        assert len(store.due_messages(10)) == 4, "who waits for them is told"
        assert store.get("b").is_read is False, "nobody has read its id for this"

    def test_nobody_claims_what_is_being_cancelled(
        self, open_store: Callable[[], Store], create: Create
    ) -> None:
        for number in range(40):
            create(f"j{number:02}")
        first, second = open_store(), open_store()
        taken: list[str] = []

        def claim() -> None:
            while (lease := second.claim("w", LEASE_SECONDS)) is not None:
                taken.append(lease.job.id)

        thread = threading.Thread(target=claim)
        thread.start()
        newest, cancelled = first.newest_waiting(), 0
        while count := first.cancel_waiting(newest, max_jobs=2):
            cancelled += count
        thread.join()
        assert cancelled + len(taken) == 40
        assert all(first.get(job_id).status is JobStatus.RUNNING for job_id in taken)


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
        assert kinds(store) == ["queued", "running", "cancel_requested", "progress", "cancelled"]

    def test_an_ended_job_stays_as_it_is(self, store: Store, create: Create) -> None:
        create()
        store.succeed(claimed(store), [video()], {})
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
        store.succeed(claimed(store), [video()], {})
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
        assert store.succeed(leases[0], [video()], {}) == ["inputs/a.png", "videos/a.mp4"]
        assert store.fail(leases[1], JobError("x", "y")) == []
        assert store.finish_cancelled(leases[2]) == []
        assert store.release(leases[3], count_attempt=False) == ["inputs/d.png"]
        assert kinds(store, "a") == ["queued", "running", "cancel_requested", "deleted", "cancelled"]

    def test_a_deleted_job_whose_worker_died_names_its_files(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        create("a", image="inputs/a.png")
        create("b", image="inputs/b.png")
        create("c", image="inputs/c.png")
        for _ in "abc":
            claimed(store)
        store.delete("a")
        store.request_cancel("b")
        clock.advance(LEASE_SECONDS + 1)
        assert store.requeue_lapsed(3) == Lapsed(3, ["inputs/a.png"])
        assert store.requeue_lapsed(3) == Lapsed(0, ())
        assert kinds(store, "a")[-1] == "cancelled"

    def test_files_that_no_job_needs_are_told_from_the_others(self, store: Store, create: Create) -> None:
        def unowned(*names: str) -> list[str]:
            return sorted(store.unowned([f"videos/{name}" for name in names]))

        assert unowned("b.1.mp4") == [], "the files of a database without jobs are another one's"
        for job_id in "bcdef":
            create(job_id, image=f"videos/{job_id}.png")
        store.succeed(claimed(store), [video("videos/b.1.mp4")], {})
        store.succeed(claimed(store), [video("videos/c.1.mp4")], {})
        store.fail(claimed(store), JobError("x", "y"))
        claimed(store)
        for job_id in "ce":
            store.delete(job_id)
        assert unowned("b.png", "b.1.mp4", "b.2.mp4", "b.1.mp4.1234.part") == [
            "videos/b.1.mp4.1234.part",
            "videos/b.2.mp4",
        ]
        assert unowned("c.png", "c.1.mp4") == ["videos/c.1.mp4", "videos/c.png"], "deleted"
        assert unowned("d.png", "d.1.mp4") == ["videos/d.1.mp4"], "failed: it may be tried again"
        assert unowned("e.png", "e.1.mp4", "f.png", "f.1.mp4") == [], "running, though deleted, and queued"
        assert unowned("a.png", "x.png") == ["videos/x.png"], "older than any job here, and never stored"
        assert store.unowned([]) == set()


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
        store.succeed(claimed(store), [video()], {})
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
            JobStatus.SUCCEEDED: {"videos": []},
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
        self, store: Store, url: str, create: Create, clock: Any, seed: int
    ) -> None:
        """Random clients, workers and crashes: every status follows from the one before, and an end is an end."""
        game = _Game(store, create, clock, random.Random(seed))
        for _ in range(150):
            game.step()
        assert maintenance.check(url).problems == ()
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
            lambda: self.store.succeed(lease, [video()], {}),
            lambda: self.store.fail(lease, JobError("x", "y")),
            lambda: self.store.finish_cancelled(lease),
            lambda: self.store.release(lease, count_attempt=self.dice.random() < 0.5),
        ]
        self.dice.choice(calls)()

    def _time(self) -> None:
        self.clock.advance(self.dice.choice([1, 20]))
        self.store.requeue_lapsed(3)

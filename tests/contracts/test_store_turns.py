"""Who goes next, what is learnt from it, and requests that are sent twice; whatever the database."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from vitascope.domain import arbiter
from vitascope.domain.access import ApiKey, KeyLimits, Scope
from vitascope.domain.cost import Speed, effort_of
from vitascope.domain.errors import (
    IdempotencyConflict,
    JobNotFound,
    KeyNotFound,
    QueueFull,
    StorageLimitReached,
)
from vitascope.domain.job import Job, JobError
from vitascope.domain.once import Once
from vitascope.domain.video import Video
from vitascope.store import Store

Create = Callable[..., Job]
VIDEO = Video(
    key="videos/a.mp4",
    media_type="video/mp4",
    num_bytes=10,
    sha256="00",
    height=64,
    width=96,
    num_frames=17,
    fps=8,
)


def order(store: Store, clock: Any, **how: Any) -> list[str]:
    """Claim and end all that waits, one after the other; each takes a second."""
    ids = []
    while (lease := store.claim("w", 15.0, **how)) is not None:
        ids.append(lease.job.id)
        clock.advance(1)
        store.succeed(lease, [VIDEO], {})
    return ids


class TestTurns:
    def test_the_shorter_one_goes_first_until_the_longer_has_waited_enough(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        create("long", num_inference_steps=100)
        clock.advance(1)
        create("short", num_inference_steps=1)
        lease = store.claim("w", 15.0, device="d")
        assert lease is not None
        assert lease.job.id == "long", "nothing was measured yet: both count the same"
        store.succeed(lease, [VIDEO], {}, speed=Speed("small", effort_of(lease.job.plan).work, 1.0, 0.0))
        create("long2", num_inference_steps=100)
        # measured on a worker of another kind of device, whose name is not known yet
        assert order(store, clock, device="") == ["short", "long2"]

    def test_a_job_is_left_to_the_worker_that_has_its_models_files(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        for number in range(20):  # more than a claim looks at
            create(f"big{number}", plan_model="big")
        create("small", plan_model="small")
        store.worker_seen("has big", available=["big"])
        store.worker_seen("has small", available=["small"])
        store.worker_seen("does not say")
        first = store.claim("has small", 15.0)
        assert first is not None
        assert first.job.id == "small"
        assert store.claim("has small", 15.0) is None
        other = store.claim("has big", 15.0)
        assert other is not None
        assert other.job.plan.model == "big"
        clock.advance(31)  # "has big" is gone: whoever is there says to the clients what is missing
        store.worker_seen("has small", available=["small"])
        assert store.claim("has small", 15.0) is not None

    def test_a_model_that_nobody_has_is_anybodys(self, store: Store, create: Create) -> None:
        create("a", plan_model="nowhere")
        store.worker_seen("w", available=["small"])
        store.worker_seen("v", available=[])
        assert store.claim("w", 15.0) is not None

    def test_speeds_are_kept_by_kind_of_device(self, store: Store, create: Create, clock: Any) -> None:
        for worker, device, seconds in (("w1", "fast", 1.0), ("w2", "slow", 5.0)):
            store.worker_seen(worker, device)
            create(worker)
            lease = store.claim(worker, 15.0)
            assert lease is not None
            speed = Speed("small", effort_of(lease.job.plan).work, seconds, 2.0)
            store.succeed(lease, [VIDEO], {}, speed=speed, device=device)
        steps = create("next").plan.total_steps
        (waiting,) = store.situation(within_seconds=60).waiting
        assert waiting.seconds == pytest.approx(steps * 3.0 + 2.0), "the mean of the devices that work"
        clock.advance(100)
        store.worker_seen("w1")
        (waiting,) = store.situation(within_seconds=60).waiting
        assert waiting.seconds == pytest.approx(steps * 1.0 + 2.0)

    def test_a_flood_of_one_key_delays_another_by_the_running_job_only(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        for number in range(60):
            create(f"flood{number}", key_id="flood")
        running = store.claim("w", 15.0)
        create("single", key_id="other")
        assert running is not None
        clock.advance(5)
        store.succeed(running, [VIDEO], {})
        assert order(store, clock)[0] == "single"

    def test_several_workers_that_ask_at_once_serve_several_keys(self, store: Store, create: Create) -> None:
        for number in range(8):
            create(f"a{number}", key_id="a")
        for number in range(2):
            create(f"b{number}", key_id="b")
        claimed = [store.claim(f"w{number}", 15.0) for number in range(4)]
        assert sorted(lease.job.id[0] for lease in claimed if lease) == ["a", "a", "b", "b"]

    def test_what_a_key_had_is_forgotten_slowly(self, store: Store, create: Create, clock: Any) -> None:
        create("a0", key_id="a")
        lease = store.claim("w", 1000.0)
        assert lease is not None
        clock.advance(100)
        store.succeed(lease, [VIDEO], {})
        assert store.situation(60).served_seconds == {"a": pytest.approx(arbiter.counted(100.0))}
        clock.advance(300)
        assert store.situation(60).served_seconds == {"a": pytest.approx(arbiter.counted(100.0) / 2)}

    def test_a_loaded_model_goes_first_within_bounds(self, store: Store, create: Create, clock: Any) -> None:
        create("cold", plan_model="cold")
        clock.advance(119)
        create("warm", plan_model="warm")
        create("warmer", plan_model="warm")
        assert order(store, clock, warm_models=frozenset({"warm"})) == ["warm", "cold", "warmer"]

    def test_the_next_model_is_that_of_the_next_claim(self, store: Store, create: Create, clock: Any) -> None:
        warm = {"warm_models": frozenset({"warm"})}
        assert store.next_model() is None
        create("cold", plan_model="cold")
        clock.advance(60)
        create("warm", plan_model="warm")
        assert (store.next_model(), store.next_model(**warm)) == ("cold", "warm")
        clock.advance(60)
        assert store.next_model(**warm) == "cold", "it has waited long enough"
        assert store.get("cold").status == "queued", "nothing is claimed"
        assert order(store, clock, **warm) == ["cold", "warm"]

    def test_a_higher_priority_goes_first(self, store: Store, create: Create, clock: Any) -> None:
        create("later", priority=-1)
        for number in range(40):
            create(f"normal{number}")
        create("urgent", priority=3)
        done = order(store, clock)
        assert (done[0], done[-1]) == ("urgent", "later")

    def test_everything_waiting_has_its_turn_once_among_many_workers(
        self, store: Store, create: Create
    ) -> None:
        ids = [create(f"job{number}", key_id=f"key{number % 7}").id for number in range(60)]
        found: list[str] = []

        def work(worker_id: str) -> None:
            while (lease := store.claim(worker_id, 15.0)) is not None:
                found.append(lease.job.id)
                store.fail(lease, JobError("internal_error", "-"))

        threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == sorted(ids)

    @pytest.mark.parametrize("seed", range(4))
    def test_the_claim_takes_whom_the_arbiter_would_take_of_all(
        self, store: Store, create: Create, clock: Any, seed: int
    ) -> None:
        """More keys, priorities and jobs than a claim looks at."""
        rng = random.Random(seed)
        num_keys = rng.randrange(6, 12)
        for number in range(150):
            more = {"priority": rng.choice([0, 1, 5])} if seed % 2 else {}
            create(
                f"j{number}",
                key_id=f"k{rng.randrange(num_keys)}",
                num_inference_steps=rng.choice([1, 5, 20]),
                **more,
            )
            clock.advance(rng.choice([0, 1, 30, 60]))
        for _ in range(12):
            situation = store.situation(60)
            expected = arbiter.next_of(situation.waiting, situation.served_seconds)
            lease = store.claim("w", 600.0)
            assert lease is not None
            assert expected is not None
            assert lease.job.id == expected.job_id
            clock.advance(rng.choice([5, 60, 700]))
            store.fail(lease, JobError("internal_error", "-"))

    def test_a_waiting_key_is_seen_beside_many_urgent_ones(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        create("old", key_id="a")
        create("patient", key_id="b")
        for number in range(300):
            create(f"urgent{number}", key_id=f"u{number % 6}", priority=1)
        turns = 0
        while (lease := store.claim("w", 60.0)) is not None and lease.job.id != "patient":
            clock.advance(10)
            store.succeed(lease, [VIDEO], {})
            turns += 1
        assert turns * 10 <= 600 + 80, "its priority has risen, and it has had nothing yet"

    def test_the_situation_tells_what_runs(self, store: Store, create: Create, clock: Any) -> None:
        create("a")
        create("b")
        store.worker_seen("w", "d")
        lease = store.claim("w", 15.0)
        assert lease is not None
        store.report(lease, 40, "denoise")
        clock.advance(7)
        situation = store.situation(within_seconds=60)
        (running,) = situation.running
        assert (running.job_id, running.worker_id, running.progress) == ("a", "w", 40)
        assert running.worked_seconds == pytest.approx(7.0)
        assert [candidate.job_id for candidate in situation.waiting] == ["b"]
        assert set(situation.workers) == {"w"}


class TestLimits:
    def test_a_key_has_its_own_limit(self, store: Store, create: Create) -> None:
        create("a1", key_id="a", max_queued_per_key=1)
        with pytest.raises(QueueFull, match="of this key"):
            create("a2", key_id="a", max_queued_per_key=1)
        create("b1", key_id="b", max_queued_per_key=1)
        with pytest.raises(QueueFull, match="of this key"):
            store.check_room("a", 100, 1)
        store.check_room("c", 100, 1)
        with pytest.raises(QueueFull, match="2 jobs are waiting"):
            store.check_room("c", 2, None)


class TestOnce:
    def test_a_named_request_makes_one_job(self, store: Store, create: Create) -> None:
        once = Once("f" * 64, name="order-1")
        first = create("a", once=once)
        assert create("b", once=once) == first
        with pytest.raises(JobNotFound):
            store.get("b")
        assert create("c", once=once, key_id="other").id == "c", "names are each key's own"
        assert create("d", once=Once("f" * 64, name="order-2")).id == "d"
        assert create("e", once=Once("f" * 64)).id == "e"

    def test_a_repetition_is_found_before_it_is_created(self, store: Store, create: Create) -> None:
        once = Once("f" * 64, name="order-1")
        assert store.made_before(once) is None
        first = create("a", once=once)
        assert store.made_before(once) == first
        assert store.made_before(once, key_id="other") is None
        assert store.made_before(Once("f" * 64)) is None
        with pytest.raises(IdempotencyConflict):
            store.made_before(Once("0" * 64, name="order-1"))

    def test_a_full_queue_still_knows_what_it_has(self, store: Store, create: Create) -> None:
        once = Once("f" * 64, name="order-1")
        create("a", max_queued=1, once=once)
        assert create("b", max_queued=1, once=once).id == "a"

    def test_a_name_is_for_one_request(self, store: Store, create: Create) -> None:
        create("a", once=Once("f" * 64, name="order-1"))
        with pytest.raises(IdempotencyConflict, match="was used for another request"):
            create("b", once=Once("0" * 64, name="order-1"))
        store.delete("a")
        with pytest.raises(IdempotencyConflict, match="was deleted"):
            create("b", once=Once("f" * 64, name="order-1"))

    def test_a_name_is_kept_for_a_day(self, store: Store, create: Create, clock: Any) -> None:
        once = Once("f" * 64, name="order-1")
        create("a", once=once)
        clock.advance(24 * 3600)
        assert create("b", once=once).id == "a"
        clock.advance(1)
        assert create("c", once=once).id == "c"
        clock.advance(24 * 3600 + 1)
        store.prune()
        assert create("d", once=Once("0" * 64, name="order-1")).id == "d"

    def test_an_automatic_retry_finds_the_job_that_nobody_has_asked_about(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        first, retry = Once("f" * 64), Once("f" * 64, is_retry=True)
        assert create("a", once=retry).id == "a", "the first try never arrived"
        assert create("b", once=first).id == "b", "not a retry: the same again is wanted"
        assert create("c", once=retry).id == "b", "the newest one"
        store.mark_read("b")
        assert create("c", once=retry).id == "a"
        assert create("c", once=Once("0" * 64, is_retry=True)).id == "c", "another request"
        assert create("d", once=retry, key_id="other").id == "d"
        store.mark_read("a")
        assert store.get("a").is_read
        create("e0", once=first)
        assert create("e", once=retry).id == "e0", "the newest one"
        store.delete("e0")
        assert create("f", once=retry).id == "f"
        clock.advance(601)
        assert create("g", once=retry).id == "g"

    def test_repetitions_at_the_same_time_make_one_job(self, store: Store, create: Create) -> None:
        once = Once("f" * 64, name="order-1")
        found: list[str] = []
        threads = [
            threading.Thread(target=lambda n=number: found.append(create(f"job{n}", once=once).id))  # type: ignore[misc]
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(found)) == 1


class TestTogether:
    def test_what_is_written_together_is_there_afterwards(self, store: Store, create: Create) -> None:
        with store.together():
            create("a")
            with pytest.raises(QueueFull):
                create("b", max_queued=1)
            create("c")
        assert [job.id for job in store.page(order="asc").jobs] == ["a", "c"]

    def test_an_error_undoes_the_call_that_raised_it_only(self, store: Store, create: Create) -> None:
        with store.together():
            create("a")
            with pytest.raises(JobNotFound):
                store.request_cancel("b")
            store.request_cancel("a")
        assert store.get("a").status == "cancelled"


class TestKeys:
    @pytest.fixture
    def key(self, clock: Any) -> ApiKey:
        return ApiKey(
            id="k", name="test", prefix="vsk_abcd", last4="wxyz", scopes=frozenset({Scope.READ, Scope.GENERATE}),
            limits=KeyLimits(max_running=1, models=("a",)), created_at=clock.now,
        )  # fmt: skip

    def test_a_key_is_kept_by_its_digest(self, store: Store, key: ApiKey) -> None:
        assert not store.has_keys()
        store.add_key(key, "d" * 64)
        assert store.has_keys()
        assert store.find_key("d" * 64) == key
        assert store.find_key("e" * 64) is None
        assert store.all_keys() == [key]

    def test_a_revoked_key_stays_so(self, store: Store, key: ApiKey, clock: Any) -> None:
        store.add_key(key, "d" * 64)
        revoked_at = clock.now
        assert store.revoke_key("k").revoked_at == revoked_at
        clock.advance(60)
        assert store.revoke_key("k").revoked_at == revoked_at
        with pytest.raises(KeyNotFound):
            store.replace_digest("k", "e" * 64, "a", "b")

    def test_a_key_has_so_many_jobs_running(self, store: Store, key: ApiKey, create: Create) -> None:
        store.add_key(key, "d" * 64)
        for number in range(3):
            create(f"k{number}", key_id="k")
        create("other", key_id="o")
        claimed = [store.claim(f"w{number}", 15.0) for number in range(4)]
        assert sorted(lease.job.id for lease in claimed if lease) == ["k0", "other"]
        first = next(lease for lease in claimed if lease and lease.job.id == "k0")
        store.fail(first, JobError("internal_error", "-"))
        lease = store.claim("w", 15.0)
        assert lease is not None
        assert lease.job.id == "k1"

    def test_requests_are_counted_exactly(self, store: Store, clock: Any) -> None:
        left: list[int] = []
        threads = [
            threading.Thread(target=lambda: left.append(store.count_request("k", 10))) for _ in range(50)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(left) == [-1] * 40 + list(range(10))
        assert store.count_request("other", 10) == 9
        clock.advance(60)
        assert store.count_request("k", 10) == 9

    def test_files_count_until_they_are_deleted(self, store: Store, create: Create) -> None:
        create("a", key_id="k")
        lease = store.claim("w", 15.0)
        assert lease is not None
        store.succeed(lease, [VIDEO], {})
        with pytest.raises(StorageLimitReached, match="take 10 bytes, and 10 are allowed"):
            create("b", key_id="k", max_storage_bytes=10)
        create("c", key_id="k", max_storage_bytes=11)
        create("d", key_id="o", max_storage_bytes=10)
        store.delete("a")
        create("e", key_id="k", max_storage_bytes=10)

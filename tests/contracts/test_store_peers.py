"""Jobs that a peer may make, and the workers that hand them over; whatever the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitascope.domain.access import ApiKey, KeyLimits, Scope
from vitascope.domain.job import Job
from vitascope.store import Store

Create = Callable[..., Job]
PEER = "https://second.internal:8000"


class TestPeers:
    def test_only_what_may_be_is_handed_over_in_its_turn(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        assert store.next_to_hand_over() is None
        create("stays", priority=3)
        assert store.next_to_hand_over() is None
        for number in range(20):
            create(f"more{number}")
        create("goes", may_hand_over=True)
        create("urgent", may_hand_over=True, priority=1)
        found = store.next_to_hand_over(device="peer")
        assert found is not None
        assert (found.id, found.status, found.request.may_hand_over) == ("urgent", "queued", True)
        left = store.next_to_hand_over(without=["urgent"])
        assert left is not None
        assert left.id == "goes", "however many wait before it that stay"
        assert store.next_to_hand_over(without=["urgent", "goes"]) is None

    def test_keys_at_their_limit_hand_nothing_over(self, store: Store, create: Create) -> None:
        for key in ("b", "a"):
            create(f"{key}1", key_id=key, may_hand_over=True)
        create("a2", key_id="a", may_hand_over=True)
        lease = store.claim("w", 15.0, job_id="a1")
        assert lease is not None
        found = store.next_to_hand_over()
        assert found is not None
        assert found.id == "b1", "the other key has had less"

    def test_a_key_that_came_to_its_limit_meanwhile_has_no_more_claimed(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        """Between the choice of a job and its claim the peer is asked, and workers here go on."""
        limited = ApiKey(
            id="k", name="test", prefix="vsk_abcd", last4="wxyz", scopes=frozenset({Scope.GENERATE}),
            limits=KeyLimits(max_running=1), created_at=clock.now,
        )  # fmt: skip
        store.add_key(limited, "d" * 64)
        for job_id in ("first", "second"):
            create(job_id, key_id="k", may_hand_over=True)
        here = store.claim("w", 15.0)
        assert here is not None
        assert store.claim("p", 15.0, job_id="second") is None
        store.release(here, count_attempt=False)
        assert store.claim("p", 15.0, job_id="second") is not None

    def test_one_job_is_claimed_if_it_still_waits(self, store: Store, create: Create, clock: Any) -> None:
        create("first")
        create("second", may_hand_over=True)
        lease = store.claim("p", 15.0, job_id="second")
        assert lease is not None
        assert (lease.job.id, lease.job.attempt) == ("second", 1)
        assert store.claim("p", 15.0, job_id="second") is None
        assert store.claim("p", 15.0, job_id="nobody") is None
        assert store.next_to_hand_over() is None
        store.release(lease, count_attempt=False)
        back = store.next_to_hand_over()
        assert back is not None
        assert (back.id, back.attempt) == ("second", 0)

    def test_who_hands_over_is_no_worker_of_this_server(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        store.worker_seen("p", "peer", peer=PEER)
        assert store.live_workers(60) == 0, "what stays would wait for ever"
        clock.advance(1)
        store.worker_seen("w", "cpu")
        store.worker_seen("p")
        assert store.live_workers(60) == 1
        assert [(state.id, state.peer) for state in store.worker_states(60)] == [("p", PEER), ("w", None)]
        for name in ("here", "there"):
            create(name, may_hand_over=True)
        for worker, job_id in (("w", "here"), ("p", "there")):
            assert store.claim(worker, 30.0, job_id=job_id)
        situation = store.situation(60)
        assert (set(situation.workers), set(situation.peers)) == ({"w"}, {"p"})
        assert situation.lost == frozenset(), "a job at a peer is in good hands"
        assert len(situation.free_in) == 1
        store.worker_stopped("p")
        assert store.situation(60).lost == {"there"}

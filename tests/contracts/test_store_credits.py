"""Credits: set aside with the job, paid or given back with its end; whatever the database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from bench import ledger as bench_ledger
from vitascope.domain.access import ApiKey, Scope
from vitascope.domain.errors import InsufficientCredits, InvalidParameter, KeyNotFound
from vitascope.domain.job import Job, JobError, JobStatus
from vitascope.domain.money import MAX_CREDITS, Account, Balance, Move
from vitascope.store import Charge, Store, maintenance

Create = Callable[..., Job]
ONE = Charge(5, 1)


def add_key(store: Store, key_id: str, clock: Any) -> str:
    store.add_key(
        ApiKey(
            id=key_id,
            name=key_id,
            prefix="p",
            last4="abcd",
            scopes=frozenset({Scope.GENERATE}),
            created_at=clock(),
        ),
        key_id,
    )
    return key_id


@pytest.fixture
def key(store: Store, clock: Any) -> str:
    """A key that is counted, with 20 credits."""
    add_key(store, "k", clock)
    store.grant("k", 20, note="to begin with")
    return "k"


def standing(store: Store, key_id: str) -> tuple[int, int, int]:
    balance = store.balance(key_id)
    assert balance is not None
    assert store.ledger_imbalances() == []
    return balance.credits, balance.held, balance.spent


def test_a_video_that_is_delivered_is_paid_for(store: Store, create: Create, key: str) -> None:
    job = create("a", key_id=key, charge=ONE)
    assert (job.price, job.charged, standing(store, key)) == (5, None, (15, 5, 0))
    lease = store.claim("w", 15.0)
    assert lease is not None
    store.succeed(lease, [bench_ledger._video(0)], {})
    assert standing(store, key) == (15, 0, 5)
    assert store.get("a").charged == 5


@pytest.mark.parametrize("how", ["fail", "cancel a queued one", "cancel a running one", "delete", "give up"])
def test_what_is_not_delivered_is_given_back(
    store: Store, create: Create, key: str, clock: Any, how: str
) -> None:
    create("a", key_id=key, charge=ONE)
    if how == "cancel a queued one":
        store.request_cancel("a")
    elif how == "delete":
        store.delete("a")
    else:
        lease = store.claim("w", 15.0)
        assert lease is not None
        assert standing(store, key) == (15, 5, 0), "held for as long as it may still be made"
        if how == "fail":
            store.fail(lease, JobError("out_of_memory", "It ran out of memory."))
        elif how == "cancel a running one":
            store.request_cancel("a")
            store.finish_cancelled(lease)
        else:
            clock.advance(20)
            store.requeue_lapsed(max_attempts=1)
    assert standing(store, key) == (20, 0, 0)
    if how != "delete":
        assert store.get("a").charged == 0


def test_a_job_that_waits_again_is_held_once(store: Store, create: Create, key: str, clock: Any) -> None:
    create("a", key_id=key, charge=ONE)
    for _ in range(2):
        assert store.claim("w", 15.0) is not None
        clock.advance(20)
        store.requeue_lapsed(max_attempts=9)
        assert standing(store, key) == (15, 5, 0)


def test_each_video_is_paid_for_on_its_own(store: Store, create: Create, key: str) -> None:
    job = create("a", key_id=key, num_videos=3, charge=Charge(4, 3))
    assert job.price == 12
    lease = store.claim("w", 15.0)
    assert lease is not None
    store.succeed(lease, [bench_ledger._video(index) for index in (0, 2)], {})
    assert standing(store, key) == (12, 0, 8)
    assert store.get("a").charged == 8
    moves = [(entry.move, entry.account, entry.amount, entry.output) for entry in store.entries(key).entries]
    assert moves == [
        (Move.REFUND, Account.KEY, 4, None),
        (Move.REFUND, Account.HELD, -4, None),
        (Move.SETTLE, Account.HELD, -4, 2),
        (Move.SETTLE, Account.HELD, -4, 0),
        (Move.HOLD, Account.HELD, 12, None),
        (Move.HOLD, Account.KEY, -12, None),
        (Move.GRANT, Account.KEY, 20, None),
    ]
    assert {entry.job_id for entry in store.entries(key).entries} == {"a", ""}


def test_who_has_not_enough_makes_nothing(store: Store, create: Create, key: str) -> None:
    with pytest.raises(InsufficientCredits) as error:
        create("a", key_id=key, charge=Charge(7, 3))
    assert (error.value.needed, error.value.left) == (21, 20)
    assert standing(store, key) == (20, 0, 0)
    assert store.page().jobs == ()
    create("b", key_id=key, charge=Charge(20, 1))
    with pytest.raises(InsufficientCredits):
        create("c", key_id=key, charge=Charge(1, 1))


def test_a_key_that_is_not_counted_makes_what_it_likes(store: Store, create: Create, clock: Any) -> None:
    add_key(store, "free", clock)
    assert create("a", key_id="free", charge=ONE).price is None
    assert create("b", key_id="", charge=ONE).price is None
    assert store.balance("free") is None
    store.grant("free", 0)
    with pytest.raises(InsufficientCredits):
        create("c", key_id="free", charge=ONE)
    assert store.count_credits("free", is_on=False) == Balance("free", 0, 0, 0, is_on=False)
    assert create("d", key_id="free", charge=ONE).price is None


def test_what_was_held_is_settled_though_counting_has_stopped(store: Store, create: Create, key: str) -> None:
    create("a", key_id=key, charge=ONE)
    store.count_credits(key, is_on=False)
    store.request_cancel("a")
    assert standing(store, key) == (20, 0, 0)


class TestGrants:
    def test_one_of_the_same_reference_is_made_once(self, store: Store, key: str, clock: Any) -> None:
        for _ in range(3):
            assert store.grant(key, 7, reference="invoice 1").credits == 27
        with pytest.raises(InvalidParameter):
            store.grant(key, 8, reference="invoice 1")
        add_key(store, "other", clock)
        with pytest.raises(InvalidParameter):
            store.grant("other", 7, reference="invoice 1")
        assert standing(store, key) == (27, 0, 0)

    def test_no_more_is_taken_back_than_there_is(self, store: Store, key: str) -> None:
        assert store.grant(key, -5).credits == 15
        with pytest.raises(InvalidParameter, match="15 credits"):
            store.grant(key, -16)
        assert standing(store, key) == (15, 0, 0)

    def test_a_key_never_has_more_than_a_number_that_is_exact(self, store: Store, key: str) -> None:
        with pytest.raises(InvalidParameter, match="at most"):
            store.grant(key, MAX_CREDITS)
        assert store.grant(key, MAX_CREDITS - 20).credits == MAX_CREDITS
        with pytest.raises(InvalidParameter, match="at most"):
            store.grant(key, 1)
        assert store.grant(key, -MAX_CREDITS).credits == 0
        assert standing(store, key) == (0, 0, 0)

    def test_only_a_good_key_gets_any(self, store: Store, key: str) -> None:
        with pytest.raises(KeyNotFound):
            store.grant("nobody", 1)
        store.revoke_key(key)
        with pytest.raises(KeyNotFound):
            store.grant(key, 1)

    def test_the_book_has_pages(self, store: Store, key: str) -> None:
        for number in range(4):
            store.grant(key, 1, note=str(number))
        first = store.entries(key, limit=3)
        assert ([entry.note for entry in first.entries], first.has_more) == (["3", "2", "1"], True)
        rest = store.entries(key, before=first.entries[-1].number, limit=3)
        assert ([entry.note for entry in rest.entries], rest.has_more) == (["0", "to begin with"], False)
        assert store.entries("another").entries == ()


def test_fifty_at_once_with_credits_for_ten(
    open_store: Callable[[], Store], store: Store, create: Create, clock: Any
) -> None:
    add_key(store, "few", clock)
    store.grant("few", 50)
    planned = create("first").plan
    request = store.get("first").request
    stores = [open_store() for _ in range(5)]
    results: list[str] = []
    ready = threading.Barrier(50)

    def make(number: int) -> None:
        ready.wait()
        try:
            stores[number % 5].create(f"j{number}", request, planned, 1000, key_id="few", charge=ONE)
            results.append("made")
        except InsufficientCredits:
            results.append("refused")

    threads = [threading.Thread(target=make, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results.count("made"), results.count("refused")) == (10, 40)
    assert standing(store, "few") == (0, 50, 0)
    assert len([job for job in store.page(limit=100).jobs if job.key_id == "few"]) == 10


def test_the_book_holds_whatever_happens_in_whatever_order(url: str) -> None:
    """Also with crashes between any two statements; `python -m bench.ledger` plays 100,000 calls."""
    counted = bench_ledger.play(lambda clock: Store.open(url, clock), calls=400, steps=50)
    assert counted.crashes > 3
    assert counted.jobs > 5
    assert maintenance.check(url).problems == ()


def test_the_databases_check_finds_a_book_that_does_not_add_up(
    store: Store, url: str, create: Create, key: str
) -> None:
    create("a", key_id=key, charge=ONE)
    import sqlalchemy as sa

    with store._database.write() as connection:
        connection.execute(
            sa.text("UPDATE ledger SET amount = amount + 1 WHERE move = 'hold' AND account = 'held'")
        )
    problems = maintenance.check(url).problems
    assert any("sum to 1" in problem for problem in problems)
    assert any("job a holds 6 credits" in problem for problem in problems)
    assert any("key k" in problem for problem in problems)
    assert JobStatus.QUEUED is store.get("a").status

"""Which waiting job is begun beside others, and who hears of jobs; whatever the database."""

from __future__ import annotations

import contextlib
import select
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitascope.domain.arbiter import AHEAD_SECONDS, BESIDE_AFTER_SECONDS, Candidate
from vitascope.domain.beside import Beside
from vitascope.domain.cost import Speed, effort_of, work_of
from vitascope.domain.job import Job, JobError
from vitascope.store import JobNews, Store
from vitascope.store.sqlite import LOOK_SECONDS, Changes
from vitascope.store.writes import Writes
from waiting import eventually

Create = Callable[..., Job]


@pytest.fixture
def news(store: Store) -> Iterator[JobNews]:
    found = store.watch_jobs()
    found.has_come()
    yield found
    found.close()


def begin(store: Store, create: Create) -> Beside:
    """Let a job of 100 s be open in a worker whose speed is known."""
    known = create("known", num_inference_steps=10)
    lease = store.claim("w", 15.0, device="d")
    assert lease is not None
    store.succeed(
        lease, [], {}, speed=Speed(known.plan.model, effort_of(known.plan).work, 1.0, 0.0), device="d"
    )
    create("long", num_inference_steps=100)
    assert store.claim("w", 15.0, device="d") is not None
    model = known.plan.model
    return Beside((Candidate("long", "", model, 100.0, 0.0),), frozenset({model}))


def beside_of(store: Store, beside: Beside) -> str | None:
    return store.next_beside(beside, device="d")


class TestBeside:
    def test_a_short_job_is_once_it_has_waited_a_moment(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        beside = begin(store, create)
        assert beside_of(store, beside) is None
        create("as long", num_inference_steps=100)
        create("short", num_inference_steps=3)
        assert beside_of(store, beside) is None, "an idle worker is first"
        clock.advance(2 * BESIDE_AFTER_SECONDS)
        assert beside_of(store, beside) == "short"
        lease = store.claim("w", 15.0, device="d", job_id="short")
        assert lease is not None
        assert lease.expected_seconds == pytest.approx(3.0)
        assert beside_of(store, beside) is None, "the other one is no shorter than what runs"

    def test_only_of_models_with_room_and_not_what_is_to_be_made_alone(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        beside = begin(store, create)
        create("short", num_inference_steps=3)
        clock.advance(2 * BESIDE_AFTER_SECONDS)
        assert beside_of(store, replace(beside, models=frozenset({"other"}))) is None
        assert beside_of(store, replace(beside, without=frozenset({"short"}))) is None
        lease = store.claim("v", 15.0, job_id="short")
        assert lease is not None
        store.release(lease, count_attempt=True)
        assert beside_of(store, beside) is None, "it may have been the reason why an engine died"

    def test_what_can_share_forwards_may_be_as_long(self, store: Store, create: Create, clock: Any) -> None:
        beside = begin(store, create)
        drawn = create("drawn", num_inference_steps=100, is_seed_drawn=True)
        create("given", num_inference_steps=100)
        clock.advance(2 * BESIDE_AFTER_SECONDS)
        assert beside_of(store, beside) is None
        shared = frozenset({(drawn.plan.model, work_of(drawn.plan))})
        assert beside_of(store, replace(beside, shared=shared)) == "drawn"

    def test_those_that_share_for_long_let_others_have_their_turn(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        beside = begin(store, create)
        given = create("given", num_inference_steps=100)
        drawn = create("drawn", num_inference_steps=100, is_seed_drawn=True)
        clock.advance(2 * BESIDE_AFTER_SECONDS)
        sharing = replace(beside, shared=frozenset({(drawn.plan.model, work_of(drawn.plan))}))
        assert beside_of(store, sharing) == "drawn"
        assert beside_of(store, replace(sharing, shares_in_turn=True)) is None, (
            "else the other one never has it"
        )
        tried = replace(sharing, shares_in_turn=True, without=frozenset({"given"}))
        assert beside_of(store, tried) is None, "nor would one that is to be made alone"
        assert store.claim("v", 15.0, job_id=given.id) is not None
        assert beside_of(store, replace(sharing, shares_in_turn=True)) == "drawn"


@pytest.mark.parametrize("end", ["fail", "finish_cancelled", "release"])
def test_a_key_has_had_nothing_while_its_job_stood_still(
    store: Store, create: Create, clock: Any, end: str
) -> None:
    create("job", key_id="k")
    lease = store.claim("w", 600.0)
    assert lease is not None
    clock.advance(100)
    if end == "fail":
        store.fail(lease, JobError("generation_failed", "no picture came"), stood_seconds=95.0)
    elif end == "finish_cancelled":
        store.finish_cancelled(lease, stood_seconds=95.0)
    else:
        store.release(lease, count_attempt=False, stood_seconds=95.0)
    assert store.situation(600.0).served_seconds["k"] == pytest.approx(5.0, abs=0.1)


def test_a_key_has_had_nothing_either_while_its_running_job_stands_still(
    store: Store, create: Create, clock: Any
) -> None:
    create("job", key_id="k", num_inference_steps=1)
    lease = store.claim("w", 600.0)
    assert lease is not None
    clock.advance(100)
    store.renew(lease, 600.0, stood_seconds=95.0)
    (running,) = store.situation(600.0).running
    assert running.worked_seconds == pytest.approx(5.0, abs=0.1)
    assert store.situation(600.0).served_seconds["k"] <= AHEAD_SECONDS + 5.1
    store.succeed(lease, [], {"seconds": {"stand_still": 90.0}})
    assert store.situation(600.0).served_seconds["k"] == pytest.approx(5.0, abs=0.1), (
        "it was stored meanwhile"
    )
    create("again", key_id="k")
    again = store.claim("w", 600.0)
    assert again is not None
    store.release(again, count_attempt=False)
    taken = store.claim("w", 600.0)
    assert taken is not None
    clock.advance(10)
    assert store.situation(600.0).running[0].worked_seconds == pytest.approx(10.0, abs=0.1)


def test_who_watches_hears_of_new_jobs_and_of_ends(store: Store, create: Create, news: JobNews) -> None:
    assert not news.has_come()
    create("job")
    eventually(news.has_come)
    lease = store.claim("w", 15.0)
    assert lease is not None
    while news.has_come():
        pass
    store.fail(lease, JobError("generation_failed", "no picture came"))
    eventually(news.has_come)


def test_who_waits_for_news_is_woken(store: Store, create: Create, news: JobNews) -> None:
    create("job")
    fd = news.fileno()
    assert fd is not None
    assert select.select([fd], [], [], 60)[0]
    eventually(news.has_come)


def test_a_file_system_that_tells_of_no_writes_is_asked_more_often(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE t (n)")
        changes = Changes(path)
        assert changes.look_seconds > LOOK_SECONDS
        changes._writes = Writes(tmp_path / "elsewhere")  # of these nothing will be heard
        seen = 0
        for number in range(10):
            other.execute("INSERT INTO t VALUES (?)", (number,))
            other.commit()
            seen += changes.has_come()
        assert seen == 10
        assert (changes.fileno(), changes.look_seconds) == (None, LOOK_SECONDS)
        changes.close()


def test_a_workers_own_jobs_are_not_taken_from_it_by_itself(store: Store, create: Create, clock: Any) -> None:
    create("job")
    assert store.claim("w", 15.0) is not None
    clock.advance(60)
    assert store.requeue_lapsed(3, without=["job"]).num_jobs == 0
    assert store.requeue_lapsed(3, without=["another"]).num_jobs == 1

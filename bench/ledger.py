"""Credits in every order of events, with crashes between any two statements: `python -m bench.ledger [--database URL]`.

A state machine (hypothesis) plays operators, clients and workers on a real database. Some calls are cut at a random statement: the
connection dies there, as it does with its process. After each call the balances are compared with plain arithmetic beside, and
again and again the whole book is checked: nothing below zero, sums of zero, no hold of an ended job, one settle a delivered video.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from vitascope.domain.access import ApiKey, Scope
from vitascope.domain.errors import InsufficientCredits, InvalidParameter, JobNotFound, LeaseLost
from vitascope.domain.job import Job, JobError, JobStatus, Lease
from vitascope.domain.model_spec import Bounds, FrameRule, ModelSpec, Size
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.video import Video
from vitascope.store import Charge, Store
from vitascope.store.tables import jobs, ledger

LEASE_SECONDS = 15.0
MAX_ATTEMPTS = 3
CHECK_EVERY = 25
"""Calls between two looks at the whole book."""

SPEC = ModelSpec(
    id="small",
    title="Small",
    family="generic",
    source="folder:/nowhere",
    pipelines={"text": "WanPipeline"},
    sizes=(Size(64, 96),),
    frames=FrameRule(4, 1, 5, 17),
    default_num_frames=17,
    fps=8,
    num_inference_steps=Bounds(4, 1, 50),
    guidance_scale=Bounds(4.0, 1.0, 20.0),
)
_PLAN = plan(GenerationRequest(prompt="a dog", model="small", seed=1), SPEC)


class Crash(BaseException):
    """The process dies here."""


class Clock:
    """Stands for all clocks."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Cuts:
    """Cuts the transactions of a store at a chosen statement: the connection is gone, and what it wrote with it."""

    def __init__(self, store: Store) -> None:
        self._left: int | None = None
        self.count = 0
        for name in ("_writes", "_soon", "_engine"):
            engine = getattr(store._database, name, None)
            if isinstance(engine, sa.Engine):
                sa.event.listen(engine, "before_cursor_execute", self._look)
                sa.event.listen(engine, "commit", self._look)

    def _look(self, connection: sa.Connection, *_: Any) -> None:
        if self._left is None:
            return
        self._left -= 1
        if self._left < 0:
            self._left = None
            self.count += 1
            connection.invalidate()
            raise Crash

    @contextlib.contextmanager
    def at(self, statement: int | None) -> Iterator[None]:
        """Let the block die before its statement of this number, if it comes so far."""
        self._left = statement
        try:
            yield
        finally:
            self._left = None


@dataclass
class Counted:
    """Of all runs."""

    calls: int = 0
    crashes: int = 0
    jobs: int = 0
    delivered: int = 0
    refusals: int = 0
    by_rule: dict[str, int] = field(default_factory=dict)


@dataclass
class _Job:
    key_id: str
    each: int
    num_videos: int
    #: Whether it was counted when it was made.
    is_counted: bool
    is_deleted: bool = False


@dataclass
class _Key:
    credits: int = 0
    held: int = 0
    spent: int = 0
    is_on: bool = False
    has_balance: bool = False


_CUT = st.one_of(st.none(), st.none(), st.integers(0, 14))
_KEY = st.integers(0, 2)
_ANY = st.integers(0, 1_000_000)


class LedgerMachine(RuleBasedStateMachine):
    """Operators, clients and workers; `open_store` and `counted` are set by whoever runs it."""

    open_store: Callable[[Clock], Store]
    counted = Counted()
    _numbers = itertools.count()

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.store = type(self).open_store(self.clock)
        self.cuts = Cuts(self.store)
        self.keys: dict[str, _Key] = {}
        self.jobs: dict[str, _Job] = {}
        self.leases: list[Lease] = []
        #: Jobs that a claim may find.
        self.waiting: set[str] = set()
        self.references: dict[str, tuple[str, int]] = {}
        self.calls = 0
        self.delivered_count = 0
        for _ in range(3):
            self._add_key()

    def _add_key(self) -> None:
        number = next(self._numbers)
        key = ApiKey(
            id=f"key{number}-{time.time_ns()}",
            name="k",
            prefix="p",
            last4="abcd",
            scopes=frozenset({Scope.GENERATE}),
            created_at=self.clock(),
        )
        self.store.add_key(key, key.id)
        self.keys[key.id] = _Key()

    def _key(self, number: int) -> str:
        return list(self.keys)[number % len(self.keys)]

    def _call(self, name: str, cut: int | None, act: Callable[[], Any]) -> Any:
        """Make a call that may be cut; raises Crash if it was."""
        self.calls += 1
        counted = type(self).counted
        counted.calls += 1
        counted.by_rule[name] = counted.by_rule.get(name, 0) + 1
        before = self.cuts.count
        try:
            with self.cuts.at(cut):
                return act()
        finally:
            counted.crashes += self.cuts.count - before

    # operators

    @rule(number=_KEY, amount=st.integers(-20, 120), repeated=st.booleans(), cut=_CUT)
    def grant(self, number: int, amount: int, repeated: bool, cut: int | None) -> None:
        key_id = self._key(number)
        key = self.keys[key_id]
        name = next((one for one, made in self.references.items() if made == (key_id, amount)), None)
        is_again = repeated and name is not None
        reference = name if is_again else f"{key_id}-{len(self.references)}"
        try:
            self._call("grant", cut, lambda: self.store.grant(key_id, amount, reference=reference))
        except Crash:
            return
        except InvalidParameter:
            assert key.credits + amount < 0
            return
        assert is_again or key.credits + amount >= 0
        key.has_balance = True
        if is_again:
            return
        key.is_on = True
        key.credits += amount
        if amount:
            self.references[str(reference)] = (key_id, amount)

    @precondition(lambda self: self.calls % 7 == 0)  # seldom: while it is off nothing is counted
    @rule(number=_KEY, is_on=st.booleans(), cut=_CUT)
    def switch(self, number: int, is_on: bool, cut: int | None) -> None:
        key_id = self._key(number)
        with contextlib.suppress(Crash):
            self._call("switch", cut, lambda: self.store.count_credits(key_id, is_on=is_on))
            self.keys[key_id].is_on = is_on
            self.keys[key_id].has_balance = True

    # clients

    @rule(number=_KEY, each=st.integers(1, 9), num_videos=st.integers(1, 3), cut=_CUT)
    def create(self, number: int, each: int, num_videos: int, cut: int | None) -> None:
        key_id = self._key(number)
        key = self.keys[key_id]
        job_id = f"job{next(self._numbers)}-{time.time_ns()}"
        request = GenerationRequest(prompt="a dog", model="small", seed=1, num_videos=num_videos)
        planned: Plan = replace(_PLAN, num_videos=num_videos)
        price = each * num_videos
        is_counted = key.has_balance and key.is_on
        charge = Charge(each, num_videos)
        try:
            job: Job = self._call(
                "create",
                cut,
                lambda: self.store.create(job_id, request, planned, 10_000, key_id=key_id, charge=charge),
            )
        except Crash:
            return
        except InsufficientCredits as error:
            assert is_counted
            assert (error.needed, error.left) == (price, key.credits)
            assert key.credits < price
            type(self).counted.refusals += 1
            return
        assert job.price == (price if is_counted else None)
        self.waiting.add(job_id)
        self.jobs[job_id] = _Job(key_id, each, num_videos, is_counted)
        type(self).counted.jobs += 1
        if is_counted:
            assert key.credits >= price
            key.credits -= price
            key.held += price

    @precondition(lambda self: self.jobs)
    @rule(chosen=_ANY, is_deletion=st.booleans(), cut=_CUT)
    def cancel(self, chosen: int, is_deletion: bool, cut: int | None) -> None:
        job_id = list(self.jobs)[chosen % len(self.jobs)]
        job = self.jobs[job_id]
        act = self.store.delete if is_deletion else self.store.request_cancel
        before = None if job.is_deleted else self.store.get(job_id).status
        try:
            self._call("delete" if is_deletion else "cancel", cut, lambda: act(job_id))
        except Crash:
            return
        except JobNotFound:
            assert job.is_deleted
            return
        job.is_deleted = is_deletion
        self.waiting.discard(job_id)
        if before is JobStatus.QUEUED:
            self._ended(job, 0)

    # workers

    @precondition(lambda self: self.waiting)
    @rule(cut=_CUT)
    def claim(self, cut: int | None) -> None:
        with contextlib.suppress(Crash):
            lease = self._call("claim", cut, lambda: self.store.claim("w", LEASE_SECONDS))
            assert lease is not None, "somebody waits"
            self.leases.append(lease)
            self.waiting.discard(lease.job.id)

    @precondition(lambda self: self.leases)
    @rule(chosen=_ANY, missing=st.integers(0, 2), cut=_CUT)
    def succeed(self, chosen: int, missing: int, cut: int | None) -> None:
        def act(lease: Lease, job: _Job) -> int:
            delivered = max(1, job.num_videos - missing)
            self.store.succeed(lease, [_video(index) for index in range(delivered)], {})
            return 0 if job.is_deleted else delivered

        self._end("succeed", chosen, cut, act)

    @precondition(lambda self: self.leases)
    @rule(chosen=_ANY, is_failure=st.booleans(), cut=_CUT)
    def fail(self, chosen: int, is_failure: bool, cut: int | None) -> None:
        def act(lease: Lease, _job: _Job) -> int:
            if is_failure:
                self.store.fail(lease, JobError("x", "y"))
            else:
                self.store.finish_cancelled(lease)
            return 0

        self._end("fail" if is_failure else "stop", chosen, cut, act)

    def _lease(self, chosen: int) -> Lease:
        """Mostly one of the newest, which are good; now and then one that was lost long ago."""
        among = self.leases if chosen % 8 == 0 else self.leases[-2:]
        return among[chosen // 8 % len(among)]

    def _end(self, name: str, chosen: int, cut: int | None, act: Callable[[Lease, _Job], int]) -> None:
        """A worker ends a job that it holds, or perhaps held long ago."""
        lease = self._lease(chosen)
        job = self.jobs[lease.job.id]
        with contextlib.suppress(Crash, LeaseLost):
            self._ended(job, self._call(name, cut, lambda: act(lease, job)))

    @precondition(lambda self: self.leases)
    @rule(chosen=_ANY, count_attempt=st.booleans(), cut=_CUT)
    def release(self, chosen: int, count_attempt: bool, cut: int | None) -> None:
        lease = self._lease(chosen)
        with contextlib.suppress(Crash, LeaseLost):
            self._call("release", cut, lambda: self.store.release(lease, count_attempt=count_attempt))
            self._find_ends()

    @precondition(lambda self: self.leases)
    @rule(cut=_CUT)
    def lapse(self, cut: int | None) -> None:
        """All workers were silent for too long."""
        self.clock.now += timedelta(seconds=LEASE_SECONDS + 1)
        with contextlib.suppress(Crash):
            self._call("lapse", cut, lambda: self.store.requeue_lapsed(MAX_ATTEMPTS))
            self._find_ends()

    def _find_ends(self) -> None:
        """A job that was taken from its worker waits again, or has ended: if it should stop, or was tried too often. The store says which."""
        query = sa.select(jobs.c.id, jobs.c.status).where(jobs.c.id.in_(list(self.jobs)))
        with self.store._database.read() as connection:
            found = {row.id: JobStatus(row.status) for row in connection.execute(query)}
        self.waiting = {job_id for job_id, status in found.items() if status is JobStatus.QUEUED}
        for job_id, status in found.items():
            if status.is_terminal:
                self._ended(self.jobs[job_id], 0)

    def _ended(self, job: _Job, delivered: int) -> None:
        """Settle beside, once."""
        self.delivered_count += delivered if job.is_counted else 0
        type(self).counted.delivered += delivered
        if job.is_counted:
            key, price, paid = self.keys[job.key_id], job.each * job.num_videos, job.each * delivered
            key.held -= price
            key.spent += paid
            key.credits += price - paid
            job.is_counted = False

    @invariant()
    def balances_are_what_was_counted_beside(self) -> None:
        if not hasattr(self, "store"):
            return
        for key_id, key in self.keys.items():
            found = self.store.balance(key_id)
            if not key.has_balance:
                assert found is None or (found.credits, found.held, found.spent) == (0, 0, 0)
                continue
            assert found is not None
            assert (found.credits, found.held, found.spent) == (key.credits, key.held, key.spent), key_id
            assert min(found.credits, found.held, found.spent) >= 0
        if self.calls % CHECK_EVERY == 0:
            self._check_book()

    def _check_book(self) -> None:
        assert self.store.ledger_imbalances() == []
        is_settle = (ledger.c.move == "settle") & (ledger.c.account == "spent")
        of_keys = ledger.c.key_id.in_(list(self.keys))
        count = sa.select(sa.func.count()).select_from(ledger).where(is_settle, of_keys)
        with self.store._database.read() as connection:
            assert connection.scalar(count) == self.delivered_count, "one settle a delivered video"

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        self._check_book()
        for job_id, job in self.jobs.items():  # the next run begins with an empty queue
            if not job.is_deleted:
                self.store.delete(job_id)
        self.clock.now += timedelta(days=1)
        self.store.requeue_lapsed(MAX_ATTEMPTS)
        assert all(balance.held == 0 for balance in self.store.all_balances()), "all jobs have ended"
        assert self.store.ledger_imbalances() == []
        self.store.close()


def _video(index: int) -> Video:
    return Video(
        index=index,
        key=f"videos/{index}.mp4",
        media_type="video/mp4",
        num_bytes=1,
        sha256="00",
        height=64,
        width=96,
        num_frames=17,
        fps=8,
    )


def play(open_store: Callable[[Clock], Store], calls: int, steps: int = 100, seed: int = 0) -> Counted:
    """Run machines, each of so many steps, until so many calls were made.

    Raises:
        AssertionError: something did not hold.
    """
    counted = Counted()
    machine = type("Machine", (LedgerMachine,), {"open_store": staticmethod(open_store), "counted": counted})
    rounds = 0
    while counted.calls < calls:
        chosen = settings(
            max_examples=max(1, min(50, (calls - counted.calls) // steps + 1)),
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )
        random.seed(seed + rounds)
        run_state_machine_as_test(machine, settings=chosen)
        rounds += 1
    return counted


def main() -> None:
    """Play and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--database", help="URL of an empty database; a SQLite file by default")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = asked.database or f"sqlite:///{Path(folder) / 'jobs.db'}"
        begun = time.perf_counter()
        counted = play(lambda clock: Store.open(url, clock), asked.calls)
        seconds = time.perf_counter() - begun
    result = {**counted.__dict__, "seconds": round(seconds, 1), "problems": 0}
    print(
        json.dumps(result) if asked.json else "\n".join(f"{name}: {value}" for name, value in result.items())
    )


if __name__ == "__main__":
    main()

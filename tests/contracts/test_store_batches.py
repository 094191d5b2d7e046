"""Batches on every database: a feeder that is killed at each point, two that meet, one that comes back from the dead."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from vitascope.domain.access import OPEN, Caller, KeyLimits, Scope
from vitascope.domain.batch import Batch, BatchStatus, Line, LineError, NewLine
from vitascope.domain.errors import (
    BatchConflict,
    BatchNotFound,
    InvalidParameter,
    LeaseLost,
    QueueFull,
    StorageLimitReached,
    StorageUnavailable,
    VitascopeError,
)
from vitascope.domain.job import Job, JobError, JobStatus
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import GenerationRequest
from vitascope.domain.video import Video
from vitascope.service import Draft, Feeder, FileId, Parsed, Prepared, Service, feeding
from vitascope.storage import LocalStorage
from vitascope.storage.local import _storing
from vitascope.store import Store
from vitascope.store.for_batches import LEASE_SECONDS
from vitascope.store.tables import batch_lines, files, jobs
from waiting import eventually

ME = Caller("", frozenset({Scope.GENERATE}))

LINES = "\n".join(
    json.dumps({"name": f"line {n}", "prompt": "a dog", **({"width": 1} if n % 4 == 3 else {})})
    for n in range(1, 9)
)
"""Eight requests; two of them, the third and the seventh, cannot be carried out."""

NUM_LINES, NUM_GOOD = 8, 6


class Killed(BaseException):
    """What stands for SIGKILL: nobody catches it."""


class Shelf:
    """A catalog of one model."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec

    def all(self) -> list[ModelSpec]:
        return [self._spec]

    def resolve(self, name: str | None) -> ModelSpec:
        return self._spec

    def is_here(self, spec: ModelSpec) -> bool:
        return True


class Form:
    """Requests as JSON objects, one a line."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def parse(self, data: bytes) -> Parsed:
        if data == b"wrong":
            return Parsed(errors=[LineError("wrong", "It is wrong.", 1)])
        texts = data.decode().splitlines()
        return Parsed([NewLine(n, json.loads(text)["name"], text) for n, text in enumerate(texts, 1)])

    def prepare(self, body: str, caller: Caller) -> Prepared:
        asked = json.loads(body)
        request = GenerationRequest(
            prompt=asked["prompt"], model="small", width=asked.get("width"), metadata={"name": asked["name"]}
        )
        return Prepared(self._service.drafts.prepare(request, caller), lambda error: error)

    def refusal(self, error: VitascopeError) -> dict[str, Any]:
        return {"code": error.code}

    def result(self, batch: Batch, line: Line, job: Job | None) -> tuple[bytes, bool]:
        told = {
            "name": line.custom_id,
            "outcome": line.outcome,
            "job": job and job.id,
            "refusal": line.refusal,
        }
        return json.dumps(told).encode(), line.outcome != "succeeded"


@dataclass
class Fates:
    """Kills whoever comes to a point for the n-th time."""

    point: str = ""
    count: int = 1
    seen: list[str] = field(default_factory=list)

    def pass_by(self, point: str) -> None:
        self.seen.append(point)
        if point == self.point and self.seen.count(point) == self.count:
            raise Killed(point)


class Mortal:
    """Something whose calls may be the last: `NAME before` is not done, `NAME after` is."""

    def __init__(self, real: Any, fates: Fates, names: tuple[str, ...]) -> None:
        self._real = real
        self._fates = fates
        self._names = names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name not in self._names:
            return found

        def call(*args: Any, **named: Any) -> Any:
            self._fates.pass_by(f"{name} before")
            answer = found(*args, **named)
            if name != "open":  # nobody would close it
                self._fates.pass_by(f"{name} after")
            return answer

        return call


STORE = (
    "claim_batch", "clear_lines", "add_lines", "begin_batch", "fail_batch", "feed_line", "refuse_line",
    "settle_lines", "stop_lines", "end_batch", "release_batch", "line_results", "prune_lines",
)  # fmt: skip
STORAGE = ("put", "open")


@dataclass
class House:
    """Everything that a web process has, over a database and a storage that others have too."""

    store: Store
    storage: LocalStorage
    spec: ModelSpec
    clock: Any

    def process(self, fates: Fates | None = None, store: Store | None = None) -> Feeder:
        """Start another process."""
        fates = fates or Fates()
        mortal: Any = Mortal(store or self.store, fates, STORE)
        kept: Any = Mortal(self.storage, fates, STORAGE)
        service = Service(mortal, Shelf(self.spec), kept, clock=self.clock)

        async def with_inputs(_caller: Caller, draft: Draft, _base_url: str) -> Draft:
            fates.pass_by("with_inputs")
            return draft

        return Feeder(service, mortal, {"/v1/videos": Form(service)}, with_inputs)

    @property
    def service(self) -> Service:
        return Service(self.store, Shelf(self.spec), self.storage, clock=self.clock)

    def upload(self, text: str = LINES, caller: Caller = ME) -> FileId:
        own = self.service.files
        upload = own.prepare(text.encode(), "a.jsonl", "batch", caller)
        own.put(upload)
        return FileId(own.add(upload, caller).id, "it")

    def begin(self, text: str = LINES, caller: Caller = ME) -> Batch:
        return self.service.batches.create(
            self.upload(text, caller), "/v1/videos", caller, metadata={"a": "b"}
        )

    def batch(self, batch: Batch) -> Batch:
        return self.store.batch(batch.id)

    def work(self) -> int:
        """End all that waits; returns how many jobs that were."""
        count = 0
        while (lease := self.store.claim("w", 3600)) is not None:
            count += 1
            key = f"videos/{lease.job.id}.mp4"
            video = Video(
                key=key, media_type="video/mp4", num_bytes=1, sha256="00", height=64, width=96, num_frames=17, fps=8
            )  # fmt: skip
            end(self.store, lease, video)
        return count

    def go_on(self, feeder: Feeder, batch: Batch, passes: int = 40) -> Batch:
        """Let a process and a worker do what is to be done until the batch has ended."""
        for _ in range(passes):
            asyncio.run(feeder.advance())
            self.work()
            self.clock.advance(feeding.AWAY_SECONDS)
            if (found := self.batch(batch)).status.is_terminal:
                return found
        raise AssertionError(f"it does not end: {found}")

    def rows(self, table: sa.Table) -> int:
        with self.store._database.read() as connection:
            return connection.scalars(sa.select(sa.func.count()).select_from(table)).one()

    def results(self, batch: Batch) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                text = self.service.files.read(self.store.file(file_id)).decode()
                lines = [json.loads(line) for line in text.splitlines()]
                assert not {line["name"] for line in lines} & set(found)
                found |= {line["name"]: line for line in lines}
        return found


def end(store: Store, lease: Any, video: Video) -> None:
    try:
        store.succeed(lease, (video,), {})
    except TypeError:
        store.succeed(lease, video, {})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "LINES_AT_ONCE", 3)
    monkeypatch.setattr("vitascope.store.for_batches.LINES_PRUNED_AT_ONCE", 3)


@pytest.fixture
def house(store: Store, tmp_path: Path, small_spec: ModelSpec, clock: Any) -> House:
    return House(store, LocalStorage(tmp_path / "files"), small_spec, clock)


def check_success(house: House, batch: Batch) -> None:
    """Each line one job or one refusal, and its result once."""
    assert (batch.status, batch.num_lines) == (BatchStatus.SUCCEEDED, NUM_LINES)
    assert (batch.num_succeeded, batch.num_failed) == (NUM_GOOD, NUM_LINES - NUM_GOOD)
    results = house.results(batch)
    assert list(Counter(line["outcome"] for line in results.values()).items()) == [
        ("succeeded", 6),
        ("refused", 2),
    ]
    made = house.store.page(limit=100).jobs
    names = [job.request.metadata["name"] for job in made]
    assert sorted(names) == sorted(set(names)), "no line is two jobs"
    assert {job.id for job in made} == {line["job"] for line in results.values() if line["job"]}
    assert house.rows(files) == 3, "one of requests, one of results, one of errors"


def test_a_batch_from_its_file_to_its_results(house: House) -> None:
    made = house.begin()
    feeder = house.process()
    ended = house.go_on(feeder, made)
    check_success(house, ended)
    assert ended.metadata == {"a": "b"}
    assert {job.request.priority for job in house.store.page().jobs} == {-5}
    assert not asyncio.run(feeder.advance())
    while house.store.prune_lines():
        pass
    assert house.rows(batch_lines) == 0
    assert house.batch(made) == ended


POINTS = [
    *((f"{name} {when}", 1) for name in STORE for when in ("before", "after")
      if name not in ("fail_batch", "stop_lines", "prune_lines")),
    *((f"{name} {when}", 2) for name in ("add_lines", "feed_line", "settle_lines") for when in ("before", "after")),
    ("feed_line before", 6), ("feed_line after", 6), ("add_lines after", 3), ("line_results before", 2),
    ("with_inputs", 1), ("with_inputs", 6), ("open before", 1),
    ("put before", 1), ("put after", 1), ("put before", 2), ("put after", 2),
]  # fmt: skip


@pytest.mark.parametrize(("point", "count"), POINTS)
def test_a_batch_outlives_a_kill_at_each_point(house: House, point: str, count: int) -> None:
    made = house.begin()
    fates = Fates(point, count)
    with pytest.raises(Killed):
        house.go_on(house.process(fates), made)
    house.clock.advance(LEASE_SECONDS + 1)
    check_success(house, house.go_on(house.process(), made))


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_outlives_many_kills(house: House, seed: int) -> None:
    """Each process lives for some steps more than the one before."""
    made = house.begin()
    for num_steps in range(1 + seed, 200, 3):
        fates = Fates()

        class Worn(Fates):
            def pass_by(self, point: str) -> None:
                self.seen.append(point)
                if len(self.seen) > num_steps:  # noqa: B023  used within the loop
                    raise Killed(point)

        fates = Worn()
        try:
            ended = house.go_on(house.process(fates), made)
        except Killed:
            house.work()
            house.clock.advance(LEASE_SECONDS + 1)
        else:
            break
    check_success(house, ended)


@pytest.mark.parametrize("point", ["fail_batch before", "fail_batch after"])
def test_a_wrong_file_is_told_once(house: House, point: str) -> None:
    made = house.begin("wrong")
    with pytest.raises(Killed):
        house.go_on(house.process(Fates(point)), made)
    house.clock.advance(LEASE_SECONDS + 1)
    ended = house.batch(made) if point.endswith("after") else house.go_on(house.process(), made)
    assert ended.status is BatchStatus.FAILED
    assert ended.errors == (LineError("wrong", "It is wrong.", 1),)
    assert house.rows(batch_lines) == house.rows(jobs) == 0


class TestStop:
    @pytest.mark.parametrize("how", ["cancelled", "expired"])
    @pytest.mark.parametrize(
        "point",
        ["", "stop_lines before", "stop_lines after", "settle_lines before", "settle_lines after", "end_batch before"],
    )  # fmt: skip
    def test_what_is_left_ends_whoever_is_killed(
        self, house: House, how: str, point: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vitascope.store.for_batches.QUEUED_AT_ONCE", 3)
        made = house.begin()
        asyncio.run(house.process().advance())
        assert house.rows(jobs) == 3
        lease = house.store.claim("w", 10 * 86_400)  # the first is made, the second runs
        assert lease is not None
        end(house.store, lease, Video(key="videos/a.mp4", media_type="video/mp4", num_bytes=1, sha256="", height=64, width=96, num_frames=17, fps=8))  # fmt: skip
        running = house.store.claim("w", 10 * 86_400)
        assert running is not None
        if how == "cancelled":
            assert house.service.batches.cancel(made.id, ME).stop is BatchStatus.CANCELLED
            house.service.batches.cancel(made.id, ME)
        else:
            house.clock.advance(86_400)
        if point:
            with pytest.raises(Killed):
                self._stop(house, made, running, house.process(Fates(point)))
            house.clock.advance(LEASE_SECONDS + 1)
        self._stop(house, made, running, house.process())
        ended = house.batch(made)
        assert (ended.status, ended.num_succeeded, ended.num_failed) == (BatchStatus(how), 1, 7)
        counts = Counter(line["outcome"] for line in house.results(ended).values())
        # the third was refused before, unless it had not come to it
        assert counts["succeeded"] == 1
        assert counts[how] + counts["refused"] == 7
        assert house.rows(jobs) == 3
        assert {job.status for job in house.store.page().jobs} == {JobStatus.SUCCEEDED, JobStatus.CANCELLED}
        assert house.rows(files) == 3

    def _stop(self, house: House, made: Batch, running: Any, feeder: Feeder) -> None:
        for _ in range(10):
            asyncio.run(feeder.advance())
            job = house.store.get(running.job.id)
            if job.cancel_requested and not job.status.is_terminal:
                house.store.finish_cancelled(running)
            house.clock.advance(feeding.PAUSE_SECONDS)
            if house.batch(made).status.is_terminal:
                return
        raise AssertionError("it does not stop")

    def test_one_that_is_not_read_yet_ends_without_files(self, house: House) -> None:
        made = house.begin()
        fates = Fates("add_lines after", 2)
        with pytest.raises(Killed):
            asyncio.run(house.process(fates).advance())
        assert house.rows(batch_lines) == 6
        house.service.batches.cancel(made.id, ME)
        ended = house.go_on(house.process(), made)
        assert ended.status is BatchStatus.CANCELLED
        assert (ended.num_lines, ended.output_file_id, ended.error_file_id) == (0, None, None)
        assert house.rows(batch_lines) == house.rows(jobs) == 0

    def test_a_cancel_stops_who_feeds_at_once(self, house: House) -> None:
        made = house.begin()
        lease = house.store.claim_batch()
        assert lease is not None
        house.store.add_lines(lease, [NewLine(1, "a", "{}")])
        house.store.begin_batch(lease, None)
        house.service.batches.cancel(made.id, ME)
        draft = house.service.drafts.prepare(GenerationRequest(prompt="a", model="small"), ME)
        with pytest.raises(LeaseLost):
            house.service.feed(lease, 1, draft, ME)
        assert house.rows(jobs) == 0

    def test_a_cancel_does_not_wait_for_the_time_of_who_fed(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = house.begin()
        real = Form.prepare

        def slow(self: Form, body: str, caller: Caller) -> Prepared:
            if "line 3" in body:  # it is refused, which makes the feeder's time longer
                house.service.batches.cancel(made.id, ME)
            return real(self, body, caller)

        monkeypatch.setattr(Form, "prepare", slow)
        asyncio.run(house.process().advance())
        assert house.batch(made).stop is BatchStatus.CANCELLED
        assert house.store.has_due_batches()

    def test_what_has_ended_is_not_cancelled(self, house: House) -> None:
        made = house.begin()
        house.go_on(house.process(), made)
        with pytest.raises(BatchConflict):
            house.service.batches.cancel(made.id, ME)

    def test_one_whose_results_are_being_written_is_not_cancelled(self, house: House) -> None:
        made = house.begin()
        with pytest.raises(Killed):
            house.go_on(house.process(Fates("end_batch before")), made)
        with pytest.raises(BatchConflict):
            house.service.batches.cancel(made.id, ME)
        house.clock.advance(2 * 86_400)  # nor is it too late
        check_success(house, house.go_on(house.process(), made))


class TestTwo:
    def test_two_processes_make_each_line_one_job(
        self, house: House, open_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feeding, "FEED_SECONDS", 0.0)
        made = [house.begin() for _ in range(3)]
        stores = [open_store() for _ in range(3)]
        is_over = threading.Event()
        failures: list[BaseException] = []

        def live(feeder: Feeder) -> None:
            async def feed() -> None:
                while not is_over.is_set():
                    if not await feeder.advance():
                        await asyncio.sleep(0.005)

            try:
                asyncio.run(feed())
            except BaseException as error:
                failures.append(error)
                raise

        monkeypatch.setattr(feeding, "PAUSE_SECONDS", 0.0)
        threads = [threading.Thread(target=live, args=(house.process(store=store),)) for store in stores]
        for thread in threads:
            thread.start()

        def look() -> bool:
            house.work()
            return bool(failures) or all(house.batch(batch).status.is_terminal for batch in made)

        try:
            eventually(look, 60)
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        assert not failures
        assert house.rows(jobs) == 3 * NUM_GOOD
        for batch in made:
            ended = house.batch(batch)
            assert (ended.status, ended.num_succeeded, ended.num_failed) == (BatchStatus.SUCCEEDED, 6, 2)
            assert len(house.results(ended)) == NUM_LINES
        assert house.rows(files) == 9

    def test_who_comes_back_from_the_dead_writes_nothing(self, house: House) -> None:
        made = house.begin()
        old = house.store.claim_batch()
        assert old is not None
        assert house.store.claim_batch() is None, "it is another's"
        house.clock.advance(LEASE_SECONDS + 1)
        new = house.store.claim_batch()
        assert new is not None
        assert (new.batch.id, new.token) == (made.id, old.token + 1)
        draft = house.service.drafts.prepare(GenerationRequest(prompt="a", model="small"), ME)
        line = NewLine(1, "a", "{}")
        stale: list[Callable[[], object]] = [
            lambda: house.store.clear_lines(old),
            lambda: house.store.add_lines(old, [line]),
            lambda: house.store.begin_batch(old, None),
            lambda: house.store.fail_batch(old, []),
            lambda: house.store.stop_lines(old),
            lambda: house.store.settle_lines(old),
            lambda: house.store.refuse_line(old, 1, {}),
            lambda: house.service.feed(old, 1, draft, ME),
            lambda: house.store.end_batch(old, None, None),
            lambda: house.store.keep_batch(old),
        ]
        for call in stale:
            with pytest.raises(LeaseLost):
                call()
        house.store.release_batch(old, 0)
        assert house.store.claim_batch() is None, "what is not its own any more it does not give back"
        assert house.rows(jobs) == house.rows(batch_lines) == 0
        house.store.keep_batch(new)

    def test_writing_makes_the_time_longer(self, house: House) -> None:
        house.begin()
        lease = house.store.claim_batch()
        assert lease is not None
        for _ in range(3):
            house.clock.advance(LEASE_SECONDS - 1)
            house.store.keep_batch(lease)
            assert house.store.claim_batch() is None
        house.store.release_batch(lease, 5)
        assert not house.store.has_due_batches()
        house.clock.advance(5)
        assert house.store.has_due_batches()


class TestRoom:
    def test_few_jobs_of_a_batch_wait(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vitascope.store.for_batches.QUEUED_AT_ONCE", 2)
        made = house.begin()
        feeder = house.process()
        most = 0
        while not house.batch(made).status.is_terminal:
            asyncio.run(feeder.advance())
            most = max(most, sum(house.store.queue_stats().queued.values()))
            lease = house.store.claim("w", 60)
            if lease is not None:
                house.store.fail(lease, JobError("x", "y"))
            house.clock.advance(feeding.PAUSE_SECONDS)
        assert most == 2
        assert house.batch(made).num_failed == NUM_LINES

    @pytest.mark.parametrize(
        ("total", "own", "expected"), [(6, None, 3), (100, 4, 2), (1, None, 1), (100, 1, 1)]
    )
    def test_batches_have_half_of_the_queue_and_of_a_keys_part(
        self, house: House, total: int, own: int | None, expected: int
    ) -> None:
        made = house.begin()
        service = Service(
            house.store, Shelf(house.spec), house.storage, max_queued=total, max_queued_per_key=own, clock=house.clock
        )  # fmt: skip

        async def with_inputs(_caller: Caller, draft: Draft, _base_url: str) -> Draft:
            return draft

        feeder = Feeder(service, house.store, {"/v1/videos": Form(service)}, with_inputs)
        asyncio.run(feeder.advance())
        assert house.rows(jobs) == expected
        assert house.batch(made).status is BatchStatus.RUNNING
        service.check_room(ME) if (own or total) > expected else None
        check_success(house, house.go_on(house.process(), made))

    def test_a_key_has_so_many_open_batches(self, house: House) -> None:
        file = house.upload()
        batch = house.service.batches.create(file, "/v1/videos", ME, metadata={})
        for max_open, error in ((1, QueueFull), (2, None)):
            other = Batch(**{**_fields(batch), "id": f"{max_open}" * 26})
            if error is None:
                house.store.add_batch(other, max_open)
            else:
                with pytest.raises(error):
                    house.store.add_batch(other, max_open)

    def test_an_open_batch_counts_in_its_keys_storage(self, house: House) -> None:
        size = len(LINES.encode())
        caller = Caller("", frozenset({Scope.GENERATE}), KeyLimits(max_storage_bytes=3 * size))
        made = [house.begin(caller=caller)]
        file = FileId(made[0].input_file_id, "it")
        made.append(house.service.batches.create(file, "/v1/videos", caller, metadata={}))
        with pytest.raises(StorageLimitReached):
            house.service.batches.create(file, "/v1/videos", caller, metadata={})
        house.service.files.delete(file.id, caller)
        with pytest.raises(StorageLimitReached):
            house.upload("x" * (size + 1), caller)  # its requests are still kept, twice
        house.upload("x" * size, caller)


def test_a_line_costs_no_more_with_each_that_there_is(house: House) -> None:
    """Looking for the next one, for those that are made and for those that have ended, all in the lines of one batch that are so."""
    database: Any = house.store._database
    if not database.has_quick_reads:
        pytest.skip("the planner of PostgreSQL decides by the size of tables")
    asked: set[str] = set()

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if "FROM" in statement and "batch_lines" in statement.partition("WHERE")[0]:
            asked.add(statement)

    for engine in (database._reads, database._writes):
        sa.event.listen(engine, "before_cursor_execute", note)
    house.go_on(house.process(), house.begin())
    plans = []
    with database.read() as connection:
        for statement in sorted(asked):
            if "outcome IS NULL" in statement:
                unbound = statement.replace("?", "1")
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {unbound}").all()
                plans += [row.detail for row in rows if "batch_lines" in row.detail]
    assert len(plans) >= 3
    assert all("INDEX ix_batch_lines_" in plan and "(batch_number=?" in plan for plan in plans), plans


class TestAway:
    def test_a_storage_that_is_away_keeps_a_batch_waiting(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = house.begin()
        real = house.storage.open
        is_away = [True, True, False]

        def flaky(key: str) -> Any:
            if is_away.pop(0) if is_away else False:
                raise StorageUnavailable
            return real(key)

        monkeypatch.setattr(house.storage, "open", flaky)
        check_success(house, house.go_on(house.process(), made))

    def test_a_disk_that_is_full_refuses_no_line(self, house: House) -> None:
        made = house.begin()
        is_full = [True, True]

        async def with_inputs(_caller: Caller, draft: Draft, _base_url: str) -> Draft:
            with _storing("inputs/a.png"):  # as where a picture is written
                if is_full:
                    is_full.pop()
                    raise OSError(errno.ENOSPC, "No space left on device")
            return draft

        service = house.service
        feeder = Feeder(service, house.store, {"/v1/videos": Form(service)}, with_inputs)
        check_success(house, house.go_on(feeder, made))

    def test_results_that_cannot_be_put_are_put_later(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = house.begin()
        real = house.storage.put
        is_away = [True, False, True]

        def flaky(path: Path, key: str) -> None:
            if is_away.pop(0) if is_away else False:
                raise StorageUnavailable
            real(path, key)

        monkeypatch.setattr(house.storage, "put", flaky)
        check_success(house, house.go_on(house.process(), made))
        left = [file.key for file in house.storage.files_in("files")]
        assert len(left) == 3, "of a try where one of two did not fit nothing stays"

    def test_a_surprise_in_one_line_does_not_hold_up_the_others(
        self, house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = house.begin()
        real = Form.prepare

        def odd(self: Form, body: str, caller: Caller) -> Prepared:
            if "line 2" in body:
                message = "nobody foresaw this"
                raise RuntimeError(message)
            return real(self, body, caller)

        monkeypatch.setattr(Form, "prepare", odd)
        ended = house.go_on(house.process(), made)
        assert (ended.num_succeeded, ended.num_failed) == (5, 3)
        assert house.results(ended)["line 2"]["refusal"] == {"code": "internal_error"}
        assert "a request of a batch failed" in caplog.text


class TestReading:
    def test_anothers_batch_is_an_unknown_one(self, house: House, store: Store) -> None:
        made = house.begin()
        with pytest.raises(BatchNotFound):
            store.batch(made.id, "other")
        with pytest.raises(BatchNotFound):
            store.cancel_batch(made.id, "other")
        with pytest.raises(InvalidParameter):
            store.batch_page(after=made.id, owner="other")
        assert store.batch_page(owner="other").batches == ()
        assert house.service.batches.get(made.id, OPEN) == made
        for odd in ("a\x00", "\ud800", "", "a" * 100_000):
            with pytest.raises(BatchNotFound):
                store.batch(odd)

    def test_pages_follow_each_other(self, house: House) -> None:
        made = [house.begin().id for _ in range(3)]
        first = house.store.batch_page(limit=2)
        assert ([batch.id for batch in first.batches], first.has_more) == ([made[2], made[1]], True)
        last = house.store.batch_page(limit=2, after=made[1])
        assert ([batch.id for batch in last.batches], last.has_more) == ([made[0]], False)


def _fields(batch: Batch) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in batch.__dataclass_fields__}

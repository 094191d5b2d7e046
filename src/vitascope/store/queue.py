"""The queue: who waits, what each key has had of the devices, and how fast the devices are.

`domain.arbiter` decides; here is only what it looks at. A claim sees a bounded window of each key's jobs, its oldest and its
shortest ones, so that its cost does not grow with the queue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from vitascope.domain import arbiter
from vitascope.domain.arbiter import Candidate
from vitascope.domain.beside import Beside
from vitascope.domain.cost import Effort, Speed, learn, mean_seconds, work_class
from vitascope.domain.job import JobStatus

from .rows import Row, Running
from .tables import jobs, keys, shares, speeds, workers

JOBS_PER_LINE = 8
"""Candidates of a key and a priority, of each kind: the oldest and the shortest jobs. More could only matter where workers of
several models ask, or where others have locked so many."""

KEYS_PER_CLAIM = 4
"""Keys that a claim looks at: of those with urgent jobs the ones that have had the least, one of which is the next."""

#: Estimates the seconds of an effort; None if nothing is known.
Estimate = Callable[[Effort], float | None]

# written out, because a parameter would keep databases from using the indexes of what is queued
is_queued = jobs.c.status == sa.literal_column(f"'{JobStatus.QUEUED.value}'")
#: What a peer may make; written out likewise.
may_be_handed_over: sa.ColumnElement[bool] = sa.literal_column("may_hand_over", sa.Boolean)
_is_running = jobs.c.status == JobStatus.RUNNING.value
_COLUMNS: tuple[sa.ColumnElement[Any], ...] = (
    jobs.c.number, jobs.c.id, jobs.c.key_id, jobs.c.model, jobs.c.precedence, jobs.c.created_at,
    jobs.c.work, jobs.c.num_steps, jobs.c.num_windows,
)  # fmt: skip


def is_empty(connection: sa.Connection) -> bool:
    """Whether nobody waits."""
    return connection.execute(sa.select(jobs.c.number).where(is_queued).limit(1)).first() is None


def lock_next(
    connection: sa.Connection,
    now: datetime,
    lease_now: datetime,
    estimate: Estimate,
    warm_models: frozenset[str],
    among: sa.ColumnElement[bool] | None = None,
) -> Row | None:
    """Find the job that goes next on a device and lock its row; None if nobody waits, or only jobs that others have locked.

    Args:
        connection: in a transaction that is the only one to claim.
        now: by the clock of history.
        lease_now: by the clock of leases.
        estimate: on the device of the asking worker.
        warm_models: that the asking worker has loaded.
        among: only these jobs; None all.
    """
    for chosen in _in_turn(connection, now, lease_now, estimate, warm_models, among):
        row = lock_waiting(connection, chosen.job_id)
        if row is not None:
            return row
    return None


def not_better_elsewhere(
    connection: sa.Connection, worker_id: str, seen_after: datetime
) -> sa.ColumnElement[bool] | None:
    """Leave out the jobs whose models' files the asking worker has not, where another living worker has them; None leaves out none.

    A job whose model nobody has is anybody's: who takes it says so to its client.
    """
    lives = (workers.c.seen_at >= seen_after) & workers.c.stopped_at.is_(None) & workers.c.peer.is_(None)
    rows = connection.execute(sa.select(workers.c.id, workers.c.available).where(lives)).all()
    own = next((row.available for row in rows if row.id == worker_id), None)
    if own is None or len(rows) == 1:
        return None
    elsewhere = {model for row in rows for model in row.available or ()}.difference(own)
    return jobs.c.model.not_in(sorted(elsewhere)) if elsewhere else None


def lock_waiting(connection: sa.Connection, job_id: str) -> Row | None:
    """Lock the row of a job that waits; None if it does no more, or another has locked it."""
    query = sa.select(jobs).where(jobs.c.id == job_id, is_queued)
    return connection.execute(query.with_for_update(skip_locked=True)).one_or_none()


def lock_one(connection: sa.Connection, job_id: str) -> Row | None:
    """Do the same for a claim, in a transaction that is the only one to claim; None too if its key may have no more jobs running."""
    row = lock_waiting(connection, job_id)
    return None if row is None or row.key_id in _keys_at_their_limit(connection) else row


def next_to_hand_over(
    connection: sa.Connection, now: datetime, lease_now: datetime, device: str, without: Collection[str]
) -> str | None:
    """Tell the id of the job that goes next of those that may be handed over, as things stand; None if none of them waits.

    Args:
        connection: may be one that only reads.
        now: by the clock of history.
        lease_now: by the clock of leases.
        device: the peer's name in the place of one.
        without: ids of jobs that are not meant.
    """
    among = may_be_handed_over
    if without:
        among = sa.and_(among, jobs.c.id.not_in(without))
    estimate = estimate_on(connection, [device])
    chosen = next(_in_turn(connection, now, lease_now, estimate, frozenset(), among), None)
    return None if chosen is None else chosen.job_id


def next_model(
    connection: sa.Connection,
    now: datetime,
    lease_now: datetime,
    device: str,
    warm_models: frozenset[str],
    among: sa.ColumnElement[bool] | None = None,
) -> str | None:
    """Tell the model of the job that goes next on a device, as things stand; None if nobody waits. Arguments as of `lock_next`."""
    estimate = estimate_on(connection, [device])
    chosen = next(_in_turn(connection, now, lease_now, estimate, warm_models, among), None)
    return None if chosen is None else chosen.model


def next_beside(
    connection: sa.Connection,
    now: datetime,
    lease_now: datetime,
    device: str,
    beside: Beside,
) -> str | None:
    """Tell the id of the first job, of those that go next, which is worth to be begun beside others; None if none is.

    A job that was tried before is not: it may have been the reason why an engine died, and takes no others along.

    Args:
        connection: may be one that only reads.
        now: by the clock of history.
        lease_now: by the clock of leases.
        device: of the asking worker.
        beside: what is open there.
    """
    among = sa.and_(jobs.c.model.in_(sorted(beside.models)), jobs.c.attempt == 0)
    if beside.without:
        among = sa.and_(among, jobs.c.id.not_in(sorted(beside.without)))
    if connection.execute(sa.select(jobs.c.number).where(is_queued, among).limit(1)).first() is None:
        return None
    estimate = estimate_on(connection, [device])
    served = served_seconds(connection, lease_now, running(connection, lease_now, estimate))
    shared = bool(beside.shared)
    turn = None
    if shared and beside.shares_in_turn:  # of all: who cannot be begun here now is to have its turn too
        turn = next(_in_turn(connection, now, lease_now, estimate, beside.models), None)
    for candidate in _in_turn(connection, now, lease_now, estimate, beside.models, among):
        is_in_turn = turn is None or turn.job_id == candidate.job_id
        may_share = shared and is_in_turn and _may_share(connection, candidate.job_id, beside)
        if arbiter.worth_beside(candidate, beside.running, served, may_share=may_share):
            return candidate.job_id
    return None


def _may_share(connection: sa.Connection, job_id: str, beside: Beside) -> bool:
    """Tell whether a job could be computed together with one of those that are open."""
    row = connection.execute(
        sa.select(jobs.c.model, jobs.c.work, jobs.c.plan).where(jobs.c.id == job_id)
    ).one()
    is_free = bool(row.plan.get("is_seed_drawn")) and not row.plan.get(
        "step_cache"
    )  # as `Plan.may_share_forwards`
    return is_free and (row.model, row.work) in beside.shared


def _in_turn(
    connection: sa.Connection,
    now: datetime,
    lease_now: datetime,
    estimate: Estimate,
    warm_models: frozenset[str],
    among: sa.ColumnElement[bool] | None = None,
) -> Iterator[Candidate]:
    """Choose the job that goes next, then who would go instead of it, and so on; of a bounded number, or of some only."""
    waits = is_queued if among is None else sa.and_(is_queued, among)
    lines = _lines(connection, now, waits)
    if not lines:
        return
    served: Mapping[str, float] = {}
    if len({line.key_id for line in lines}) > 1:
        served = served_seconds(connection, lease_now, running(connection, lease_now, estimate))
    top = max(line.priority for line in lines)
    rows = [row for line in _due(lines, served, top) for row in _window(connection, line, waits)]
    candidates = [candidate_of(row, now, estimate) for row in sorted(rows, key=lambda row: int(row.number))]
    while (chosen := arbiter.next_of(candidates, served, warm_models, top)) is not None:
        yield chosen
        candidates.remove(chosen)


@dataclass(frozen=True, slots=True)
class _Line:
    """Jobs of a key and a priority."""

    key_id: str
    priority: int
    #: Of the one that has waited longest.
    oldest: int
    waited_seconds: float


def _lines(connection: sa.Connection, now: datetime, waits: sa.ColumnElement[bool]) -> list[_Line]:
    """Find whose jobs wait, as `waits` says, without the keys that have as many jobs running as they may."""
    full = _keys_at_their_limit(connection)
    return [
        _Line(row.key_id, -row.precedence, row.oldest, _seconds(now - row.since))
        for row in connection.execute(_LINES if waits is is_queued else _lines_query(waits))
        if row.key_id not in full
    ]


def _lines_query(waits: sa.ColumnElement[bool]) -> sa.Select[Any]:
    oldest, since = sa.func.min(jobs.c.number), sa.func.min(jobs.c.created_at)
    query = sa.select(jobs.c.key_id, jobs.c.precedence, oldest.label("oldest"), since.label("since"))
    return query.where(waits).group_by(jobs.c.key_id, jobs.c.precedence)


def _keys_at_their_limit(connection: sa.Connection) -> frozenset[str]:
    """Find the keys that have as many jobs running as they may."""
    return frozenset(connection.scalars(_FULL))


def _full_query() -> sa.Select[tuple[str]]:
    at_work = sa.select(jobs.c.key_id, sa.func.count().label("count")).where(_is_running)
    at_work_by_key = at_work.group_by(jobs.c.key_id).subquery()
    query = sa.select(keys.c.id).join(at_work_by_key, keys.c.id == at_work_by_key.c.key_id)
    return query.where(at_work_by_key.c.count >= keys.c.max_running)


def _due(lines: Sequence[_Line], served: Mapping[str, float], top: int) -> list[_Line]:
    """Choose the lines that may come next, by the arbiter's rules: the urgent ones of the keys that have had the least."""
    urgent = [line for line in lines if arbiter.raised(line.priority, line.waited_seconds, top) == top]
    urgent.sort(key=lambda line: (served.get(line.key_id, 0.0), line.oldest))
    due = list(dict.fromkeys(line.key_id for line in urgent))[:KEYS_PER_CLAIM]
    return [line for line in urgent if line.key_id in due]


def _window(connection: sa.Connection, line: _Line, waits: sa.ColumnElement[bool]) -> Sequence[Row]:
    """Return a line's oldest and shortest jobs."""
    query = _WINDOW if waits is is_queued else _window_query(waits)
    line_is = {"line_key": line.key_id, "line_precedence": -line.priority}
    rows: Sequence[Any] = connection.execute(query, line_is).all()
    return rows


def _window_query(waits: sa.ColumnElement[bool]) -> sa.CompoundSelect[Any]:
    is_in_line = jobs.c.key_id == sa.bindparam("line_key")
    is_in_line &= jobs.c.precedence == sa.bindparam("line_precedence")
    waiting = sa.select(*_COLUMNS).where(waits, is_in_line)
    ends = (
        waiting.order_by(jobs.c.number).limit(JOBS_PER_LINE),
        waiting.order_by(jobs.c.total_work, jobs.c.number).limit(JOBS_PER_LINE),
    )
    return sa.union(*(sa.select(end.subquery()) for end in ends))


# what every claim asks, written once: making such a statement takes as long as its answer
_LINES, _FULL, _WINDOW = _lines_query(is_queued), _full_query(), _window_query(is_queued)


def effort_of(row: Row) -> Effort:
    return Effort(row.model, row.work, row.num_steps, row.num_windows)


def candidate_of(row: Row, now: datetime, estimate: Estimate) -> Candidate:
    waited = _seconds(now - row.created_at)
    return Candidate(row.id, row.key_id, row.model, estimate(effort_of(row)), waited, -row.precedence)


def _seconds(elapsed: timedelta) -> float:
    return max(0.0, elapsed.total_seconds())  # the clock may have been set back


def waiting(connection: sa.Connection, now: datetime, estimate: Estimate, limit: int) -> list[Candidate]:
    """Return what waits, oldest first."""
    query = sa.select(*_COLUMNS).where(is_queued).order_by(jobs.c.number).limit(limit)
    return [candidate_of(row, now, estimate) for row in connection.execute(query)]


def running(connection: sa.Connection, lease_now: datetime, estimate: Estimate) -> list[tuple[str, Running]]:
    """Return what runs, with the key whose it is."""
    more = (jobs.c.worker_id, jobs.c.progress, jobs.c.claimed_at, jobs.c.stood_seconds)
    query: sa.Select[Any] = sa.select(*_COLUMNS, *more).where(_is_running)
    found: list[tuple[str, Running]] = []
    for row in connection.execute(query):
        elapsed = (lease_now - row.claimed_at).total_seconds() if row.claimed_at else 0.0
        worked = max(0.0, elapsed - row.stood_seconds)
        seconds = estimate(effort_of(row))
        found.append((row.key_id, Running(row.id, row.worker_id, seconds, row.progress, worked)))
    return found


def served_seconds(
    connection: sa.Connection, lease_now: datetime, at_work: Iterable[tuple[str, Running]]
) -> dict[str, float]:
    """Tell what each key has had of the devices lately, running jobs included."""
    served: dict[str, float] = defaultdict(float)
    for row in connection.execute(sa.select(shares)):
        served[row.key_id] = arbiter.faded(row.served_seconds, (lease_now - row.at).total_seconds())
    for key_id, job in at_work:
        seconds = arbiter.UNKNOWN_SECONDS if job.seconds is None else job.seconds
        served[key_id] += arbiter.counted(job.worked_seconds, seconds - job.worked_seconds)
    return dict(served)


def charge(connection: sa.Connection, row: Row, lease_now: datetime, stood_seconds: float = 0.0) -> None:
    """Add the device seconds of a running job that ends now to what its key has had, but for those in which others had the device.

    What its worker has told of those while it ran counts where that is more: it was written and stored beside others' work.
    """
    if row.claimed_at is None:
        return
    stood_seconds = max(stood_seconds, row.stood_seconds)
    seconds = max(0.0, (lease_now - row.claimed_at).total_seconds() - stood_seconds)

    def blend(old: Row | None) -> dict[str, Any]:
        kept = 0.0
        if old is not None:
            kept = arbiter.faded(old.served_seconds, (lease_now - old.at).total_seconds())
        return {"served_seconds": kept + arbiter.counted(seconds), "at": lease_now}

    _put(connection, shares, {"key_id": row.key_id}, blend)


def learn_speed(connection: sa.Connection, device: str, speed: Speed) -> None:
    """Blend what a job took into what is known of that kind of device."""
    key = {"device": device, "model": speed.model, "work_class": work_class(speed.work)}

    def blend(old: Row | None) -> dict[str, Any]:
        new = learn(old and _speed_of(old), speed)
        return {"work": new.work, "step_seconds": new.step_seconds, "other_seconds": new.other_seconds}

    _put(connection, speeds, key, blend)


def estimate_on(connection: sa.Connection, devices: Collection[str]) -> Estimate:
    """Return what estimates the seconds of an effort on one of these kinds of device."""
    known: dict[str, list[Speed]] = defaultdict(list)
    for row in connection.execute(sa.select(speeds).where(speeds.c.device.in_(devices))):
        known[row.device].append(_speed_of(row))
    by_effort: dict[Effort, float | None] = {}

    def estimate(effort: Effort) -> float | None:
        if effort not in by_effort:
            by_effort[effort] = mean_seconds(effort, known.values())
        return by_effort[effort]

    return estimate


def _speed_of(row: Row) -> Speed:
    return Speed(row.model, row.work, row.step_seconds, row.other_seconds)


def _put(
    connection: sa.Connection,
    table: sa.Table,
    key: Mapping[str, Any],
    blend: Callable[[Row | None], dict[str, Any]],
) -> None:
    """Change the row of that key, or add it; `blend` makes the new values of the old row."""
    is_it = sa.and_(*(table.c[name] == value for name, value in key.items()))
    query = sa.select(table).where(is_it).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        try:
            with connection.begin_nested():
                connection.execute(sa.insert(table).values(**key, **blend(None)))
                return
        except IntegrityError:  # another transaction was first
            row = connection.execute(query).one()
    connection.execute(sa.update(table).where(is_it).values(blend(row)))

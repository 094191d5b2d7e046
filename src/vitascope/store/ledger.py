"""Credits, inside a transaction that the caller holds: set aside with the job, paid or given back with its end.

`hold` is called where a job's row is added, `close` where a job's end is written (`changes.move`), and nowhere else: so whatever
ends a job, and whatever dies in between, its credits move once or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from vitascope.domain.errors import InsufficientCredits
from vitascope.domain.job import JobStatus
from vitascope.domain.money import Account, Move

from .rows import Row
from .tables import balances, jobs, ledger


@dataclass(frozen=True, slots=True)
class Charge:
    """What a new job will cost: so much for each of its videos."""

    credits_per_video: int
    num_videos: int

    @property
    def credits(self) -> int:
        return self.credits_per_video * self.num_videos


def hold(connection: sa.Connection, key_id: str, charge: Charge) -> int | None:
    """Set aside what a job of a key will cost; `write_hold` notes it once the job has a number.

    Returns:
        How much; None if the key is not counted.

    Raises:
        InsufficientCredits: the key has not so much left; nothing was changed.
    """
    if not key_id:
        return None
    of_key = (balances.c.key_id == key_id) & balances.c.is_on
    amount = charge.credits
    taken = (
        sa.update(balances)
        .where(of_key, balances.c.credits >= amount)
        .values(credits=balances.c.credits - amount, held=balances.c.held + amount)
    )
    if connection.execute(taken).rowcount == 1:
        return amount
    left = connection.scalar(sa.select(balances.c.credits).where(of_key))
    if left is None:
        return None
    raise InsufficientCredits(needed=amount, left=left)


def write_hold(connection: sa.Connection, row: Row, now: datetime) -> None:
    """Write a new job's hold into the book; nothing if its key is not counted."""
    if row.price:
        _write(connection, row, Move.HOLD, (Account.KEY, Account.HELD), row.price, now)


def close(
    connection: sa.Connection, row: Row, status: JobStatus, values: dict[str, Any], now: datetime
) -> int:
    """Pay for the videos of a job that ends, one by one, and give the rest back.

    Args:
        connection: in the transaction that ends it.
        row: of the job, as it is before its end.
        status: to which it moves.
        values: what else of it changes: its videos, if it has any.
        now: the instant of its end.

    Returns:
        What was paid.
    """
    price = int(row.price)
    outputs = _delivered(values) if status is JobStatus.SUCCEEDED else ()
    each = price // max(1, int(row.plan.get("num_videos", 1)))
    for output in outputs:
        _write(connection, row, Move.SETTLE, (Account.HELD, Account.SPENT), each, now, output)
    paid = each * len(outputs)
    if price > paid:
        _write(connection, row, Move.REFUND, (Account.HELD, Account.KEY), price - paid, now)
    changed = {
        "credits": balances.c.credits + price - paid,
        "held": balances.c.held - price,
        "spent": balances.c.spent + paid,
    }
    connection.execute(sa.update(balances).where(balances.c.key_id == row.key_id).values(changed))
    return paid


def _delivered(values: dict[str, Any]) -> Sequence[int]:
    return [int(video["index"]) for video in values.get("videos") or ()]


def _write(
    connection: sa.Connection,
    row: Row,
    move: Move,
    accounts: tuple[Account, Account],
    amount: int,
    now: datetime,
    output: int | None = None,
) -> None:
    """Write both sides of a move for a job."""
    shared = {"key_id": row.key_id, "job_number": row.number, "output": output, "note": "", "created_at": now}
    write_both(connection, shared, move, accounts, amount)


def write_both(
    connection: sa.Connection,
    shared: dict[str, Any],
    move: Move,
    accounts: tuple[Account, Account],
    amount: int,
    reference: str | None = None,
) -> None:
    """Write that credits went from one account to another: two entries, which sum to zero. The second one has the reference."""
    sides = zip(accounts, (-amount, amount), (None, reference), strict=True)
    rows = [
        {**shared, "move": move.value, "account": account.value, "amount": side, "reference": name}
        for account, side, name in sides
    ]
    connection.execute(sa.insert(ledger), rows)


def imbalances(connection: sa.Connection) -> list[str]:
    """Find what cannot be: entries that do not sum to zero, balances that the entries do not explain, holds of ended jobs."""
    problems = []
    total = int(connection.scalar(sa.select(sa.func.sum(ledger.c.amount))) or 0)
    if total:
        problems.append(f"the entries of the ledger sum to {total}, not to 0")
    sums: dict[tuple[str, str], int] = {}
    by_account = sa.select(ledger.c.key_id, ledger.c.account, sa.func.sum(ledger.c.amount).label("amount"))
    for row in connection.execute(by_account.group_by(ledger.c.key_id, ledger.c.account)):
        sums[row.key_id, row.account] = int(row.amount)
    for row in connection.execute(sa.select(balances)):
        columns = {Account.KEY: row.credits, Account.HELD: row.held, Account.SPENT: row.spent}
        for account, value in columns.items():
            entered = sums.get((row.key_id, account.value), 0)
            if entered != value:
                problems.append(f"key {row.key_id}: {account.value} is {value}, its entries sum to {entered}")
    open_jobs = (
        sa.select(ledger.c.job_number, sa.func.sum(ledger.c.amount).label("held"))
        .where(ledger.c.account == Account.HELD.value)
        .group_by(ledger.c.job_number)
        .subquery()
    )
    has_ended = jobs.c.finished_at.is_not(None) & (open_jobs.c.held != 0)
    waits = jobs.c.finished_at.is_(None) & (open_jobs.c.held != jobs.c.price)
    query = sa.select(jobs.c.id, open_jobs.c.held).join(open_jobs, jobs.c.number == open_jobs.c.job_number)
    problems += [
        f"job {odd.id} holds {odd.held} credits, which does not fit its state"
        for odd in connection.execute(query.where(has_ended | waits).limit(10))
    ]
    return problems

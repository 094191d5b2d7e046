"""Credits as operators and keys' holders see them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from vitascope.domain.errors import InvalidParameter, KeyNotFound
from vitascope.domain.money import MAX_CREDITS, Account, Balance, Entry, EntryPage, Move

from . import ledger as book
from .base import Base
from .rows import Row
from .tables import balances, jobs, keys, ledger, storable

KEYS_OWN = (Account.KEY, Account.HELD)
"""Accounts whose side of a move a page shows: each move is on one of the two, a hold and a refund on both."""


class ForCredits(Base):
    """What keys have, and what has become of it."""

    def grant(self, key_id: str, amount: int, *, note: str = "", reference: str | None = None) -> Balance:
        """Give a key credits, or take some back; from then on its jobs are counted.

        Args:
            key_id: whose.
            amount: how many; below zero takes back.
            note: the operator's own word for it.
            reference: a grant of the same reference is made once, however often it is asked for.

        Raises:
            KeyNotFound: there is no such key, or it was revoked.
            InvalidParameter: it has fewer than are to be taken back, or the reference was another grant's.
        """
        shared = {
            "key_id": key_id,
            "job_number": None,
            "output": None,
            "note": storable(note),
            "created_at": self._now(),
        }
        with self._database.write() as connection:
            self._lock_key(connection, key_id)
            if reference is not None and self._was_made(connection, key_id, amount, reference):
                return _balance(connection, key_id)
            self._open(connection, key_id)
            has_room = balances.c.credits + amount >= 0
            if amount > 0:
                has_room = balances.c.credits <= MAX_CREDITS - amount
            values = {"credits": balances.c.credits + amount, "granted": balances.c.granted + amount}
            given = (
                sa.update(balances).where(balances.c.key_id == key_id, has_room).values(**values, is_on=True)
            )
            if connection.execute(given).rowcount == 0:
                left = _balance(connection, key_id).credits
                if amount > 0:
                    rule = f"the key may have {MAX_CREDITS} credits at most"
                    raise InvalidParameter("amount", amount, rule, nearest=max(0, MAX_CREDITS - left))
                raise InvalidParameter("amount", amount, f"the key has {left} credits", nearest=-left)
            if amount:
                _write_grant(connection, shared, amount, reference)
            return _balance(connection, key_id)

    def count_credits(self, key_id: str, *, is_on: bool) -> Balance:
        """Count a key's new jobs from now on, or count them no more. What is held is settled all the same.

        Raises:
            KeyNotFound: there is no such key, or it was revoked.
        """
        with self._database.write() as connection:
            self._lock_key(connection, key_id)
            self._open(connection, key_id)
            connection.execute(sa.update(balances).where(balances.c.key_id == key_id).values(is_on=is_on))
            return _balance(connection, key_id)

    def balance(self, key_id: str) -> Balance | None:
        """Return where a key stands; None if it was never counted."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(balances).where(balances.c.key_id == key_id)).one_or_none()
        return None if row is None else _balance_of(row)

    def all_balances(self) -> list[Balance]:
        """Return where all keys stand that were ever counted."""
        with self._database.read() as connection:
            return [
                _balance_of(row)
                for row in connection.execute(sa.select(balances).order_by(balances.c.key_id))
            ]

    def entries(self, key_id: str | None = None, *, before: int | None = None, limit: int = 100) -> EntryPage:
        """List what has moved, the newest first, as the keys' own accounts see it.

        Args:
            key_id: of one key; None of all.
            before: only entries of a lower number.
            limit: how many.
        """
        of_keys = ledger.c.account.in_([account.value for account in KEYS_OWN])
        query = sa.select(ledger, jobs.c.id.label("job_id"))
        query = query.join(jobs, jobs.c.number == ledger.c.job_number, isouter=True).where(of_keys)
        if key_id is not None:
            query = query.where(ledger.c.key_id == key_id)
        if before is not None:
            query = query.where(ledger.c.number < before)
        query = query.order_by(ledger.c.number.desc()).limit(limit + 1)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return EntryPage(tuple(_entry_of(row) for row in rows[:limit]), has_more=len(rows) > limit)

    def ledger_imbalances(self) -> list[str]:
        """Say what in the book contradicts itself; nothing if it is sound. Reads all of it."""
        with self._database.read() as connection:
            return book.imbalances(connection)

    def _lock_key(self, connection: sa.Connection, key_id: str) -> None:
        is_it = (keys.c.id == key_id) & keys.c.revoked_at.is_(None)
        if connection.execute(sa.select(keys.c.id).where(is_it).with_for_update()).first() is None:
            raise KeyNotFound

    def _open(self, connection: sa.Connection, key_id: str) -> None:
        """Make a balance if there is none: who does so holds the key's lock."""
        is_it = balances.c.key_id == key_id
        if connection.execute(sa.select(balances.c.key_id).where(is_it)).first() is None:
            connection.execute(sa.insert(balances).values(key_id=key_id))

    def _was_made(self, connection: sa.Connection, key_id: str, amount: int, reference: str) -> bool:
        made = sa.select(ledger.c.key_id, ledger.c.amount).where(ledger.c.reference == storable(reference))
        row = connection.execute(made).one_or_none()
        if row is None:
            return False
        if (row.key_id, row.amount) != (key_id, amount):
            raise InvalidParameter("reference", reference, "it was another grant's")
        return True


def _write_grant(
    connection: sa.Connection, shared: dict[str, Any], amount: int, reference: str | None
) -> None:
    name = None if reference is None else storable(reference)
    try:
        book.write_both(connection, shared, Move.GRANT, (Account.GRANTED, Account.KEY), amount, name)
    except IntegrityError:  # at the same time, for another key
        raise InvalidParameter("reference", reference, "it was another grant's") from None


def _balance(connection: sa.Connection, key_id: str) -> Balance:
    return _balance_of(connection.execute(sa.select(balances).where(balances.c.key_id == key_id)).one())


def _balance_of(row: Row) -> Balance:
    return Balance(row.key_id, row.credits, row.held, row.spent, row.is_on)


def _entry_of(row: Row) -> Entry:
    return Entry(
        number=row.number,
        key_id=row.key_id,
        move=Move(row.move),
        account=Account(row.account),
        amount=row.amount,
        job_id=row.job_id or "",
        output=row.output,
        note=row.note,
        created_at=row.created_at,
    )

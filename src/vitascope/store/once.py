"""Finding the first job of a request that was sent again."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

import sqlalchemy as sa

from vitascope.domain.errors import IdempotencyConflict
from vitascope.domain.once import RETRY_WINDOW, Once

from .rows import Row
from .tables import idempotency, jobs

ONCE_KEPT = timedelta(hours=24)
"""How long an Idempotency-Key names its first job."""


def find_first(connection: sa.Connection, key_id: str, once: Once, now: datetime) -> Row | None:
    """Return the job that the request made when it was first sent; None if it is new.

    By its name, or else, if it is an automatic retry, by being the same as that of a job about which its client has not
    asked yet: who never had the answer does not know the id. Of several such jobs it is the newest.

    Raises:
        IdempotencyConflict: the name was another request's, or its job has been deleted.
    """
    if once.name is not None:
        return _by_name(connection, key_id, once, now)
    return _unread(connection, key_id, once, now) if once.is_retry else None


def _by_name(connection: sa.Connection, key_id: str, once: Once, now: datetime) -> Row | None:
    is_it = (idempotency.c.key_id == key_id) & (idempotency.c.name == digest_of(once.name))
    query = sa.select(jobs, idempotency.c.created_at.label("named_at")).join_from(idempotency, jobs)
    row = connection.execute(query.where(is_it)).one_or_none()
    if row is None:
        return None
    if row.named_at < now - ONCE_KEPT:
        connection.execute(sa.delete(idempotency).where(is_it))
        return None
    if row.fingerprint != once.fingerprint:
        raise IdempotencyConflict(hint="use a new key for a new request")
    if row.deleted_at is not None:
        raise IdempotencyConflict("the job of this Idempotency-Key was deleted", hint="use a new key")
    return row


def _unread(connection: sa.Connection, key_id: str, once: Once, now: datetime) -> Row | None:
    is_it = (jobs.c.fingerprint == once.fingerprint) & (jobs.c.key_id == key_id)
    is_unknown = jobs.c.read_at.is_(None) & jobs.c.deleted_at.is_(None)
    is_recent = jobs.c.created_at >= now - RETRY_WINDOW
    query = sa.select(jobs).where(is_it, is_unknown, is_recent).order_by(jobs.c.number.desc()).limit(1)
    return connection.execute(query).one_or_none()


def remember(connection: sa.Connection, row: Row, once: Once, now: datetime) -> None:
    """Note which job a named request has made."""
    if once.name is None:
        return
    values = {"key_id": row.key_id, "name": digest_of(once.name), "job_number": row.number}
    connection.execute(sa.insert(idempotency).values(created_at=now, **values))


def digest_of(name: str | None) -> str:
    return hashlib.sha256((name or "").encode("utf-8", errors="replace")).hexdigest()

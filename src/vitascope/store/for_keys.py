"""API keys: what operators do with them, and what each request asks."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from vitascope.domain.access import ApiKey, KeyLimits, Scope
from vitascope.domain.errors import KeyNotFound

from .base import Base
from .for_secrets import end_secrets
from .rows import Row
from .tables import keys, rates

MINUTE_SECONDS = 60

MINUTES_KEPT = 10
"""Old counts are removed by the first request of a new minute."""


class ForKeys(Base):
    """Keys and who holds them."""

    def add_key(self, key: ApiKey, digest: str) -> None:
        """Keep a new key by its digest."""
        values = {
            "id": key.id,
            "digest": digest,
            "name": key.name,
            "prefix": key.prefix,
            "last4": key.last4,
            "scopes": sorted(key.scopes),
            "limits": asdict(key.limits),
            "max_running": key.limits.max_running,
            "created_at": key.created_at,
            "expires_at": key.expires_at,
        }
        with self._database.write() as connection:
            connection.execute(sa.insert(keys).values(values))

    def replace_digest(self, key_id: str, digest: str, prefix: str, last4: str) -> ApiKey:
        """Give a key another secret; the old one ends at once.

        Raises:
            KeyNotFound: there is none of that id, or it was revoked.
        """
        is_it = (keys.c.id == key_id) & keys.c.revoked_at.is_(None)
        values = {"digest": digest, "prefix": prefix, "last4": last4}
        with self._database.write() as connection:
            row = connection.execute(
                sa.update(keys).where(is_it).values(values).returning(keys)
            ).one_or_none()
        return _found(row)

    def revoke_key(self, key_id: str) -> ApiKey:
        """End a key for good, with what its webhooks are signed with; its jobs stay. Revoking it again changes nothing.

        Raises:
            KeyNotFound: there is none of that id.
        """
        ended = sa.func.coalesce(keys.c.revoked_at, sa.literal(self._now(), type_=keys.c.revoked_at.type))
        update = sa.update(keys).where(keys.c.id == key_id).values(revoked_at=ended)
        with self._database.write() as connection:
            row = connection.execute(update.returning(keys)).one_or_none()
            end_secrets(connection, key_id, self._now())
        return _found(row)

    def find_key(self, digest: str) -> ApiKey | None:
        """Return the key of that digest, whether or not it is still good; None if there is none."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(keys).where(keys.c.digest == digest)).one_or_none()
        return None if row is None else _key_of(row)

    def key(self, key_id: str) -> ApiKey:
        """Return the key of that id, whether or not it is still good.

        Raises:
            KeyNotFound: there is none.
        """
        with self._database.read() as connection:
            return _found(connection.execute(sa.select(keys).where(keys.c.id == key_id)).one_or_none())

    def all_keys(self) -> list[ApiKey]:
        """Return all keys that ever were, oldest first."""
        with self._database.read() as connection:
            return [_key_of(row) for row in connection.execute(sa.select(keys).order_by(keys.c.created_at))]

    def has_keys(self) -> bool:
        """Whether there has ever been a key: from then on the server is closed to everybody without one."""
        with self._database.read() as connection:
            return connection.execute(sa.select(keys.c.id).limit(1)).first() is not None

    def count_request(self, key_id: str, limit: int) -> int:
        """Count a request of this minute, unless there were as many as allowed.

        Returns:
            How many more are allowed in this minute; -1 if this one was not.
        """
        minute = int(self._now().timestamp()) // MINUTE_SECONDS
        is_it = (rates.c.key_id == key_id) & (rates.c.minute == minute)
        counted = rates.c.num_requests + 1
        update = sa.update(rates).where(is_it, rates.c.num_requests < limit).values(num_requests=counted)
        with self._database.write_soon() as connection:
            try:
                with connection.begin_nested():
                    first = {"key_id": key_id, "minute": minute, "num_requests": 0}
                    if connection.execute(sa.select(rates.c.minute).where(is_it)).first() is None:
                        is_old = (rates.c.key_id == key_id) & (rates.c.minute < minute - MINUTES_KEPT)
                        connection.execute(sa.delete(rates).where(is_old))
                        connection.execute(sa.insert(rates).values(first))
            except IntegrityError:
                pass  # another process has begun the minute
            count = connection.scalar(update.returning(rates.c.num_requests))
        return -1 if count is None else limit - count

    def seconds_to_next_minute(self) -> int:
        """Tell when requests are counted anew."""
        return MINUTE_SECONDS - int(self._now().timestamp()) % MINUTE_SECONDS


def _found(row: Row | None) -> ApiKey:
    if row is None:
        raise KeyNotFound
    return _key_of(row)


def _key_of(row: Row) -> ApiKey:
    limits = {**row.limits, "models": tuple(row.limits["models"])}
    created_at: datetime = row.created_at
    return ApiKey(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        last4=row.last4,
        scopes=frozenset(Scope(name) for name in row.scopes),
        limits=KeyLimits(**limits),
        created_at=created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )

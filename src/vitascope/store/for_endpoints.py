"""Endpoints: who receives webhooks, and what their messages are signed with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from vitascope.domain.errors import EndpointNotFound, InvalidParameter, SecretUnreadable
from vitascope.domain.secret import Secret
from vitascope.domain.webhook import Endpoint, EventType

from . import outbox as messages
from .for_secrets import ENDPOINT, ForSecrets, opened
from .outbox import is_pending
from .rows import Row
from .tables import endpoints, outbox, secrets, storable

MAX_ENDPOINTS = 16
"""Of a key: each end of a job is told to all of them."""

HINT_CHARS = 4
"""Of a secret that are shown, so that its holder can tell which one it is."""


class ForEndpoints(ForSecrets):
    """Endpoints. Where an `owner` is asked for, another's is no other case than an unknown one."""

    def add_endpoint(self, endpoint: Endpoint, secret: str) -> None:
        """Keep a new endpoint with what its messages are signed with.

        Raises:
            InvalidParameter: its key has as many as it may.
        """
        self.check_key()
        is_its_keys = endpoints.c.key_id == endpoint.key_id
        with self._database.write() as connection:
            count = sa.select(sa.func.count()).where(is_its_keys)
            if connection.scalars(count).one() >= MAX_ENDPOINTS:
                rule = f"an API key may have {MAX_ENDPOINTS} endpoints"
                raise InvalidParameter("url", endpoint.url, rule, hint="remove one first")
            connection.execute(sa.insert(endpoints).values(asdict(endpoint)))
            self._add(connection, ENDPOINT, endpoint.id, secret)

    def endpoints(self, owner: str | None) -> list[Endpoint]:
        """Return a key's endpoints, or everybody's, oldest first."""
        query = sa.select(endpoints).order_by(endpoints.c.created_at, endpoints.c.id)
        if owner is not None:
            query = query.where(endpoints.c.key_id == owner)
        with self._database.read() as connection:
            return [_endpoint_of(row) for row in connection.execute(query)]

    def endpoint(self, endpoint_id: str, owner: str | None) -> Endpoint:
        """Return an endpoint.

        Raises:
            EndpointNotFound: there is none of that id.
        """
        with self._database.read() as connection:
            return _endpoint_of(one_endpoint(connection, endpoint_id, owner))

    def change_endpoint(
        self,
        endpoint_id: str,
        owner: str | None,
        *,
        name: str | None = None,
        url: str | None = None,
        events: Sequence[EventType] | None = None,
    ) -> Endpoint:
        """Change what is given and not as it was.

        Another URL is another receiver: what is still to be sent goes there, and what the old one has said of itself does not
        count any more.

        Raises:
            EndpointNotFound: there is none of that id.
        """
        wanted: dict[str, Any] = {"name": name, "url": url}
        wanted["events"] = None if events is None else list(events)
        with self._database.write() as connection:
            one_endpoint(connection, endpoint_id, owner)
            if url is not None:  # messages before their endpoint, as `end_attempt` locks them
                messages.lock_pending(connection, outbox.c.endpoint_id == endpoint_id)
            row = one_endpoint(connection, endpoint_id, owner, lock=True)
            values = {
                key: value
                for key, value in wanted.items()
                if value is not None and value != getattr(row, key)
            }
            if not values:
                return _endpoint_of(row)
            if "url" in values:
                pending = sa.update(outbox).where(is_pending, outbox.c.endpoint_id == endpoint_id)
                connection.execute(pending.values(url=url))
                values |= {"disabled_at": None, "disabled_reason": None}
            values["updated_at"] = self._now()
            update = sa.update(endpoints).where(endpoints.c.id == endpoint_id).values(values)
            return _endpoint_of(connection.execute(update.returning(endpoints)).one())

    def endpoint_hints(self, endpoint_ids: Collection[str]) -> dict[str, str]:
        """Return the last characters of what the messages to each are signed with; nothing of one that cannot be read."""
        current = (secrets.c.purpose == ENDPOINT) & secrets.c.expires_at.is_(None)
        query = sa.select(secrets).where(current, secrets.c.owner.in_(endpoint_ids))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        found = {}
        for row in rows:
            with contextlib.suppress(SecretUnreadable):
                found[row.owner] = opened(self._cipher, row)[-HINT_CHARS:]
        return found

    def remove_endpoint(self, endpoint_id: str, owner: str | None) -> None:
        """Forget an endpoint and its secrets; what was still to be sent there is not.

        Raises:
            EndpointNotFound: there is none of that id.
        """
        with self._database.write() as connection:
            one_endpoint(connection, endpoint_id, owner)
            of_it = outbox.c.endpoint_id == endpoint_id
            # messages before their endpoint, as `end_attempt` locks them
            messages.end_pending(connection, of_it, messages.ENDPOINT_REMOVED, self._now())
            one_endpoint(connection, endpoint_id, owner, lock=True)
            connection.execute(
                sa.delete(secrets).where(secrets.c.purpose == ENDPOINT, secrets.c.owner == endpoint_id)
            )
            connection.execute(sa.delete(endpoints).where(endpoints.c.id == endpoint_id))

    def enable_endpoint(self, endpoint_id: str, owner: str | None) -> Endpoint:
        """Let an endpoint that was disabled be told again, of what happens from now on.

        Raises:
            EndpointNotFound: there is none of that id.
        """
        values = {"disabled_at": None, "disabled_reason": None}
        update = sa.update(endpoints).where(endpoints.c.id == endpoint_id).values(values)
        with self._database.write() as connection:
            one_endpoint(connection, endpoint_id, owner, lock=True)
            return _endpoint_of(connection.execute(update.returning(endpoints)).one())

    def endpoint_secrets(
        self,
        endpoint_id: str,
        owner: str | None,
        make: Callable[[], str],
        *,
        replace: bool = False,
        keep_old: bool = True,
    ) -> tuple[Secret, ...]:
        """Return what an endpoint's messages are signed with now, the current secret first.

        Args:
            endpoint_id: of the endpoint.
            owner: whose it must be.
            make: a new secret, for one whose secret was lost with the key that it was encrypted with.
            replace: give it another one.
            keep_old: let the one that it had stay good for OVERLAP beside it; else it ends now.

        Raises:
            EndpointNotFound: there is none of that id.
        """
        self.check_key()
        with self._database.read() as connection:
            one_endpoint(connection, endpoint_id, owner)
            rows = self._active(connection, ENDPOINT, endpoint_id)
        if replace or not rows or rows[0].expires_at is not None:
            with self._database.write() as connection:
                one_endpoint(connection, endpoint_id, owner, lock=True)
                if replace:
                    end = self._retire if keep_old else self._end_now
                    end(connection, ENDPOINT, endpoint_id)
                    changed = sa.update(endpoints).where(endpoints.c.id == endpoint_id)
                    connection.execute(changed.values(updated_at=self._now()))
                rows = self._active(connection, ENDPOINT, endpoint_id)
                if not rows or rows[0].expires_at is not None:
                    self._add(connection, ENDPOINT, endpoint_id, make())
                    rows = self._active(connection, ENDPOINT, endpoint_id)
        return tuple(self._shown(row) for row in rows)


def one_endpoint(
    connection: sa.Connection, endpoint_id: str, owner: str | None, *, lock: bool = False
) -> Row:
    """Find an endpoint.

    Raises:
        EndpointNotFound: there is none of that id.
    """
    query = sa.select(endpoints).where(endpoints.c.id == storable(endpoint_id))
    if owner is not None:
        query = query.where(endpoints.c.key_id == owner)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise EndpointNotFound
    return row


def _endpoint_of(row: Row) -> Endpoint:
    return Endpoint(
        id=row.id,
        key_id=row.key_id,
        url=row.url,
        events=tuple(EventType(name) for name in row.events),
        created_at=row.created_at,
        disabled_at=row.disabled_at,
        disabled_reason=row.disabled_reason,
        name=row.name or "",
        updated_at=row.updated_at,
    )

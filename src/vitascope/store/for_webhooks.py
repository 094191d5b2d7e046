"""Webhooks: what is still to be sent, and what came of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from vitascope.domain.errors import (
    DeliveryConflict,
    DeliveryNotFound,
    InvalidParameter,
)
from vitascope.domain.job import Job
from vitascope.domain.secret import Secret
from vitascope.domain.webhook import (
    Attempt,
    Backlog,
    Delivery,
    DeliveryPage,
    Due,
    EventType,
    MessageStatus,
    Outcome,
    Outgoing,
)

from . import outbox as messages
from .for_endpoints import ForEndpoints, one_endpoint
from .outbox import is_pending
from .rows import Row, job_of
from .tables import attempts, endpoints, jobs, keys, outbox, storable

logger = logging.getLogger(__name__)

#: Writes a message's body: of its format and event, and its job; or tells as a text why there can be none.
Render = Callable[[str, EventType, Job], bytes | str]

CANDIDATES = 512
"""Due messages that a sender chooses from at once."""

PRUNED_AT_ONCE = 1000

UNREADABLE = "its job could not be read, by an error on the server"

SENDER_LOST = "the server stopped before it knew the answer"
DEAD = "nothing has arrived there for {0.days} days: {1}"


class ForWebhooks(ForEndpoints):
    """Messages. Where an `owner` is asked for, another's is no other case than an unknown one."""

    def add_test_message(
        self,
        endpoint_id: str,
        owner: str | None,
        body: bytes,
        event: EventType = EventType.TEST,
        *,
        once: bool = False,
    ) -> Delivery:
        """Write a message that only tries an endpoint out.

        Args:
            endpoint_id: of the endpoint.
            owner: whose it must be.
            body: what it says.
            event: what it says has happened.
            once: make one attempt only.

        Raises:
            EndpointNotFound: there is none of that id.
            DeliveryConflict: it is disabled, or its key was revoked.
        """
        with self._database.write() as connection:
            row = one_endpoint(connection, endpoint_id, owner, lock=True)
            _must_be_sendable(connection, row.key_id, row.id)
            values = {"event": event.value, "key_id": row.key_id, "body": body}
            values["tries"] = messages.NO_MORE_TRIES if once else 0
            made = messages.add(connection, {**values, **messages.to_endpoint(row)}, self._now())
        return _delivery_of(made)

    # what senders ask

    def due_messages(self, per_lane: int, full_lanes: Collection[str] = ()) -> list[Due]:
        """Look for messages whose time has come: the first of each lane, then the second of each, and so on.

        Args:
            per_lane: of each lane at most so many.
            full_lanes: nothing of these.
        """
        order = sa.func.row_number().over(
            partition_by=outbox.c.lane, order_by=(outbox.c.due_at, outbox.c.number)
        )
        with self._database.read() as connection:
            is_due = is_pending & (outbox.c.due_at <= self._lease_time(connection))
            if connection.execute(sa.select(outbox.c.number).where(is_due).limit(1)).first() is None:
                return []
            due = sa.select(outbox.c.number, outbox.c.lane, outbox.c.due_at, order.label("place"))
            ranked = due.where(is_due, outbox.c.lane.not_in(full_lanes)).subquery()
            query = sa.select(ranked).where(ranked.c.place <= per_lane)
            query = query.order_by(ranked.c.place, ranked.c.due_at, ranked.c.number).limit(CANDIDATES)
            return [Due(number=row.number, lane=row.lane) for row in connection.execute(query)]

    def claim_messages(
        self, numbers: Collection[int], lease_seconds: float, render: Render
    ) -> list[Outgoing]:
        """Take due messages for sending; those that another process took meanwhile are left out.

        Their bodies are written now, if they are not yet, and never change again. One that cannot be written is taken all the same, and
        says why: a process of another version may know how. What may not be sent any more ends.

        Args:
            numbers: of the messages.
            lease_seconds: who has not said for so long what came of it counts as dead.
            render: writes a body. It is called within the transaction: it must be quick.
        """
        chosen = sa.select(outbox).where(outbox.c.number.in_(numbers), is_pending).order_by(outbox.c.number)
        with self._database.write() as connection:
            lease_now = self._lease_time(connection)
            query = chosen.where(outbox.c.due_at <= lease_now).with_for_update(skip_locked=True)
            rows = connection.execute(query).all()
            refused = _refusals(connection, rows)
            about = {row.job_id for row in rows if row.body is None}
            found = connection.execute(sa.select(jobs).where(jobs.c.id.in_(about)))
            job_rows = {row.id: row for row in found} if about else {}
            taken = []
            for row in rows:
                if row.claimed_at is not None:
                    self._log(
                        connection, row.number, row.attempt, Outcome(is_delivered=False, reason=SENDER_LOST)
                    )
                body, problem, reason = row.body, "", refused.get(row.number, "")
                if body is None and not reason:
                    body, problem = _written(row, job_rows.get(row.job_id), render)
                if reason:
                    values: dict[str, Any] = messages.ended(reason, self._now())
                else:
                    expires_at = lease_now + timedelta(seconds=lease_seconds)
                    values = {"claimed_at": lease_now, "due_at": expires_at, "body": body}
                    values |= {"token": row.token + 1, "attempt": row.attempt + 1}
                update = sa.update(outbox).where(outbox.c.number == row.number).values(values)
                changed = connection.execute(update.returning(outbox)).one()
                if not reason:
                    taken.append(_outgoing_of(changed, problem))
        return taken

    def signing_secrets(self, message: Outgoing, make: Callable[[], str]) -> tuple[Secret, ...]:
        """Return what a message is signed with: its endpoint's secrets, else its key's.

        Raises:
            EndpointNotFound: the endpoint was removed meanwhile.
            KeyNotFound: the key was revoked meanwhile.
        """
        if message.endpoint_id is not None:
            return self.endpoint_secrets(message.endpoint_id, None, make)
        return self.webhook_secrets(message.key_id, make)

    def end_attempt(
        self,
        message: Outgoing,
        outcome: Outcome,
        *,
        retry_seconds: float | None = None,
        is_gone: bool = False,
        failing_for: timedelta | None = None,
    ) -> str:
        """Write down what came of sending a message; nothing if another sender has it by now.

        Args:
            message: as `claim_messages` gave it.
            outcome: of this attempt.
            retry_seconds: when to try again; None for never.
            is_gone: whether its receiver wants nothing any more: then its endpoint is disabled.
            failing_for: if the message is given up, its endpoint is disabled too where nothing has arrived for so long.

        Returns:
            Why the endpoint is disabled now; empty if it is not.
        """
        now = self._now()
        values: dict[str, Any] = messages.ended(outcome.reason, now)
        of_endpoint = outbox.c.endpoint_id == message.endpoint_id
        with self._database.write() as connection:
            why = ""
            if message.endpoint_id is not None and not outcome.is_delivered and retry_seconds is None:
                is_sample = message.tries >= messages.NO_MORE_TRIES  # it says nothing of the days before
                there = of_endpoint & (outbox.c.url == message.url)  # another URL begins anew
                is_dead = (
                    failing_for is not None
                    and not is_sample
                    and _nothing_arrives(connection, there, now - failing_for)
                )
                why = (
                    outcome.reason if is_gone else DEAD.format(failing_for, outcome.reason) if is_dead else ""
                )
            if why:
                messages.lock_pending(connection, of_endpoint)
            if not outcome.is_delivered and retry_seconds is not None:
                due_at = self._lease_time(connection) + timedelta(seconds=retry_seconds)
                values = {"due_at": due_at, "claimed_at": None, "token": outbox.c.token + 1}
                values |= {"tries": message.tries + 1, "reason": outcome.reason}
            if connection.execute(_held(message).values(values)).rowcount == 0:
                return ""
            self._log(connection, message.number, message.attempt, outcome)
            if why:
                enabled = (endpoints.c.id == message.endpoint_id) & endpoints.c.disabled_at.is_(None)
                disabled = {"disabled_at": now, "disabled_reason": why}
                connection.execute(sa.update(endpoints).where(enabled).values(disabled))
                messages.end_pending(connection, of_endpoint, messages.ENDPOINT_DISABLED, now)
        return why

    def release_messages(self, sent: Collection[Outgoing]) -> None:
        """Let others send at once what this process will not finish. It may have arrived all the same."""
        with self._database.write() as connection:
            values = {"due_at": messages.AT_ONCE, "claimed_at": None, "token": outbox.c.token + 1}
            for message in sorted(sent, key=lambda message: message.number):  # rows in one order for all
                if connection.execute(_held(message).values(values)).rowcount:
                    lost = Outcome(is_delivered=False, reason=SENDER_LOST)
                    self._log(connection, message.number, message.attempt, lost)

    def prune_messages(self, after: timedelta) -> int:
        """Delete some messages that ended so long ago, with their log; returns how many. Costs a read where there are none."""
        is_old = outbox.c.finished_at < self._now() - after
        with self._database.read() as connection:
            old = connection.scalars(sa.select(outbox.c.number).where(is_old).limit(PRUNED_AT_ONCE)).all()
        if not old:
            return 0
        with self._database.write_soon() as connection:
            delete = sa.delete(outbox).where(outbox.c.number.in_(old), is_old)  # it may be sent again by now
            return connection.execute(delete).rowcount

    # what clients and operators ask

    def webhook_backlog(self) -> Backlog:
        """Count what is still to be delivered."""
        query = sa.select(sa.func.count(), sa.func.min(outbox.c.created_at)).where(is_pending)
        with self._database.read() as connection:
            count, since = connection.execute(query).one()
        waited = 0.0 if since is None else (self._now() - since).total_seconds()
        return Backlog(count, max(0.0, waited))

    def delivery(self, message_id: str, owner: str | None) -> Delivery:
        """Return a message with all that became of it.

        Raises:
            DeliveryNotFound: there is none of that id, or it was long ago.
        """
        with self._database.read() as connection:
            row = _one_message(connection, message_id, owner)
            return _with_attempts(connection, [row])[0]

    def deliveries(
        self,
        owner: str | None,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        status: MessageStatus | None = None,
        job_id: str | None = None,
        endpoint_id: str | None = None,
    ) -> DeliveryPage:
        """List messages by age, from the one that follows `after`.

        Raises:
            InvalidParameter: no message has the id `after`.
        """
        wanted = {outbox.c.key_id: owner, outbox.c.status: status, outbox.c.job_id: job_id}
        wanted[outbox.c.endpoint_id] = endpoint_id and storable(endpoint_id)
        conditions = [column == value for column, value in wanted.items() if value is not None]
        query = sa.select(outbox).where(*conditions)
        with self._database.read() as connection:
            if after is not None:
                try:
                    anchor = _one_message(connection, after, owner).number
                except DeliveryNotFound:
                    raise InvalidParameter("after", after, "no delivery has this id") from None
                query = query.where(outbox.c.number < anchor if order == "desc" else outbox.c.number > anchor)
            query = query.order_by(outbox.c.number.desc() if order == "desc" else outbox.c.number)
            rows = connection.execute(query.limit(limit + 1)).all()
            shown = _with_attempts(connection, rows[:limit])
        return DeliveryPage(tuple(shown), has_more=len(rows) > limit)

    def replay_message(self, message_id: str, owner: str | None) -> Delivery:
        """Send a message once more, whatever became of it, with its id and body; a new round of attempts begins.

        One that is being sent right now is left alone.

        Raises:
            DeliveryNotFound: there is none of that id, or it was long ago.
            DeliveryConflict: its endpoint is gone or disabled, or its key was revoked.
        """
        again = {"status": MessageStatus.PENDING.value, "due_at": messages.AT_ONCE, "tries": 0}
        again |= {"finished_at": None, "reason": ""}
        with self._database.write() as connection:
            row = _one_message(connection, message_id, owner, lock=True)
            _must_be_sendable(connection, row.key_id, row.endpoint_id)
            if row.claimed_at is None:
                update = sa.update(outbox).where(outbox.c.number == row.number).values(again)
                row = connection.execute(update.returning(outbox)).one()
            return _with_attempts(connection, [row])[0]

    def _log(self, connection: sa.Connection, message_number: int, number: int, outcome: Outcome) -> None:
        values = {"message_number": message_number, "number": number, "ended_at": self._now()}
        connection.execute(sa.insert(attempts).values({**values, **asdict(outcome)}))


def _one_message(connection: sa.Connection, message_id: str, owner: str | None, *, lock: bool = False) -> Row:
    query = sa.select(outbox).where(outbox.c.id == storable(message_id))
    if owner is not None:
        query = query.where(outbox.c.key_id == owner)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise DeliveryNotFound
    return row


def _held(message: Outgoing) -> sa.Update:
    return sa.update(outbox).where(
        outbox.c.number == message.number, outbox.c.token == message.token, is_pending
    )


def _nothing_arrives(connection: sa.Connection, there: sa.ColumnElement[bool], since: datetime) -> bool:
    """Whether messages to a place have failed since then or longer, those that only try it out left aside, and none has arrived."""
    is_delivered = outbox.c.status == MessageStatus.DELIVERED.value
    last = connection.scalar(sa.select(sa.func.max(outbox.c.finished_at)).where(there, is_delivered))
    failed = sa.select(sa.func.min(outbox.c.created_at)).where(
        there, ~is_delivered, outbox.c.attempt > 0, outbox.c.job_id.is_not(None)
    )
    first = connection.scalar(failed if last is None else failed.where(outbox.c.created_at > last))
    return first is not None and first <= since and (last is None or last <= since)


def _refusals(connection: sa.Connection, rows: Sequence[Any]) -> Mapping[int, str]:
    """Find the messages that may not be sent any more, and why: what they hang on may have ended as they were written."""
    key_ids = {row.key_id for row in rows}
    endpoint_ids = {row.endpoint_id for row in rows}
    revoked = keys.c.id.in_(key_ids) & keys.c.revoked_at.is_not(None)
    ended_keys = set(connection.scalars(sa.select(keys.c.id).where(revoked)))
    known = connection.execute(sa.select(endpoints).where(endpoints.c.id.in_(endpoint_ids - {None})))
    is_disabled = {row.id: row.disabled_at is not None for row in known}
    found = {}
    for row in rows:
        if row.key_id in ended_keys:
            found[row.number] = messages.KEY_REVOKED
        elif row.endpoint_id is not None and row.endpoint_id not in is_disabled:
            found[row.number] = messages.ENDPOINT_REMOVED
        elif row.endpoint_id is not None and is_disabled[row.endpoint_id]:
            found[row.number] = messages.ENDPOINT_DISABLED
    return found


def _must_be_sendable(connection: sa.Connection, key_id: str, endpoint_id: str | None) -> None:
    asked = sa.select(
        sa.literal(0).label("number"),
        sa.literal(key_id).label("key_id"),
        sa.literal(endpoint_id, sa.String).label("endpoint_id"),
    )
    refused = _refusals(connection, connection.execute(asked).all())
    if refused:
        hint = "enable it first" if refused[0] == messages.ENDPOINT_DISABLED else None
        raise DeliveryConflict(f"nothing is sent: {refused[0]}", hint=hint)


def _with_attempts(connection: sa.Connection, rows: Sequence[Row]) -> list[Delivery]:
    numbers = [row.number for row in rows]
    query = sa.select(attempts).where(attempts.c.message_number.in_(numbers)).order_by(attempts.c.number)
    by_message: dict[int, list[Attempt]] = {}
    for row in connection.execute(query):
        by_message.setdefault(row.message_number, []).append(_attempt_of(row))
    return [_delivery_of(row, by_message.get(row.number, ())) for row in rows]


def _attempt_of(row: Row) -> Attempt:
    outcome = Outcome(
        is_delivered=row.is_delivered,
        status=row.status,
        reason=row.reason,
        duration_seconds=row.duration_seconds,
    )
    return Attempt(number=row.number, ended_at=row.ended_at, outcome=outcome)


def _delivery_of(row: Row, log: Sequence[Attempt] = ()) -> Delivery:
    waits_since: datetime | None = row.due_at
    if waits_since is not None:
        waits_since = max(waits_since, row.created_at)
    return Delivery(
        id=row.id,
        status=MessageStatus(row.status),
        event=EventType(row.event),
        format=row.format,
        url=row.url,
        job_id=row.job_id,
        endpoint_id=row.endpoint_id,
        created_at=row.created_at,
        finished_at=row.finished_at,
        next_attempt_at=waits_since,
        reason=row.reason,
        attempts=tuple(log),
    )


def _written(row: Row, job_row: Row | None, render: Render) -> tuple[bytes | None, str]:
    """Return a message's body; or none, and why. No message keeps others from being sent."""
    try:
        if job_row is None:
            return None, UNREADABLE
        body = render(row.format, EventType(row.event), job_of(job_row))
    except Exception:
        logger.exception("webhook could not be written", extra={"webhook": row.id})
        return None, UNREADABLE
    return (None, body) if isinstance(body, str) else (body, "")


def _outgoing_of(row: Row, problem: str) -> Outgoing:
    return Outgoing(
        number=row.number,
        id=row.id,
        token=row.token,
        attempt=row.attempt,
        tries=row.tries,
        format=row.format,
        url=row.url,
        body=bytes(row.body or b""),
        problem=problem,
        lane=row.lane,
        key_id=row.key_id,
        endpoint_id=row.endpoint_id,
    )

"""Messages about jobs' ends, inside a transaction that the caller holds: no end without its messages, none twice."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from vitascope.domain.job import JobStatus
from vitascope.domain.webhook import STANDARD, EventType, MessageStatus

from .rows import Row
from .tables import endpoints, outbox

AT_ONCE = datetime(2000, 1, 1, tzinfo=UTC)
"""When a new message is due: before all that wait for another attempt, and whatever any clock says."""

NO_MORE_TRIES = 1_000_000
"""Tries after which no sender makes another: of a message that is worth one attempt only."""

KEY_REVOKED = "the API key was revoked"
ENDPOINT_REMOVED = "the endpoint was removed"
ENDPOINT_DISABLED = "the endpoint is disabled"

is_pending = outbox.c.status == sa.literal_column(f"'{MessageStatus.PENDING.value}'")


def new_message_id() -> str:
    """Make what receivers know a message by: no part of it can be chosen, and it holds no dot, as signatures need it."""
    return f"msg_{secrets.token_hex(16)}"


def write(connection: sa.Connection, job: Row, status: JobStatus, now: datetime) -> None:
    """Write what is told of a job that has just ended: to the request's own webhook and to its key's endpoints."""
    event = EventType.COMPLETED if status is JobStatus.SUCCEEDED else EventType.FAILED
    shared = {"event": event.value, "job_id": job.id, "key_id": job.key_id}
    messages = []
    webhook = job.request.get("webhook")
    if webhook is not None:
        # by key too: many keys' webhooks may lead to one large service
        lane = f"{job.key_id}@{urlsplit(webhook['url']).netloc.lower()}"
        messages.append({**shared, "format": webhook["format"], "url": webhook["url"], "lane": lane})
    enabled = (endpoints.c.key_id == job.key_id) & endpoints.c.disabled_at.is_(None)
    rows = connection.execute(sa.select(endpoints).where(enabled).order_by(endpoints.c.created_at))
    messages += [{**shared, **to_endpoint(row)} for row in rows if event in row.events]
    for message in messages:
        add(connection, message, now)


def to_endpoint(row: Row) -> dict[str, Any]:
    """Return what a message to an endpoint has of it."""
    return {"format": STANDARD, "url": row.url, "endpoint_id": row.id, "lane": row.id}


def add(connection: sa.Connection, message: dict[str, Any], now: datetime) -> Row:
    """Write a message that is to be sent at once."""
    values = {
        "id": new_message_id(),
        "status": MessageStatus.PENDING.value,
        "due_at": AT_ONCE,
        "created_at": now,
        **message,
    }
    return connection.execute(sa.insert(outbox).values(values).returning(outbox)).one()


def end_pending(connection: sa.Connection, of: sa.ColumnElement[bool], reason: str, now: datetime) -> None:
    """Give up messages that nobody may send any more. Of one that is being sent, what comes of it is not written down."""
    lock_pending(connection, of)
    connection.execute(sa.update(outbox).where(is_pending, of).values(ended(reason, now)))


def lock_pending(connection: sa.Connection, of: sa.ColumnElement[bool]) -> None:
    """Lock messages in the order of their numbers, so that two who end many do not wait for each other."""
    connection.execute(
        sa.select(outbox.c.number).where(is_pending, of).order_by(outbox.c.number).with_for_update()
    ).all()


def ended(reason: str, now: datetime) -> dict[str, Any]:
    """Return how a message's row looks once it was delivered (without a reason) or given up."""
    status = MessageStatus.FAILED if reason else MessageStatus.DELIVERED
    return {
        "status": status.value,
        "reason": reason,
        "due_at": None,
        "claimed_at": None,
        "finished_at": now,
        "token": outbox.c.token + 1,
    }

"""Who is told that an added model has come, inside a transaction that the caller holds."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from vitascope.domain.added import ModelKind
from vitascope.domain.command import CommandStatus
from vitascope.domain.webhook import STANDARD, EventType

from . import outbox
from .tables import commands, models


@dataclass(frozen=True, slots=True)
class Told:
    """Who is told how a command about a card's model has ended."""

    #: Of the model.
    source: str
    #: See `tell_ended`.
    webhook: Mapping[str, Any]


_OPEN = [CommandStatus.QUEUED.value, CommandStatus.RUNNING.value]


def wait_for(connection: sa.Connection, command_id: str, model_id: str, told: Told, now: datetime) -> None:
    """Note who waits for the end of a command about a card's model: in a row that was never added, as it were a deleted one.

    The caller holds the queue's lock. The newest one is told, as of what was added.
    """
    values = {"command_id": command_id, "webhook": dict(told.webhook)}
    is_it = models.c.id == model_id
    if connection.execute(sa.update(models).where(is_it).values(values)).rowcount == 0:
        shown = {"kind": ModelKind.PIPELINE.value, "source": told.source}
        row = {"id": model_id, "created_at": now, "deleted_at": now, **shown, **values}
        connection.execute(sa.insert(models).values(row))


def tell_ended(connection: sa.Connection, command_ids: Collection[str], now: datetime) -> None:
    """Write the message about commands that all workers have ended with, once; costs a read where nobody waits for one.

    A model's `webhook` holds `url`, `lane` and `key_id`, and two bodies, `done` and `failed`, in the words of the dialect that was
    asked; the failed one gets the reason as its `message`.
    """
    waiting = models.c.command_id.in_(command_ids) & models.c.webhook.is_not(None)
    # who ends the last two parts at once waits here for the other, and then sees that both have ended
    rows = connection.execute(sa.select(models).where(waiting).with_for_update()).all()
    for row in rows:
        parts = connection.execute(sa.select(commands).where(commands.c.id == row.command_id)).all()
        if any(part.status in _OPEN for part in parts):
            continue
        is_it = (models.c.id == row.id) & (models.c.command_id == row.command_id)
        update = sa.update(models).where(is_it, models.c.webhook.is_not(None)).values(webhook=sa.null())
        if connection.execute(update).rowcount == 0:
            continue
        failed = next((part for part in parts if part.status == CommandStatus.FAILED.value), None)
        body = row.webhook["done"] if failed is None else {**row.webhook["failed"], "message": failed.message}
        message = {
            "event": EventType.MODEL.value,
            "format": STANDARD,
            "body": json.dumps(body).encode(),
            **{name: row.webhook[name] for name in ("url", "lane", "key_id")},
        }
        outbox.add(connection, message, now)

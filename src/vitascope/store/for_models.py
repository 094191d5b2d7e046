"""Models that operators add while the server runs: what they are, which command fetches them, who is told of its end."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from vitascope.domain.added import AddedModel, ModelKind
from vitascope.domain.command import Command, CommandKind, CommandStatus
from vitascope.domain.errors import ModelInUse, NoWorker

from . import added
from .base import Base
from .for_commands import command_of, rows_for
from .rows import Row
from .tables import commands, models, storable


class ForModels(Base):
    """Added models as the service, the catalogs and the workers see them."""

    def added_models(self) -> list[AddedModel]:
        """Return all that were added and not deleted, the oldest first."""
        query = sa.select(models).where(models.c.deleted_at.is_(None))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(models.c.created_at, models.c.id)).all()
        return [_added_of(row) for row in rows]

    def added_model(self, model_id: str) -> AddedModel | None:
        """Return one, also if it was deleted; None if there was never any."""
        query = sa.select(models).where(models.c.id == storable(model_id))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _added_of(row)

    def add_model(
        self,
        command_id: str,
        model: str,
        kind: ModelKind,
        source: str,
        revision: str | None,
        worker_ids: Collection[str],
        webhook: Mapping[str, Any] | None = None,
    ) -> Command:
        """Note a model and tell workers to fetch it. One of the same source may be added again: it is fetched where it lacks.

        Args:
            command_id: of the new command.
            model: its id.
            kind: what it is.
            source: where its files are.
            revision: of them.
            worker_ids: who shall fetch it.
            webhook: who is told of the command's end: `added.tell_ended` says what is in it.

        Raises:
            NoWorker: there is nobody to tell.
            ModelInUse: the id is another model's.
        """
        if not worker_ids:
            raise NoWorker
        now = self._now()
        shown = {"kind": kind.value, "source": source, "revision": revision}
        values = {**shown, "command_id": command_id, "webhook": None if webhook is None else dict(webhook)}
        is_it = models.c.id == model
        with self._database.write() as connection:
            self._database.lock_queue(connection)  # a row that is not there yet cannot be locked
            row = connection.execute(sa.select(models).where(is_it).with_for_update()).one_or_none()
            if row is None:
                connection.execute(sa.insert(models).values(id=model, created_at=now, **values))
            elif row.deleted_at is not None:
                anew = {"created_at": now, "card": None, "ready_at": None, "deleted_at": None}
                connection.execute(sa.update(models).where(is_it).values(**values, **anew))
            elif shown != {name: getattr(row, name) for name in shown}:
                raise ModelInUse(
                    "a model of this id was added before, from elsewhere", hint="delete it first"
                )
            else:
                connection.execute(sa.update(models).where(is_it).values(values))
            rows = rows_for(command_id, CommandKind.ADD, worker_ids, model, {}, now)
            insert = sa.insert(commands).returning(commands, sort_by_parameter_order=True)
            return command_of(connection.execute(insert, rows).all())

    def model_came(self, model_id: str, card: Mapping[str, Any]) -> None:
        """Note what an added model is, now that a worker has its files; from now on requests may name it."""
        values = {"card": dict(card), "ready_at": self._now()}
        is_it = (models.c.id == model_id) & models.c.deleted_at.is_(None)
        with self._database.write() as connection:
            connection.execute(sa.update(models).where(is_it).values(values))

    def delete_added(self, model_id: str) -> bool:
        """Let no request find it any more. Returns whether it was there."""
        is_it = (models.c.id == storable(model_id)) & models.c.deleted_at.is_(None)
        values = {"deleted_at": self._now(), "webhook": None}
        with self._database.write() as connection:
            return connection.execute(sa.update(models).where(is_it).values(values)).rowcount == 1

    def go_on_with(self, number: int, message: str, kind: CommandKind) -> None:
        """End an errand, and have the same worker do something else with the same model as a part of the same command."""
        is_it = (commands.c.number == number) & (commands.c.status == CommandStatus.RUNNING.value)
        now = self._now()
        values = {
            "status": CommandStatus.DONE.value,
            "message": storable(message),
            "finished_at": now,
        }
        with self._database.write() as connection:
            row = connection.execute(
                sa.update(commands).where(is_it).values(values).returning(commands)
            ).one_or_none()
            if row is not None:
                following = rows_for(row.id, kind, [row.worker_id], row.model, row.options, now)
                connection.execute(sa.insert(commands), following)
                added.tell_ended(connection, {row.id}, now)


def _added_of(row: Row) -> AddedModel:
    return AddedModel(
        id=row.id,
        kind=ModelKind(row.kind),
        source=row.source,
        revision=row.revision,
        card=row.card,
        command_id=row.command_id,
        created_at=row.created_at,
        ready_at=row.ready_at,
        deleted_at=row.deleted_at,
    )

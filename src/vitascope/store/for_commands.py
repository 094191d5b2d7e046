"""Commands: what operators want of workers, and what came of it. One row for each worker that shall do it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from vitascope.domain.command import Command, CommandKind, CommandStatus, Errand, WorkerState
from vitascope.domain.errors import CommandNotFound, NoWorker
from vitascope.domain.residency import Residency

from . import added, changes
from .added import Told
from .base import Base
from .rows import Row
from .tables import commands, storable, workers

COMMANDS_KEPT = timedelta(days=1)
"""How long it can be read what came of a command."""

MAX_COMMANDS = 100
"""On a page."""

_OPEN = [CommandStatus.QUEUED.value, CommandStatus.RUNNING.value]


#: Asked before each job: put together once, which takes longer than running it.
_NEXT_ERRAND = (
    sa.select(commands.c.number)
    .where(
        commands.c.status == sa.literal(CommandStatus.QUEUED.value),
        commands.c.worker_id == sa.bindparam("of_worker"),
        commands.c.kind.in_(sa.bindparam("of_kinds", expanding=True)),
    )
    .order_by(commands.c.number)
    .limit(1)
)


class ForCommands(Base):
    """Commands as operators and workers see them."""

    def worker_states(self, within_seconds: float) -> list[WorkerState]:
        """Return the workers that were seen so recently and have not ended, the oldest first."""
        with self._database.read() as connection:
            is_alive = _is_alive(self._lease_time(connection) - timedelta(seconds=within_seconds))
            query = sa.select(workers).where(is_alive).order_by(workers.c.started_at, workers.c.id)
            return [_worker_of(row) for row in connection.execute(query)]

    def models_on_workers(self, within_seconds: float) -> list[frozenset[str] | None]:
        """Return the ids of the models whose files each living worker has; None for one that has not told.

        Where none lives, those that were there lately count: they may be starting anew.
        """
        with self._database.read() as connection:
            is_alive = _is_alive(self._lease_time(connection) - timedelta(seconds=within_seconds))
            query = sa.select(workers.c.available).where(workers.c.peer.is_(None))
            rows = connection.execute(query.where(is_alive)).all() or connection.execute(query).all()
        return [None if row.available is None else frozenset(row.available) for row in rows]

    def add_command(
        self,
        command_id: str,
        kind: CommandKind,
        worker_ids: Collection[str],
        model: str = "",
        options: Mapping[str, bool] | None = None,
        told: Told | None = None,
    ) -> Command:
        """Tell workers to do something; `told` is who waits for its end, if anybody does.

        Raises:
            NoWorker: there is none to tell.
        """
        if not worker_ids:
            raise NoWorker
        rows = rows_for(command_id, kind, worker_ids, model, options or {}, self._now())
        insert = sa.insert(commands).returning(commands, sort_by_parameter_order=True)
        with self._database.write() as connection:
            if told is not None:
                self._database.lock_queue(connection)  # a row that is not there yet cannot be locked
                added.wait_for(connection, command_id, model, told, self._now())
            return command_of(connection.execute(insert, rows).all())

    def command(self, command_id: str) -> Command:
        """Return a command with what came of it.

        Raises:
            CommandNotFound: there is none, or it was long ago.
        """
        query = sa.select(commands).where(commands.c.id == storable(command_id)).order_by(commands.c.number)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        if not rows:
            raise CommandNotFound
        return command_of(rows)

    def commands(self) -> list[Command]:
        """Return what was commanded lately, the newest first; of the last one perhaps not all workers' parts."""
        query = sa.select(commands).order_by(commands.c.number.desc()).limit(MAX_COMMANDS)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        by_id: dict[str, list[Row]] = {}
        for row in rows:
            by_id.setdefault(row.id, []).insert(0, row)
        return [command_of(group) for group in by_id.values()]

    def take_errand(self, worker_id: str, kinds: Collection[CommandKind]) -> Errand | None:
        """Begin with the oldest errand of some kinds that waits for a worker; None if none does.

        Costs a read where there is none, so that an idle worker may ask often.
        """
        asked = {"of_worker": worker_id, "of_kinds": [kind.value for kind in kinds]}
        with self._database.read() as connection:
            number = connection.scalar(_NEXT_ERRAND, asked)
        if number is None:
            return None
        begun = {"status": CommandStatus.RUNNING.value, "started_at": self._now()}
        is_waiting = commands.c.status == CommandStatus.QUEUED.value
        update = sa.update(commands).where(commands.c.number == number, is_waiting).values(begun)
        with self._database.write_soon() as connection:
            row = connection.execute(update.returning(commands)).one_or_none()
        return None if row is None else _errand_of(row)

    def report_errand(self, number: int, message: str, num_bytes: int, total_bytes: int) -> bool:
        """Write down how far a worker is.

        Returns:
            Whether it shall go on: it was not given up meanwhile.
        """
        values = {"message": storable(message), "num_bytes": num_bytes, "total_bytes": total_bytes}
        with self._database.write_soon() as connection:
            return connection.execute(_running(number).values(values)).rowcount == 1

    def end_errand(self, number: int, message: str = "", *, failed: bool = False) -> None:
        """Write down how it ended; changes nothing if it was given up meanwhile."""
        status = CommandStatus.FAILED if failed else CommandStatus.DONE
        now = self._now()
        values = {"status": status.value, "message": storable(message), "finished_at": now}
        with self._database.write() as connection:
            ended = _running(number).values(values).returning(commands.c.id)
            added.tell_ended(connection, connection.scalars(ended).all(), now)

    def sweep_commands(self, silence_seconds: float) -> None:
        """Fail what workers were told that have been silent for so long, and forget what was long ago.

        Costs a read where there is nothing to do.
        """
        now = self._now()
        is_old = (commands.c.created_at < now - COMMANDS_KEPT) & commands.c.status.not_in(_OPEN)
        with self._database.read() as connection:
            seen_after = self._lease_time(connection) - timedelta(seconds=silence_seconds)
            alive = sa.select(workers.c.id).where(
                workers.c.seen_at >= seen_after, workers.c.stopped_at.is_(None)
            )
            is_lost = commands.c.status.in_(_OPEN) & commands.c.worker_id.not_in(alive)
            found = sa.select(commands.c.number).where(is_lost | is_old).limit(1)
            if connection.execute(found).first() is None:
                return
        with self._database.write_soon() as connection:
            changes.fail_commands(connection, commands.c.worker_id.not_in(alive), now)
            connection.execute(sa.delete(commands).where(is_old))


def rows_for(
    command_id: str,
    kind: CommandKind,
    worker_ids: Collection[str],
    model: str,
    options: Mapping[str, bool],
    now: datetime,
) -> list[dict[str, Any]]:
    """Make the rows of a command, one for each worker."""
    shared = {
        "id": command_id,
        "kind": kind.value,
        "model": model,
        "options": dict(options),
        "status": CommandStatus.QUEUED.value,
        "created_at": now,
    }
    return [{**shared, "worker_id": worker_id} for worker_id in sorted(worker_ids)]


def _is_alive(seen_after: datetime) -> sa.ColumnElement[bool]:
    return (workers.c.seen_at >= seen_after) & workers.c.stopped_at.is_(None)


def _worker_of(row: Row) -> WorkerState:
    return WorkerState(
        id=row.id,
        device=row.device,
        loaded=tuple(row.loaded),
        started_at=row.started_at,
        residency=Residency.from_dict(row.residency),
        available=None if row.available is None else tuple(row.available),
        peer=row.peer,
    )


def _running(number: int) -> sa.Update:
    is_it = (commands.c.number == number) & (commands.c.status == CommandStatus.RUNNING.value)
    return sa.update(commands).where(is_it)


def _errand_of(row: Row) -> Errand:
    return Errand(
        number=row.number,
        worker_id=row.worker_id,
        kind=CommandKind(row.kind),
        model=row.model,
        options=row.options,
        status=CommandStatus(row.status),
        message=row.message,
        num_bytes=row.num_bytes,
        total_bytes=row.total_bytes,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def command_of(rows: Collection[Row]) -> Command:
    """Make a command of its rows."""
    errands = tuple(_errand_of(row) for row in rows)
    first = next(iter(rows))
    return Command(first.id, CommandKind(first.kind), first.model, first.created_at, errands)

"""What an operator wants of workers, beside jobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from .residency import Residency

SILENCE_LEASES = 2.0
"""A worker is seen three times in the length of a lease; one that was silent for two lengths is gone."""


class CommandKind(StrEnum):
    """What shall be done."""

    LOAD = "load"
    UNLOAD = "unload"
    CLEAR_CACHES = "clear_caches"
    #: The engine process is started anew.
    RESTART = "restart"
    #: The worker process itself ends, as at SIGTERM, and is started anew. Heeded beside a job too, whose time is limited then.
    RESTART_WORKER = "restart_worker"
    #: Download a model's files; read them all and compare; remove the download.
    PULL = "pull"
    VERIFY = "verify"
    REMOVE = "remove"
    #: Fetch an added model's files, find out what it is, then load it.
    ADD = "add"


WITH_FILES = frozenset({CommandKind.PULL, CommandKind.VERIFY, CommandKind.ADD})
"""What needs no engine: it is done beside jobs."""


DELETED = "deleted"
"""Option of a removal: the model was added and then deleted. If it was added anew before the removal's turn, its files stay."""

WORKER_STOPPED = "The worker stopped before it was done; ask again, and a download goes on where it stopped."


class CommandStatus(StrEnum):
    """How far one worker is with it."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Errand:
    """One worker's part of a command."""

    number: int
    worker_id: str
    kind: CommandKind
    #: Id of the model that it is about; empty if it is about none.
    model: str
    options: Mapping[str, bool]
    status: CommandStatus
    #: How it ended, or what is going on.
    message: str
    #: Of a download or a check, how far it is; 0 of 0 while that is not known.
    num_bytes: int
    total_bytes: int
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def is_open(self) -> bool:
        return self.status in (CommandStatus.QUEUED, CommandStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Command:
    """What was asked for, and what each worker has made of it."""

    id: str
    kind: CommandKind
    model: str
    created_at: datetime
    errands: tuple[Errand, ...]

    @property
    def status(self) -> CommandStatus:
        """Done when all have done it, failed when all have ended and one has failed."""
        found = {errand.status for errand in self.errands}
        for status in (CommandStatus.RUNNING, CommandStatus.QUEUED, CommandStatus.FAILED):
            if status in found:
                started = status is CommandStatus.QUEUED and len(found) > 1
                return CommandStatus.RUNNING if started else status
        return CommandStatus.DONE

    def among(self, living: Collection[str]) -> Command:
        """Show what other workers than these have not done as failed, which it will be once a worker tidies up.

        Where the only one has died there is none that does.
        """
        errands = tuple(
            dataclasses.replace(errand, status=CommandStatus.FAILED, message=WORKER_STOPPED)
            if errand.is_open and errand.worker_id not in living
            else errand
            for errand in self.errands
        )
        return dataclasses.replace(self, errands=errands)


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker that lives."""

    id: str
    #: Kind of device; empty while that is not known.
    device: str
    #: Ids of the models that would start at once.
    loaded: tuple[str, ...]
    started_at: datetime
    #: What these take, and counts since the worker's engine was started.
    residency: Residency = field(default_factory=Residency)
    #: Ids of the models whose files it has; None before it has told.
    available: tuple[str, ...] | None = None
    #: URL of the server that makes its jobs; None of a worker with a device of its own.
    peer: str | None = None

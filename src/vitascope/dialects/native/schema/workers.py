"""Answers about workers, what they are told to do, and the queue."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from vitascope.dialects import _http


class CommandPart(_http.Described):
    """How far a worker is with a command."""

    worker: str
    status: Literal["queued", "running", "done", "failed"]
    message: str
    num_bytes: int
    total_bytes: int
    started_at: datetime | None
    finished_at: datetime | None


class Command(_http.Described):
    """What an operator wants of workers, and what came of it."""

    id: str
    kind: Literal[
        "load", "unload", "clear_caches", "restart", "restart_worker", "pull", "verify", "remove", "add"
    ]
    model: str | None
    status: Literal["queued", "running", "done", "failed"]
    created_at: datetime
    workers: list[CommandPart]


class CommandList(_http.Described):
    """The commands of the last day, the newest first."""

    commands: list[Command]


class ModelMemory(_http.Described):
    """What a loaded model takes."""

    #: Of its weights.
    weights_bytes: int
    #: Most that its work has taken beside them; null before that was measured.
    work_bytes: int | None
    #: Generations that are open.
    num_open: int


class WorkerMemory(_http.Described):
    """What a worker's engine has in memory, and counts since it was started."""

    models: dict[str, ModelMemory]
    #: What models and their work may take; null where what is free decides.
    budget_bytes: int | None
    loads: int
    load_seconds: float
    #: How many of the loads were done while something else ran.
    loads_ahead: int
    #: Generations whose model was there already.
    hits: int
    #: Models that went because another needed the room.
    evictions: int
    #: Generations and loads that failed because the memory was not enough.
    out_of_memory: int


class Worker(_http.Described):
    """A worker that lives."""

    id: str
    device: str
    #: URL of the server that makes its jobs; null of a worker with a device of its own.
    peer: str | None
    loaded: list[str]
    #: Models whose files it has; null before it has told.
    available: list[str] | None
    memory: WorkerMemory
    started_at: datetime


class WorkerList(_http.Described):
    """All workers that live."""

    workers: list[Worker]


class Queue(_http.Described):
    """How much is waiting."""

    queued: int
    running: int
    queued_by_model: dict[str, int]
    oldest_queued_seconds: float
    live_workers: int
    #: Until a job that came now would begin, behind all others; null if no worker lives.
    wait_seconds: float | None
    version: str
    #: Of the database: the same for all processes of a deployment.
    deployment: str

"""Batches: many requests in one file, made when there is room, told in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

WINDOW = timedelta(hours=24)
"""How long a batch may take; what has not been made by then is cancelled."""

MAX_LINES = 50_000
"""Requests of one batch."""

MAX_OPEN_BATCHES = 64
"""Batches of one key that have not ended."""

BATCH_PRIORITY = -5
"""Of a batch's jobs: whatever is asked for directly goes first. Waiting raises it, as it does for all."""

QUEUED_AT_ONCE = 20
"""Jobs of one batch that wait: as many as keep its workers busy, and no more of the queue."""


class BatchStatus(StrEnum):
    """Stage of a batch."""

    #: Its file is read.
    VALIDATING = "validating"
    #: Its requests become jobs, as there is room.
    RUNNING = "running"
    #: All its requests have ended; its files are written.
    FINISHING = "finishing"
    SUCCEEDED = "succeeded"
    #: Its file is not one of requests.
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: It took longer than its window.
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        return self in ENDED


ENDED = frozenset({BatchStatus.SUCCEEDED, BatchStatus.FAILED, BatchStatus.CANCELLED, BatchStatus.EXPIRED})


class Outcome(StrEnum):
    """What became of one request of a batch."""

    SUCCEEDED = "succeeded"
    #: Its job failed, or was cancelled by itself.
    FAILED = "failed"
    #: It cannot be carried out; there was no job.
    REFUSED = "refused"
    #: Its client has deleted the job.
    DELETED = "deleted"
    #: It was not made, because the batch was cancelled, or took too long.
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class LineError:
    """What is wrong with a line of a batch's file."""

    code: str
    message: str
    #: From 1; None if it is about the whole file.
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class NewLine:
    """A request of a batch's file, as it was read."""

    #: From 1; lines without a request have none.
    number: int
    #: The client's own name for it.
    custom_id: str
    #: JSON text.
    body: str


@dataclass(frozen=True, slots=True)
class Line(NewLine):
    """A request of a batch, as the store has it. Once it is a job, `body` is empty."""

    outcome: Outcome | None = None
    #: What was answered to one that was refused, in the words of its dialect.
    refusal: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch as the store has it. All instants are aware UTC."""

    id: str
    #: Whose it is; empty where the server has no keys.
    key_id: str
    status: BatchStatus
    #: What its requests are for: such as `/v1/videos`.
    endpoint: str
    input_file_id: str
    created_at: datetime
    #: When its window is over.
    expires_at: datetime
    #: The client's own words about it, given back unchanged.
    metadata: Mapping[str, Any] = field(default_factory=dict)
    #: How long its files are kept.
    output_seconds: int
    #: Where its client reached the server.
    base_url: str = ""
    #: That all its requests name; None if there are several, or if that is not known yet.
    model: str | None = None
    num_lines: int = 0
    num_succeeded: int = 0
    #: All others that have ended.
    num_failed: int = 0
    #: How it shall end, if it shall not go on, and since when.
    stop: BatchStatus | None = None
    stopped_at: datetime | None = None
    errors: tuple[LineError, ...] = ()
    running_at: datetime | None = None
    finishing_at: datetime | None = None
    finished_at: datetime | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    #: Whether its client has asked about it, and so knows its id.
    is_read: bool = False


@dataclass(frozen=True, slots=True)
class BatchPage:
    """Some batches in order, and whether more follow."""

    batches: tuple[Batch, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class BatchLease:
    """A process's right to take a batch further; every write shows the token, and a stale one is refused."""

    batch: Batch
    number: int
    token: int

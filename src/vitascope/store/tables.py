"""The tables as they are now; `migrations` says how they came to be."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from vitascope.domain.added import ModelKind
from vitascope.domain.batch import ENDED, BatchStatus, Outcome
from vitascope.domain.command import CommandStatus
from vitascope.domain.job import JobStatus
from vitascope.domain.money import Account, Move
from vitascope.domain.webhook import MessageStatus

#: Newest revision of the schema; a test compares it with the migrations. Written here so that opening a database which
#: is up to date does not import Alembic.
HEAD = "0021"


class Instant(sa.TypeDecorator[datetime]):
    """An aware instant, given as UTC. Databases that know no time zones keep it as UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            message = "instants in the store are aware"
            raise ValueError(message)
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is None:
            return value and value.replace(tzinfo=UTC)
        return value.astimezone(UTC)  # PostgreSQL answers in the zone of its session


class JobId(sa.TypeDecorator[str]):
    """A job's id. Text that a database cannot take, which clients may well send, is the id of no job."""

    impl = sa.String(64)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value and ("" if storable(value) != value else value)


def storable(text: str) -> str:
    """Replace what databases refuse in a text: PostgreSQL takes no NUL, both take no half of a surrogate pair."""
    return text.encode("utf-8", errors="replace").decode("utf-8").replace("\0", "?")


def _one_of(column: str, values: type[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(value.value) for value in values)})"


def _of_move(move: str) -> dict[str, Any]:
    """An index of the entries of one kind of move."""
    where = sa.text(f"move = '{move}'")
    return {"sqlite_where": where, "postgresql_where": where}


_BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Json = sa.JSON(none_as_null=True)

# of what waits only: small, whatever has ever been
_queued: dict[str, Any] = {
    "sqlite_where": sa.text("status = 'queued'"),
    "postgresql_where": sa.text("status = 'queued'"),
}

# of files that will expire and have not gone yet, and of those that are going: small, whatever has ever been
_kept_text = sa.text("expires_at IS NOT NULL AND expired_at IS NULL")
_kept: dict[str, Any] = {"sqlite_where": _kept_text, "postgresql_where": _kept_text}
_going_text = sa.text("removal_tried_at IS NOT NULL AND expired_at IS NULL")
_going: dict[str, Any] = {"sqlite_where": _going_text, "postgresql_where": _going_text}

# of what waits and a peer may make
_handed_text = sa.text("status = 'queued' AND may_hand_over")
_handed: dict[str, Any] = {"sqlite_where": _handed_text, "postgresql_where": _handed_text}

# of what others may see: the gallery reads its newest end, however many jobs there are beside it
_public_text = "status = 'succeeded' AND deleted_at IS NULL AND expired_at IS NULL"
_public: dict[str, Any] = {
    "sqlite_where": sa.text(f"is_public = 1 AND {_public_text}"),
    "postgresql_where": sa.text(f"is_public AND {_public_text}"),
}

# most jobs name no user
_named_text = sa.text('"user" IS NOT NULL')
_named: dict[str, Any] = {"sqlite_where": _named_text, "postgresql_where": _named_text}

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

jobs = sa.Table(
    "jobs",
    metadata,
    # order of arrival; a clock that is set back cannot disturb it
    sa.Column("number", _BigId, primary_key=True, autoincrement=True),
    sa.Column("id", JobId, nullable=False, unique=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("model", sa.String(255), nullable=False),
    sa.Column("request", _Json, nullable=False),
    sa.Column("plan", _Json, nullable=False),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("progress", sa.Integer, nullable=False, default=0),
    sa.Column("stage", sa.String(64), nullable=False, default=""),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    # fencing token: rises with each claim, never falls
    sa.Column("token", sa.Integer, nullable=False, default=0),
    sa.Column("worker_id", sa.String(255)),
    sa.Column("lease_expires_at", Instant),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("started_at", Instant),
    sa.Column("finished_at", Instant),
    sa.Column("deleted_at", Instant),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_message", sa.Text),
    # of those that were made, by index
    sa.Column("videos", _Json),
    sa.Column("details", _Json),
    # sequence number of the job's newest event
    sa.Column("last_event", sa.Integer, nullable=False, default=0),
    # whose job it is; empty where the server has no keys
    sa.Column("key_id", sa.String(64), nullable=False, server_default=""),
    # the client's own name for its end user, as in the request
    sa.Column("user", sa.String(255)),
    # the priority's negative, so that all columns of an index of what goes first rise
    sa.Column("precedence", sa.Integer, nullable=False, server_default="0"),
    # of its finished files
    sa.Column("num_bytes", sa.BigInteger, nullable=False, server_default="0"),
    # what decides how long it takes: `domain.cost.Effort`; and their product, by which jobs are sorted
    sa.Column("work", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("num_steps", sa.Integer, nullable=False, server_default="0"),
    sa.Column("num_windows", sa.Integer, nullable=False, server_default="1"),
    sa.Column("total_work", sa.BigInteger, nullable=False, server_default="0"),
    # by the clock of leases: when a worker last took it
    sa.Column("claimed_at", Instant),
    # since then: for which others had the device, as far as its worker has told
    sa.Column("stood_seconds", sa.Float, nullable=False, server_default="0"),
    # of the request as it was sent, to know an automatic retry by
    sa.Column("fingerprint", sa.String(64)),
    # when its client first asked about it
    sa.Column("read_at", Instant),
    # credits that were set aside for it, none if its key is not counted; and what of them was paid, once it has ended
    sa.Column("price", sa.BigInteger),
    sa.Column("charged", sa.BigInteger),
    # when its files go, when a sweeper last began to remove them, and when they were found to be gone
    sa.Column("expires_at", Instant),
    sa.Column("removal_tried_at", Instant),
    sa.Column("expired_at", Instant),
    # as in the request
    sa.Column("may_hand_over", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("is_public", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.CheckConstraint(_one_of("status", JobStatus), name="status"),
    sa.CheckConstraint("progress BETWEEN 0 AND 100", name="progress"),
    sa.CheckConstraint("(status = 'running') = (lease_expires_at IS NOT NULL)", name="lease"),
    sa.CheckConstraint("(status IN ('queued', 'running')) = (finished_at IS NULL)", name="finished"),
    sa.CheckConstraint("(status = 'failed') = (error_code IS NOT NULL)", name="error"),
    sa.CheckConstraint("(status = 'succeeded') = (videos IS NOT NULL)", name="video"),
    sa.Index(None, "status", "number"),
    sa.Index(None, "deleted_at", "number"),
    sa.Index(None, "fingerprint"),
    sa.Index(None, "key_id", "number"),
    sa.Index("ix_jobs_user_number", "user", "number", **_named),
    # the two ends of each key's queue
    sa.Index("ix_jobs_oldest_queued", "key_id", "precedence", "number", **_queued),
    sa.Index("ix_jobs_shortest_queued", "key_id", "precedence", "total_work", "number", **_queued),
    sa.Index("ix_jobs_may_hand_over", "key_id", "precedence", "number", **_handed),
    sa.Index("ix_jobs_public", "is_public", "number", **_public),
    sa.Index("ix_jobs_expires_at", "expires_at", **_kept),
    sa.Index("ix_jobs_removal_tried_at", "removal_tried_at", **_going),
    # SQLite would give the number of the newest job again after that row is gone
    sqlite_autoincrement=True,
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("job_number", _BigId, sa.ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True),
    # the status that was reached, a wish (cancel_requested, deleted), progress or preview
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("data", _Json),
    # only what can be pruned, so that looking for it does not cost more with each job that ever was
    sa.Index(
        "ix_events_progress",
        "job_number",
        sqlite_where=sa.text("kind = 'progress'"),
        postgresql_where=sa.text("kind = 'progress'"),
    ),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.String(255), primary_key=True),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("seen_at", Instant, nullable=False),
    sa.Column("stopped_at", Instant),
    # kind of device, by which speeds are kept
    sa.Column("device", sa.String(255), nullable=False, server_default=""),
    # ids of the models that it has loaded
    sa.Column("loaded", _Json, nullable=False, server_default="[]"),
    # `domain.residency`: what they take, and counts
    sa.Column("residency", _Json, nullable=False, server_default="{}"),
    # ids of the models whose files it has; none before it has told
    sa.Column("available", _Json),
    # URL of the server that makes its jobs; null of a worker with a device of its own
    sa.Column("peer", sa.Text),
)

# models, adapters and autoencoders that operators have added at run time, beside the cards of each machine
models = sa.Table(
    "models",
    metadata,
    # requests name it
    sa.Column("id", sa.String(255), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    # as a card says it
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("revision", sa.String(255)),
    # what a card of it says; none before its files were there
    sa.Column("card", _Json),
    # the command that fetches it
    sa.Column("command_id", sa.String(64), nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    # when a worker first had all of it
    sa.Column("ready_at", Instant),
    # no request finds it any more, and its files go
    sa.Column("deleted_at", Instant),
    # who is told how the command has ended: a URL, its format, whose key; none once that is written to the outbox
    sa.Column("webhook", _Json),
    sa.CheckConstraint(_one_of("kind", ModelKind), name="kind"),
    sa.CheckConstraint("(card IS NULL) = (ready_at IS NULL)", name="ready"),
)

# what operators want of workers; one row for each worker that shall do it
commands = sa.Table(
    "commands",
    metadata,
    sa.Column("number", _BigId, primary_key=True, autoincrement=True),
    # of the command: rows of the same one share it
    sa.Column("id", sa.String(64), nullable=False),
    sa.Column("worker_id", sa.String(255), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    # empty where it is about none
    sa.Column("model", sa.String(255), nullable=False),
    sa.Column("options", _Json, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    # how it ended, or what is going on
    sa.Column("message", sa.Text, nullable=False, default=""),
    sa.Column("num_bytes", sa.BigInteger, nullable=False, default=0),
    sa.Column("total_bytes", sa.BigInteger, nullable=False, default=0),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("started_at", Instant),
    sa.Column("finished_at", Instant),
    sa.CheckConstraint(_one_of("status", CommandStatus), name="status"),
    sa.CheckConstraint("(status IN ('queued', 'running')) = (finished_at IS NULL)", name="finished"),
    sa.Index(None, "id"),
    sa.Index(None, "status", "worker_id"),
    sqlite_autoincrement=True,
)

# what each model took on each kind of device
speeds = sa.Table(
    "speeds",
    metadata,
    sa.Column("device", sa.String(255), primary_key=True),
    sa.Column("model", sa.String(255), primary_key=True),
    # `domain.cost.work_class`
    sa.Column("work_class", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("work", sa.BigInteger, nullable=False),
    sa.Column("step_seconds", sa.Float, nullable=False),
    sa.Column("other_seconds", sa.Float, nullable=False),
)

# what each key has had of the devices lately: seconds that fade, as they were at an instant of the clock of leases
shares = sa.Table(
    "shares",
    metadata,
    sa.Column("key_id", sa.String(64), primary_key=True),
    sa.Column("served_seconds", sa.Float, nullable=False),
    sa.Column("at", Instant, nullable=False),
)

# API keys; never the keys themselves
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    # SHA-256 of the key: it is random and long, so that guessing from this is hopeless
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("prefix", sa.String(16), nullable=False),
    sa.Column("last4", sa.String(4), nullable=False),
    sa.Column("scopes", _Json, nullable=False),
    sa.Column("limits", _Json, nullable=False),
    # beside the other limits, because the claim asks for it
    sa.Column("max_running", sa.Integer),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant),
    sa.Column("revoked_at", Instant),
)

# what must be readable again, encrypted: see `cipher`
_current: dict[str, Any] = {
    "sqlite_where": sa.text("expires_at IS NULL"),
    "postgresql_where": sa.text("expires_at IS NULL"),
}
secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    # such as `webhook`, and whose it is, such as an API key's id
    sa.Column("purpose", sa.String(64), nullable=False),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("ciphertext", sa.LargeBinary, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    # of one that was replaced
    sa.Column("expires_at", Instant),
    sa.Index("uq_secrets_current", "purpose", "owner", unique=True, **_current),
    sa.Index(None, "purpose", "owner"),
)

# places beside the storage of the settings, with files in them or not; the secret of each is in `secrets`
_in_use: dict[str, Any] = {"sqlite_where": sa.text("is_in_use"), "postgresql_where": sa.text("is_in_use")}
buckets = sa.Table(
    "buckets",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("bucket", sa.Text, nullable=False),
    sa.Column("prefix", sa.Text, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("path_style", sa.Boolean, nullable=False),
    sa.Column("access_key_id", sa.Text, nullable=False),
    sa.Column("public_url", sa.Text),
    # of one at most: new videos go there
    sa.Column("is_in_use", sa.Boolean, nullable=False),
    sa.Column("changed_at", Instant, nullable=False),
    sa.Index("uq_buckets_is_in_use", "is_in_use", unique=True, **_in_use),
)

# receivers that keys have for all their jobs
endpoints = sa.Table(
    "endpoints",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    # whose it is; empty where the server has no keys
    sa.Column("key_id", sa.String(64), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("events", _Json, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("disabled_at", Instant),
    sa.Column("disabled_reason", sa.Text),
    # none of what was made before there were names
    sa.Column("name", sa.Text),
    # by its holder, its secret among it
    sa.Column("updated_at", Instant),
    sa.CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled"),
    sa.Index(None, "key_id"),
)

_pending: dict[str, Any] = {
    "sqlite_where": sa.text("status = 'pending'"),
    "postgresql_where": sa.text("status = 'pending'"),
}

# messages to receivers, written in the transactions that end jobs: see `outbox`
outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("number", _BigId, primary_key=True, autoincrement=True),
    # what receivers see, for ever the same
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("event", sa.String(32), nullable=False),
    # whose dialect writes the body
    sa.Column("format", sa.String(32), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    # none in a message that only tries an endpoint out
    sa.Column("job_id", JobId),
    sa.Column("endpoint_id", sa.String(64)),
    sa.Column("key_id", sa.String(64), nullable=False),
    # messages to the same receiver share it
    sa.Column("lane", sa.Text, nullable=False),
    # written before the first attempt, then never again
    sa.Column("body", sa.LargeBinary),
    # fencing token: rises with each claim
    sa.Column("token", sa.Integer, nullable=False, default=0),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    # failed attempts of this round; a replay begins another
    sa.Column("tries", sa.Integer, nullable=False, default=0),
    # by the clock of leases: when it may be taken; of one that is being sent, when its sender counts as dead
    sa.Column("due_at", Instant),
    sa.Column("claimed_at", Instant),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("finished_at", Instant),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.CheckConstraint(_one_of("status", MessageStatus), name="status"),
    sa.CheckConstraint("(status = 'pending') = (due_at IS NOT NULL)", name="due"),
    sa.CheckConstraint("(status = 'pending') = (finished_at IS NULL)", name="finished"),
    sa.Index("ix_outbox_lane_due", "lane", "due_at", **_pending),
    sa.Index("ix_outbox_due", "due_at", **_pending),
    sa.Index(None, "finished_at"),
    sa.Index(None, "key_id", "number"),
    sa.Index(None, "job_id"),
    sa.Index(None, "endpoint_id"),
    sqlite_autoincrement=True,
)

# the delivery log
attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("message_number", _BigId, sa.ForeignKey("outbox.number", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("ended_at", Instant, nullable=False),
    sa.Column("is_delivered", sa.Boolean, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("duration_seconds", sa.Float, nullable=False),
)

# where each key stands that is counted: see `domain.money`
balances = sa.Table(
    "balances",
    metadata,
    sa.Column("key_id", sa.String(64), sa.ForeignKey("keys.id"), primary_key=True),
    sa.Column("credits", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("held", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("spent", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("granted", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("is_on", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.CheckConstraint("credits >= 0 AND held >= 0 AND spent >= 0", name="not_negative"),
    sa.CheckConstraint("credits + held + spent = granted", name="balanced"),
)

# how they came to stand there: two rows a move, which sum to zero; never changed
ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("number", _BigId, primary_key=True, autoincrement=True),
    sa.Column("key_id", sa.String(64), sa.ForeignKey("keys.id"), nullable=False),
    sa.Column("move", sa.String(16), nullable=False),
    sa.Column("account", sa.String(16), nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    # none of a grant
    sa.Column("job_number", _BigId, sa.ForeignKey("jobs.number")),
    # which video was paid for
    sa.Column("output", sa.Integer),
    sa.Column("note", sa.Text, nullable=False),
    # of a grant, in one of its rows: it is made once
    sa.Column("reference", sa.String(255), unique=True),
    sa.Column("created_at", Instant, nullable=False),
    sa.CheckConstraint(_one_of("move", Move), name="move"),
    sa.CheckConstraint(_one_of("account", Account), name="account"),
    # no video is paid for twice, no job held or given back twice, whatever the program does
    sa.Index("uq_ledger_settle", "job_number", "account", "output", unique=True, **_of_move("settle")),
    sa.Index("uq_ledger_hold", "job_number", "account", unique=True, **_of_move("hold")),
    sa.Index("uq_ledger_refund", "job_number", "account", unique=True, **_of_move("refund")),
    sa.Index(None, "key_id", "number"),
    sqlite_autoincrement=True,
)

# requests that each key has sent in a minute of the clock
rates = sa.Table(
    "rates",
    metadata,
    sa.Column("key_id", sa.String(64), primary_key=True),
    sa.Column("minute", _BigId, primary_key=True, autoincrement=False),
    sa.Column("num_requests", sa.Integer, nullable=False),
)

# requests that shall be carried out once, by the name that their client gave them
idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("key_id", sa.String(64), primary_key=True),
    # SHA-256 of the Idempotency-Key
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("job_number", _BigId, sa.ForeignKey("jobs.number", ondelete="CASCADE"), nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index(None, "created_at"),
)

# files that clients upload, and those that batches write; a deleted one still marks its place
_passing_text = sa.text("expires_at IS NOT NULL AND deleted_at IS NULL")
_passing: dict[str, Any] = {"sqlite_where": _passing_text, "postgresql_where": _passing_text}
_deleted_text = sa.text("deleted_at IS NOT NULL AND removed_at IS NULL")
_deleted: dict[str, Any] = {"sqlite_where": _deleted_text, "postgresql_where": _deleted_text}
characters = sa.Table(
    "characters",
    metadata,
    sa.Column("id", JobId, primary_key=True),
    # whose it is; empty where the server has no keys
    sa.Column("key_id", sa.String(64), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    # where the storage has its picture
    sa.Column("key", sa.String(255), nullable=False),
    sa.Column("num_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index(None, "key_id"),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("number", _BigId, primary_key=True, autoincrement=True),
    sa.Column("id", JobId, nullable=False, unique=True),
    # whose it is; empty where the server has no keys
    sa.Column("key_id", sa.String(64), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    # where the storage has it
    sa.Column("key", sa.String(255), nullable=False),
    sa.Column("num_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant),
    # given out no more from here on; and when the storage was found not to have it any more
    sa.Column("deleted_at", Instant),
    sa.Column("removed_at", Instant),
    sa.Index(None, "key_id", "number"),
    sa.Index("ix_files_expires_at", "expires_at", **_passing),
    sa.Index("ix_files_deleted_at", "deleted_at", **_deleted),
    sqlite_autoincrement=True,
)

# many requests of one file
_open_text = f"status IN ({', '.join(repr(status.value) for status in BatchStatus if status not in ENDED)})"
_due_text, _unpruned_text = (
    sa.text("due_at IS NOT NULL"),
    sa.text("finished_at IS NOT NULL AND pruned_at IS NULL"),
)
_due: dict[str, Any] = {"sqlite_where": _due_text, "postgresql_where": _due_text}
_unpruned: dict[str, Any] = {"sqlite_where": _unpruned_text, "postgresql_where": _unpruned_text}
batches = sa.Table(
    "batches",
    metadata,
    sa.Column("number", _BigId, primary_key=True, autoincrement=True),
    sa.Column("id", JobId, nullable=False, unique=True),
    # whose it is; empty where the server has no keys
    sa.Column("key_id", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("endpoint", sa.String(64), nullable=False),
    sa.Column("input_file_id", sa.String(64), nullable=False),
    sa.Column("metadata", _Json, nullable=False),
    sa.Column("output_seconds", sa.Integer, nullable=False),
    sa.Column("base_url", sa.Text, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("num_lines", sa.Integer, nullable=False, default=0),
    sa.Column("num_succeeded", sa.Integer, nullable=False, default=0),
    sa.Column("num_failed", sa.Integer, nullable=False, default=0),
    # how it shall end, if it shall not go on
    sa.Column("stop", sa.String(16)),
    sa.Column("errors", _Json, nullable=False, default=list),
    sa.Column("output_file_id", sa.String(64)),
    sa.Column("error_file_id", sa.String(64)),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("stopped_at", Instant),
    sa.Column("running_at", Instant),
    sa.Column("finishing_at", Instant),
    sa.Column("finished_at", Instant),
    # when its lines were removed, some time after its end
    sa.Column("pruned_at", Instant),
    # fencing token: rises with each claim
    sa.Column("token", sa.Integer, nullable=False, default=0),
    # by the clock of leases: when it may be taken; of one that is taken, when who has it counts as dead
    sa.Column("due_at", Instant),
    # of the request that made it: see `idempotency`; and when its client first asked about it
    sa.Column("fingerprint", sa.String(64)),
    sa.Column("once_name", sa.String(64)),
    sa.Column("read_at", Instant),
    sa.CheckConstraint(_one_of("status", BatchStatus), name="status"),
    sa.CheckConstraint("(stop IS NULL) = (stopped_at IS NULL)", name="stop"),
    sa.CheckConstraint(f"({_open_text}) = (due_at IS NOT NULL)", name="due"),
    sa.CheckConstraint(f"({_open_text}) = (finished_at IS NULL)", name="finished"),
    sa.Index(None, "key_id", "number"),
    sa.Index(None, "key_id", "once_name"),
    sa.Index("ix_batches_due_at", "due_at", **_due),
    sa.Index("ix_batches_unpruned", "number", **_unpruned),
    sqlite_autoincrement=True,
)

_waiting_text = sa.text("job_number IS NULL AND outcome IS NULL")
_waiting: dict[str, Any] = {"sqlite_where": _waiting_text, "postgresql_where": _waiting_text}
_making_text = sa.text("job_number IS NOT NULL AND outcome IS NULL")
_making: dict[str, Any] = {"sqlite_where": _making_text, "postgresql_where": _making_text}
_fed_text = sa.text("job_number IS NOT NULL")
_fed: dict[str, Any] = {"sqlite_where": _fed_text, "postgresql_where": _fed_text}
batch_lines = sa.Table(
    "batch_lines",
    metadata,
    sa.Column("batch_number", _BigId, sa.ForeignKey("batches.number", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("custom_id", sa.Text, nullable=False),
    # empty once it is a job
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("job_number", _BigId, sa.ForeignKey("jobs.number")),
    sa.Column("outcome", sa.String(16)),
    sa.Column("refusal", _Json),
    sa.CheckConstraint(_one_of("outcome", Outcome), name="outcome"),
    # not of those without a job: SQLite would take it to look for them, and read all of every batch for one line
    sa.Index("uq_batch_lines_job_number", "job_number", unique=True, **_fed),
    sa.Index("ix_batch_lines_waiting", "batch_number", "number", **_waiting),
    sa.Index("ix_batch_lines_making", "batch_number", "number", **_making),
)

# one row, in SQLite only: see `clock`
clock = sa.Table(
    "clock",
    metadata,
    sa.Column("boot_id", sa.String(64), primary_key=True),
    sa.Column("zero", Instant, nullable=False),
)

# one row: this database's own name, by which a storage knows whose files it holds
deployment = sa.Table("deployment", metadata, sa.Column("id", sa.String(32), primary_key=True))

#: Alembic's own; only read, to see which revision a database has.
alembic_version = sa.table("alembic_version", sa.column("version_num", sa.String(32)))

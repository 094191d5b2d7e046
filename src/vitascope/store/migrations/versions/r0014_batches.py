"""Batches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

_BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Instant = sa.DateTime(timezone=True)
_STATUSES = "'validating', 'running', 'finishing', 'succeeded', 'failed', 'cancelled', 'expired'"
_OPEN = "status IN ('validating', 'running', 'finishing')"


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("number", _BigId, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("input_file_id", sa.String(64), nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("output_seconds", sa.Integer, nullable=False),
        sa.Column("base_url", sa.Text, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("num_lines", sa.Integer, nullable=False),
        sa.Column("num_succeeded", sa.Integer, nullable=False),
        sa.Column("num_failed", sa.Integer, nullable=False),
        sa.Column("stop", sa.String(16)),
        sa.Column("errors", sa.JSON, nullable=False),
        sa.Column("output_file_id", sa.String(64)),
        sa.Column("error_file_id", sa.String(64)),
        sa.Column("created_at", _Instant, nullable=False),
        sa.Column("expires_at", _Instant, nullable=False),
        sa.Column("stopped_at", _Instant),
        sa.Column("running_at", _Instant),
        sa.Column("finishing_at", _Instant),
        sa.Column("finished_at", _Instant),
        sa.Column("pruned_at", _Instant),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("due_at", _Instant),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("once_name", sa.String(64)),
        sa.Column("read_at", _Instant),
        sa.PrimaryKeyConstraint("number", name="pk_batches"),
        sa.UniqueConstraint("id", name="uq_batches_id"),
        sa.CheckConstraint(f"status IN ({_STATUSES})", name=op.f("ck_batches_status")),
        sa.CheckConstraint("(stop IS NULL) = (stopped_at IS NULL)", name=op.f("ck_batches_stop")),
        sa.CheckConstraint(f"({_OPEN}) = (due_at IS NOT NULL)", name=op.f("ck_batches_due")),
        sa.CheckConstraint(f"({_OPEN}) = (finished_at IS NULL)", name=op.f("ck_batches_finished")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_batches_key_id_number", "batches", ["key_id", "number"])
    op.create_index("ix_batches_key_id_once_name", "batches", ["key_id", "once_name"])
    for name, column, condition in (
        ("due_at", "due_at", "due_at IS NOT NULL"),
        ("unpruned", "number", "finished_at IS NOT NULL AND pruned_at IS NULL"),
    ):
        where = sa.text(condition)
        op.create_index(f"ix_batches_{name}", "batches", [column], sqlite_where=where, postgresql_where=where)
    op.create_table(
        "batch_lines",
        sa.Column("batch_number", _BigId, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("custom_id", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("job_number", _BigId),
        sa.Column("outcome", sa.String(16)),
        sa.Column("refusal", sa.JSON),
        sa.PrimaryKeyConstraint("batch_number", "number", name="pk_batch_lines"),
        sa.ForeignKeyConstraint(
            ["batch_number"], ["batches.number"], name="fk_batch_lines_batch_number", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["job_number"], ["jobs.number"], name="fk_batch_lines_job_number"),
        sa.CheckConstraint(
            "outcome IN ('succeeded', 'failed', 'refused', 'deleted', 'cancelled', 'expired')",
            name=op.f("ck_batch_lines_outcome"),
        ),
    )
    for name, condition in (
        ("waiting", "job_number IS NULL AND outcome IS NULL"),
        ("making", "job_number IS NOT NULL AND outcome IS NULL"),
    ):
        where = sa.text(condition)
        columns = ["batch_number", "number"]
        op.create_index(
            f"ix_batch_lines_{name}", "batch_lines", columns, sqlite_where=where, postgresql_where=where
        )
    where = sa.text("job_number IS NOT NULL")
    op.create_index(
        "uq_batch_lines_job_number",
        "batch_lines",
        ["job_number"],
        unique=True,
        sqlite_where=where,
        postgresql_where=where,
    )

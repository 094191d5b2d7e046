"""Jobs, their events, and workers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Instant = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("number", _BigId, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("progress", sa.Integer, nullable=False),
        sa.Column("stage", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("worker_id", sa.String(255)),
        sa.Column("lease_expires_at", _Instant),
        sa.Column("created_at", _Instant, nullable=False),
        sa.Column("started_at", _Instant),
        sa.Column("finished_at", _Instant),
        sa.Column("deleted_at", _Instant),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.Text),
        sa.Column("video", sa.JSON),
        sa.Column("details", sa.JSON),
        sa.Column("last_event", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_jobs"),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_jobs_status")
        ),
        sa.CheckConstraint("progress BETWEEN 0 AND 100", name=op.f("ck_jobs_progress")),
        sa.CheckConstraint(
            "(status = 'running') = (lease_expires_at IS NOT NULL)", name=op.f("ck_jobs_lease")
        ),
        sa.CheckConstraint(
            "(status IN ('queued', 'running')) = (finished_at IS NULL)", name=op.f("ck_jobs_finished")
        ),
        sa.CheckConstraint("(status = 'failed') = (error_code IS NOT NULL)", name=op.f("ck_jobs_error")),
        sa.CheckConstraint("(status = 'succeeded') = (video IS NOT NULL)", name=op.f("ck_jobs_video")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_status_number", "jobs", ["status", "number"])
    op.create_index("ix_jobs_deleted_at_number", "jobs", ["deleted_at", "number"])
    op.create_table(
        "events",
        sa.Column("job_number", _BigId, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("created_at", _Instant, nullable=False),
        sa.Column("data", sa.JSON),
        sa.PrimaryKeyConstraint("job_number", "sequence", name="pk_events"),
        sa.ForeignKeyConstraint(
            ["job_number"], ["jobs.number"], name="fk_events_job_number", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("started_at", _Instant, nullable=False),
        sa.Column("seen_at", _Instant, nullable=False),
        sa.Column("stopped_at", _Instant),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )

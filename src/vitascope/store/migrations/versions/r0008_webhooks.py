"""Webhooks: endpoints, the outbox and the delivery log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Instant = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "endpoints",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("events", sa.JSON, nullable=False),
        sa.Column("created_at", _Instant, nullable=False),
        sa.Column("disabled_at", _Instant),
        sa.Column("disabled_reason", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_endpoints"),
        sa.CheckConstraint(
            "(disabled_at IS NULL) = (disabled_reason IS NULL)", name=op.f("ck_endpoints_disabled")
        ),
    )
    op.create_index("ix_endpoints_key_id", "endpoints", ["key_id"])
    op.create_table(
        "outbox",
        sa.Column("number", _BigId, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("format", sa.String(32), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("job_id", sa.String(64)),
        sa.Column("endpoint_id", sa.String(64)),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("due_at", _Instant),
        sa.Column("claimed_at", _Instant),
        sa.Column("created_at", _Instant, nullable=False),
        sa.Column("finished_at", _Instant),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_outbox"),
        sa.UniqueConstraint("id", name="uq_outbox_id"),
        sa.CheckConstraint("status IN ('pending', 'delivered', 'failed')", name=op.f("ck_outbox_status")),
        sa.CheckConstraint("(status = 'pending') = (due_at IS NOT NULL)", name=op.f("ck_outbox_due")),
        sa.CheckConstraint("(status = 'pending') = (finished_at IS NULL)", name=op.f("ck_outbox_finished")),
        sqlite_autoincrement=True,
    )
    is_pending = sa.text("status = 'pending'")
    for name, columns in (("ix_outbox_lane_due", ["lane", "due_at"]), ("ix_outbox_due", ["due_at"])):
        op.create_index(name, "outbox", columns, sqlite_where=is_pending, postgresql_where=is_pending)
    op.create_index("ix_outbox_finished_at", "outbox", ["finished_at"])
    op.create_index("ix_outbox_key_id_number", "outbox", ["key_id", "number"])
    op.create_index("ix_outbox_job_id", "outbox", ["job_id"])
    op.create_index("ix_outbox_endpoint_id", "outbox", ["endpoint_id"])
    op.create_table(
        "attempts",
        sa.Column("message_number", _BigId, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("ended_at", _Instant, nullable=False),
        sa.Column("is_delivered", sa.Boolean, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("duration_seconds", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("message_number", "number", name="pk_attempts"),
        sa.ForeignKeyConstraint(
            ["message_number"], ["outbox.number"], name="fk_attempts_message_number", ondelete="CASCADE"
        ),
    )

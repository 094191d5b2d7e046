"""Commands to workers, and which models workers have loaded."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Instant = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("workers", sa.Column("loaded", sa.JSON, nullable=False, server_default="[]"))
    op.create_table(
        "commands",
        sa.Column("number", _BigId, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("worker_id", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("num_bytes", sa.BigInteger, nullable=False),
        sa.Column("total_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", _Instant, nullable=False),
        sa.Column("started_at", _Instant),
        sa.Column("finished_at", _Instant),
        sa.PrimaryKeyConstraint("number", name="pk_commands"),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'done', 'failed')", name=op.f("ck_commands_status")
        ),
        sa.CheckConstraint(
            "(status IN ('queued', 'running')) = (finished_at IS NULL)", name=op.f("ck_commands_finished")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_commands_id", "commands", ["id"])
    op.create_index("ix_commands_status_worker_id", "commands", ["status", "worker_id"])

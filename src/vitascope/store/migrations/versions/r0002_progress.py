"""Progress events that can be pruned, and the clock of leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    is_progress = sa.text("kind = 'progress'")
    op.create_index(
        "ix_events_progress",
        "events",
        ["job_number"],
        sqlite_where=is_progress,
        postgresql_where=is_progress,
    )
    op.create_table(
        "clock",
        sa.Column("boot_id", sa.String(64), nullable=False),
        sa.Column("zero", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("boot_id", name="pk_clock"),
    )

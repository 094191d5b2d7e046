"""Jobs that a peer server may make, and the workers that hand them over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("may_hand_over", sa.Boolean, nullable=False, server_default=sa.false()))
    where = sa.text("status = 'queued' AND may_hand_over")
    op.create_index(
        "ix_jobs_may_hand_over",
        "jobs",
        ["key_id", "precedence", "number"],
        sqlite_where=where,
        postgresql_where=where,
    )
    op.add_column("workers", sa.Column("peer", sa.Text))

"""Jobs whose videos others may see."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("is_public", sa.Boolean, nullable=False, server_default=sa.false()))
    where = "status = 'succeeded' AND deleted_at IS NULL AND expired_at IS NULL"
    op.create_index(
        "ix_jobs_public",
        "jobs",
        ["is_public", "number"],
        sqlite_where=sa.text(f"is_public = 1 AND {where}"),
        postgresql_where=sa.text(f"is_public AND {where}"),
    )

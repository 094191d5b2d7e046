"""Files that are kept for a while only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_Instant = sa.DateTime(timezone=True)


def upgrade() -> None:
    for name in ("expires_at", "removal_tried_at", "expired_at"):
        op.add_column("jobs", sa.Column(name, _Instant))
    for name in ("expires_at", "removal_tried_at"):
        is_there = sa.text(f"{name} IS NOT NULL AND expired_at IS NULL")
        op.create_index(f"ix_jobs_{name}", "jobs", [name], sqlite_where=is_there, postgresql_where=is_there)

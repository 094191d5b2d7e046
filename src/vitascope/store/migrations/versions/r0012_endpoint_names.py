"""Endpoints of webhooks have names, and tell when they were last changed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("endpoints", sa.Column("name", sa.Text))
    op.add_column("endpoints", sa.Column("updated_at", sa.DateTime(timezone=True)))

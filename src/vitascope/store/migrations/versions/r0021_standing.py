"""For how long a running job stood still."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("stood_seconds", sa.Float, nullable=False, server_default="0"))

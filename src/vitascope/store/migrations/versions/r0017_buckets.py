"""Buckets that new videos go to, named while the server runs; what opens them is among the secrets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"

_Instant = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "buckets",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("bucket", sa.Text, nullable=False),
        sa.Column("prefix", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("path_style", sa.Boolean, nullable=False),
        sa.Column("access_key_id", sa.Text, nullable=False),
        sa.Column("public_url", sa.Text),
        sa.Column("is_in_use", sa.Boolean, nullable=False),
        sa.Column("changed_at", _Instant, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_buckets"),
    )
    is_in_use = sa.text("is_in_use")
    op.create_index(
        "uq_buckets_is_in_use",
        "buckets",
        ["is_in_use"],
        unique=True,
        sqlite_where=is_in_use,
        postgresql_where=is_in_use,
    )

"""Secrets that must be readable again, encrypted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_Instant = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("purpose", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary, nullable=False),
        sa.Column("created_at", _Instant, nullable=False),
        sa.Column("expires_at", _Instant),
        sa.PrimaryKeyConstraint("id", name="pk_secrets"),
    )
    is_current = sa.text("expires_at IS NULL")
    op.create_index(
        "uq_secrets_current",
        "secrets",
        ["purpose", "owner"],
        unique=True,
        sqlite_where=is_current,
        postgresql_where=is_current,
    )
    op.create_index("ix_secrets_purpose_owner", "secrets", ["purpose", "owner"])

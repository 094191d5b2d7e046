"""Files that clients upload, and those that batches write."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Instant = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("number", _BigId, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("num_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", _Instant, nullable=False),
        sa.Column("expires_at", _Instant),
        sa.Column("deleted_at", _Instant),
        sa.Column("removed_at", _Instant),
        sa.PrimaryKeyConstraint("number", name="pk_files"),
        sa.UniqueConstraint("id", name="uq_files_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_files_key_id_number", "files", ["key_id", "number"])
    for name, condition in (
        ("expires_at", "expires_at IS NOT NULL AND deleted_at IS NULL"),
        ("deleted_at", "deleted_at IS NOT NULL AND removed_at IS NULL"),
    ):
        where = sa.text(condition)
        op.create_index(f"ix_files_{name}", "files", [name], sqlite_where=where, postgresql_where=where)

"""API keys, what they may use, and the sizes of files."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Instant = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("num_bytes", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("ix_jobs_key_id_number", "jobs", ["key_id", "number"])
    op.create_table(
        "keys",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("last4", sa.String(4), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("max_running", sa.Integer),
        sa.Column("created_at", _Instant, nullable=False),
        sa.Column("expires_at", _Instant),
        sa.Column("revoked_at", _Instant),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("digest", name="uq_keys_digest"),
    )
    op.create_table(
        "rates",
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("minute", _BigId, nullable=False),
        sa.Column("num_requests", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("key_id", "minute", name="pk_rates"),
    )
    _measure_files(op.get_bind())


def _measure_files(connection: sa.Connection) -> None:
    """Fill in the sizes of files that are there."""
    names: list[sa.ColumnClause[Any]] = [sa.column(name) for name in ("number", "status", "num_bytes")]
    jobs = sa.table("jobs", *names, sa.column("video", sa.JSON))
    made = sa.select(jobs.c.number, jobs.c.video).where(jobs.c.status == "succeeded")
    for number, video in connection.execute(made).all():
        values = json.loads(video) if isinstance(video, str) else video
        update = sa.update(jobs).where(jobs.c.number == number)
        connection.execute(update.values(num_bytes=values["num_bytes"]))

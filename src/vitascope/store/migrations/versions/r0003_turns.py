"""Who goes next: keys, precedence, efforts, measured speeds; and requests that are carried out once."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Instant = sa.DateTime(timezone=True)


def upgrade() -> None:
    for column in (
        sa.Column("key_id", sa.String(64), nullable=False, server_default=""),
        sa.Column("precedence", sa.Integer, nullable=False, server_default="0"),
        sa.Column("work", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("num_steps", sa.Integer, nullable=False, server_default="0"),
        sa.Column("num_windows", sa.Integer, nullable=False, server_default="1"),
        sa.Column("total_work", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("claimed_at", _Instant),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("read_at", _Instant),
    ):
        op.add_column("jobs", column)
    op.add_column("workers", sa.Column("device", sa.String(255), nullable=False, server_default=""))
    op.create_index("ix_jobs_fingerprint", "jobs", ["fingerprint"])
    is_queued = sa.text("status = 'queued'")
    queued: dict[str, Any] = {"sqlite_where": is_queued, "postgresql_where": is_queued}
    op.create_index("ix_jobs_oldest_queued", "jobs", ["key_id", "precedence", "number"], **queued)
    op.create_index(
        "ix_jobs_shortest_queued", "jobs", ["key_id", "precedence", "total_work", "number"], **queued
    )
    op.create_table(
        "speeds",
        sa.Column("device", sa.String(255), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("work_class", sa.Integer, nullable=False),
        sa.Column("work", sa.BigInteger, nullable=False),
        sa.Column("step_seconds", sa.Float, nullable=False),
        sa.Column("other_seconds", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("device", "model", "work_class", name="pk_speeds"),
    )
    op.create_table(
        "shares",
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("served_seconds", sa.Float, nullable=False),
        sa.Column("at", _Instant, nullable=False),
        sa.PrimaryKeyConstraint("key_id", name="pk_shares"),
    )
    op.create_table(
        "idempotency",
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("job_number", _BigId, nullable=False),
        sa.Column("created_at", _Instant, nullable=False),
        sa.PrimaryKeyConstraint("key_id", "name", name="pk_idempotency"),
        sa.ForeignKeyConstraint(
            ["job_number"], ["jobs.number"], name="fk_idempotency_job_number", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_idempotency_created_at", "idempotency", ["created_at"])
    _weigh_what_waits(op.get_bind())


def _weigh_what_waits(connection: sa.Connection) -> None:
    """Fill in the efforts of jobs that have not ended, from their plans."""
    jobs = sa.table(
        "jobs",
        *(sa.column(name) for name in ("number", "status", "work", "num_steps", "num_windows", "total_work")),
        sa.column("plan", sa.JSON),
    )
    waiting = sa.select(jobs.c.number, jobs.c.plan).where(jobs.c.status.in_(["queued", "running"]))
    for number, plan in connection.execute(waiting).all():
        values = _effort(json.loads(plan) if isinstance(plan, str) else plan)
        connection.execute(sa.update(jobs).where(jobs.c.number == number).values(values))


def _effort(plan: dict[str, Any]) -> dict[str, int]:
    frames = [window["num_frames"] for window in plan["windows"]]
    passes = 2 if plan["guidance_scale"] > 1 else 1
    work = passes * plan["native_height"] * plan["native_width"] * max(frames)
    num_steps = plan["num_inference_steps"] * len(frames)
    return {
        "work": work,
        "num_steps": num_steps,
        "num_windows": len(frames),
        "total_work": work * num_steps,
    }

"""Several videos of one job, and the end users for whom jobs are made."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

ROWS_AT_ONCE = 1000


def upgrade() -> None:
    op.execute("ALTER TABLE jobs RENAME COLUMN video TO videos")
    wrapped = (
        "'[' || videos || ']'" if op.get_context().dialect.name == "sqlite" else "json_build_array(videos)"
    )
    op.execute(f"UPDATE jobs SET videos = {wrapped} WHERE videos IS NOT NULL")
    op.add_column("jobs", sa.Column("user", sa.String(255)))
    is_there = sa.text('"user" IS NOT NULL')
    op.create_index(
        "ix_jobs_user_number", "jobs", ["user", "number"], sqlite_where=is_there, postgresql_where=is_there
    )
    _name_users(op.get_bind())


def _name_users(connection: sa.Connection) -> None:
    """Copy the users out of the requests. Read here, because PostgreSQL's own functions refuse a NUL in them."""
    columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in ("number", "user")]
    jobs = sa.table("jobs", *columns, sa.column("request", sa.JSON))
    text = sa.cast(jobs.c.request, sa.Text)
    number = 0
    while rows := connection.execute(
        sa.select(jobs.c.number, text.label("request"))
        .where(jobs.c.number > number, text.like('%"user": "%'))
        .order_by(jobs.c.number)
        .limit(ROWS_AT_ONCE)
    ).all():
        for number, request in rows:
            user = json.loads(request).get("user")
            if isinstance(user, str):
                name = user.encode("utf-8", errors="replace").decode().replace("\0", "?")[:255]
                connection.execute(sa.update(jobs).where(jobs.c.number == number).values(user=name))

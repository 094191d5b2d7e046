"""A name for this database, drawn once."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    made = op.create_table(
        "deployment",
        sa.Column("id", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deployment"),
    )
    op.execute(sa.insert(made).values(id=secrets.token_hex(16)))

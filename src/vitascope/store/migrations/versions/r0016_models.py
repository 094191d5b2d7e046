"""What workers have the files of, and models that were added at run time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("workers", sa.Column("available", sa.JSON))
    op.create_table(
        "models",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("revision", sa.String(255)),
        sa.Column("card", sa.JSON),
        sa.Column("command_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ready_at", sa.DateTime(timezone=True)),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.Column("webhook", sa.JSON),
        sa.CheckConstraint("kind IN ('pipeline', 'vae', 'lora')", name="kind"),
        sa.CheckConstraint("(card IS NULL) = (ready_at IS NULL)", name="ready"),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
    )

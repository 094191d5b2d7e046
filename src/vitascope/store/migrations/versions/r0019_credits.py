"""Credits: what keys have, and the book in which they move."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

_Instant = sa.DateTime(timezone=True)
_BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_MOVES = "'grant', 'hold', 'settle', 'refund'"
_ACCOUNTS = "'key', 'held', 'spent', 'granted'"


def upgrade() -> None:
    for name in ("price", "charged"):
        op.add_column("jobs", sa.Column(name, sa.BigInteger))
    op.create_table(
        "balances",
        sa.Column("key_id", sa.String(64), nullable=False),
        *(
            sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
            for name in ("credits", "held", "spent", "granted")
        ),
        sa.Column("is_on", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.PrimaryKeyConstraint("key_id", name="pk_balances"),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name="fk_balances_key_id"),
        sa.CheckConstraint(
            "credits >= 0 AND held >= 0 AND spent >= 0", name=op.f("ck_balances_not_negative")
        ),
        sa.CheckConstraint("credits + held + spent = granted", name=op.f("ck_balances_balanced")),
    )
    op.create_table(
        "ledger",
        sa.Column("number", _BigId, autoincrement=True, nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("move", sa.String(16), nullable=False),
        sa.Column("account", sa.String(16), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("job_number", _BigId),
        sa.Column("output", sa.Integer),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("reference", sa.String(255)),
        sa.Column("created_at", _Instant, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_ledger"),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name="fk_ledger_key_id"),
        sa.ForeignKeyConstraint(["job_number"], ["jobs.number"], name="fk_ledger_job_number"),
        sa.UniqueConstraint("reference", name="uq_ledger_reference"),
        sa.CheckConstraint(f"move IN ({_MOVES})", name=op.f("ck_ledger_move")),
        sa.CheckConstraint(f"account IN ({_ACCOUNTS})", name=op.f("ck_ledger_account")),
        sqlite_autoincrement=True,
    )
    for move, columns in (
        ("settle", ["job_number", "account", "output"]),
        ("hold", ["job_number", "account"]),
        ("refund", ["job_number", "account"]),
    ):
        where = sa.text(f"move = '{move}'")
        name = f"uq_ledger_{move}"
        op.create_index(name, "ledger", columns, unique=True, sqlite_where=where, postgresql_where=where)
    op.create_index("ix_ledger_key_id_number", "ledger", ["key_id", "number"])

"""Alembic's entry point: runs migrations in the transaction that `upgrade` opened."""

from __future__ import annotations

from alembic import context

from vitascope.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most of a table: Alembic then copies it
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()

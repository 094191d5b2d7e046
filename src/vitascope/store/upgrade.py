"""Brings a database to the newest schema."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from vitascope.domain.errors import SettingsError

from .database import Database
from .tables import HEAD, alembic_version

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(database: Database) -> None:
    """Create or upgrade the schema; all of it or nothing. Processes that start together do it one after the other.

    Raises:
        SettingsError: the database is newer than this program, or cannot be written.
    """
    with database.upgrade_lock(), database.write() as connection:
        revision = current_revision(connection)
        if revision == HEAD:
            return
        # only now: importing Alembic takes longer than all the rest of opening a store
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if revision is not None and revision not in known:
            message = f"the database was written by a newer version of Vitascope (schema {revision}, known to {HEAD})"
            raise SettingsError(
                message, hint="upgrade Vitascope, or restore the backup from before its upgrade"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)


def current_revision(connection: sa.Connection) -> str | None:
    """Return the schema's revision; None for an empty database."""
    if not sa.inspect(connection).has_table(alembic_version.name):
        return None
    return connection.scalar(sa.select(alembic_version.c.version_num))

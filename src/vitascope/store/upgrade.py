"""Brings a database to the newest schema."""

from __future__ import annotations

import secrets
from pathlib import Path

import sqlalchemy as sa

from vitascope.domain.errors import SettingsError

from .database import Database
from .tables import HEAD, alembic_version, deployment, jobs, metadata

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
        if revision is None and not sa.inspect(connection).has_table(jobs.name):
            _create(connection)
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


def _create(connection: sa.Connection) -> None:
    """Make in an empty database at once what all migrations would, one after the other, in ten times the time."""
    metadata.create_all(connection, checkfirst=False)
    connection.execute(sa.insert(deployment).values(id=secrets.token_hex(16)))
    _stamps.create(connection)
    connection.execute(sa.insert(_stamps).values(version_num=HEAD))


#: As Alembic makes it.
_stamps = sa.Table(
    alembic_version.name, sa.MetaData(), sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name=f"{alembic_version.name}_pkc"),
)  # fmt: skip


def current_revision(connection: sa.Connection) -> str | None:
    """Return the schema's revision; None for an empty database."""
    if not sa.inspect(connection).has_table(alembic_version.name):
        return None
    return connection.scalar(sa.select(alembic_version.c.version_num))

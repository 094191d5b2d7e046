"""Opening a database of either kind: made, upgraded, refused; one process at a time."""

from __future__ import annotations

import secrets
import threading
import traceback
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from postgres import Server
from vitascope.domain.errors import SettingsError
from vitascope.store import Store, maintenance
from vitascope.store.database import connect
from vitascope.store.tables import HEAD, metadata
from vitascope.store.upgrade import MIGRATIONS


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    server: Server = request.getfixturevalue("postgres")
    return server.create_database()


@pytest.fixture
def other_url(url: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Another one of the same kind."""
    if url.startswith("sqlite"):
        return f"sqlite:///{tmp_path / 'other.db'}"
    server: Server = request.getfixturevalue("postgres")
    return server.create_database()


def config() -> Config:
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS))
    made.set_main_option("path_separator", "os")
    return made


def revisions() -> list[str]:
    """All revisions, the oldest first."""
    scripts = ScriptDirectory.from_config(config()).walk_revisions()
    return [script.revision for script in scripts][::-1]


def test_head_is_the_newest_migration() -> None:
    assert revisions()[-1] == HEAD


@pytest.mark.parametrize("start", [None, *revisions()])
def test_migrations_from_anywhere_make_the_tables_that_the_code_uses(url: str, start: str | None) -> None:
    with closing(connect(url)) as database:
        if start is not None:
            with database.upgrade_lock(), database.write() as connection:
                arguments = config()
                arguments.attributes["connection"] = connection
                command.upgrade(arguments, start)
            problem = f"the schema is {start}, and {HEAD} is needed: run `vitascope db upgrade`"
            assert maintenance.check(url).problems == (() if start == HEAD else (problem,))
        Store.open(url).close()
        with database.read() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
            made = {
                check["name"]
                for table in metadata.tables
                for check in sa.inspect(connection).get_check_constraints(table)
            }
    declared = {
        constraint.name
        for table in metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, sa.CheckConstraint)
    }
    assert made == declared


def test_a_new_database_is_what_the_migrations_make(url: str, other_url: str) -> None:
    """It is made at once; indexes with conditions and defaults of the database are nothing that Alembic compares."""
    found = []
    for address, is_migrated in ((url, False), (other_url, True)):
        with closing(connect(address)) as database:
            if is_migrated:
                with database.upgrade_lock(), database.write() as connection:
                    arguments = config()
                    arguments.attributes["connection"] = connection
                    command.upgrade(arguments, "head")
            Store.open(address).close()
            with database.read() as connection:
                found.append(_described(connection))
    made, migrated = found
    assert made == migrated


def _described(connection: sa.Connection) -> dict[str, object]:
    """Everything that a database tells of its tables, in no order."""
    inspector = sa.inspect(connection)
    described: dict[str, object] = {}
    for table in sorted(inspector.get_table_names()):
        described[table] = sorted(
            f"{column['name']} {column['type']!r} {column['nullable']} {column['default']}"
            for column in inspector.get_columns(table)
        ) + sorted(
            str(part)
            for part in (
                inspector.get_pk_constraint(table),
                *inspector.get_foreign_keys(table),
                *inspector.get_unique_constraints(table),
            )
        )
    if connection.dialect.name == "sqlite":
        indexes = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
    else:
        indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname"
    described["indexes"] = [
        (name, " ".join(sql.replace('"', "").split())) for name, sql in connection.execute(sa.text(indexes))
    ]
    described["deployments"] = connection.scalar(sa.text("SELECT COUNT(*) FROM deployment"))
    return described


def test_processes_that_start_together_upgrade_once(url: str) -> None:
    errors: list[BaseException] = []
    start = threading.Barrier(6)

    def open_one() -> None:
        start.wait()
        try:
            Store.open(url).close()
        except BaseException as error:  # noqa: BLE001  shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert maintenance.check(url).problems == ()


@pytest.mark.parametrize("missing", ["digest", "prefix", "created_at"])
def test_an_error_of_the_database_quotes_no_value(url: str, missing: str) -> None:
    """Such errors are logged with their causes, and prompts are stored like this name."""
    Store.open(url).close()
    marker = secrets.token_hex(16)
    values = {"id": "a", "digest": marker, "name": marker, "prefix": "", "last4": "", "scopes": [marker]}
    values |= {"limits": {}, "created_at": datetime.now(UTC), missing: None}
    with (
        closing(connect(url)) as database,
        pytest.raises(sa.exc.IntegrityError) as refused,
        database.write() as connection,
    ):
        connection.execute(sa.insert(metadata.tables["keys"]).values(values))
    told = "".join(traceback.format_exception(refused.value))
    assert "INSERT INTO keys" in told
    assert missing in told
    assert marker not in told


def test_a_newer_database_is_refused(url: str) -> None:
    Store.open(url).close()
    with closing(connect(url)) as database, database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SettingsError, match="newer version of Vitascope"):
        Store.open(url)

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


@pytest.mark.parametrize("start", [None, *revisions()[:-1]])
def test_migrations_from_anywhere_make_the_tables_that_the_code_uses(url: str, start: str | None) -> None:
    with closing(connect(url)) as database:
        if start is not None:
            with database.upgrade_lock(), database.write() as connection:
                arguments = config()
                arguments.attributes["connection"] = connection
                command.upgrade(arguments, start)
            assert maintenance.check(url).problems == (
                f"the schema is {start}, and {HEAD} is needed: run `vitascope db upgrade`",
            )
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

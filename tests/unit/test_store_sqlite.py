"""Opening a database: upgrades, refusals, and what is particular to SQLite."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from vitascope.domain.errors import SettingsError, StoreUnavailable
from vitascope.store import Store, sqlite
from vitascope.store.tables import HEAD, metadata
from vitascope.store.upgrade import MIGRATIONS


def opened(path: Path) -> Store:
    return Store.open(f"sqlite:///{path}")


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_migrations_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    store = opened(tmp_path / "jobs.db")
    with store._database.read() as connection:
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
    store.close()


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    opened(tmp_path / "jobs.db").close()
    before = (tmp_path / "jobs.db").read_bytes()
    opened(tmp_path / "jobs.db").close()
    assert (tmp_path / "jobs.db").read_bytes() == before


def test_processes_that_start_together_upgrade_once(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def open_one() -> None:
        try:
            opened(tmp_path / "jobs.db").close()
        except BaseException as error:  # noqa: BLE001  shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    opened(tmp_path / "jobs.db").close()
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(SettingsError, match="newer version of Vitascope"):
        opened(tmp_path / "jobs.db")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"not a database " * 1000)
    with pytest.raises(SettingsError, match="cannot be opened"):
        opened(tmp_path / "jobs.db")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("sqlite:///{folder}/missing/jobs.db", "does not exist"),
        ("sqlite:///{folder}", "is a folder"),
        ("sqlite:///{folder}/file/jobs.db", "does not exist"),
        ("mysql://u:secret@host/db", "not supported"),
        ("sqlite+aiosqlite:///x.db", "not supported"),
        ("no url, secret", "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_a_clear_settings_error(tmp_path: Path, url: str, words: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=words) as refused:
        Store.open(url.format(folder=tmp_path))
    assert "secret" not in refused.value.message


def test_a_folder_that_may_not_be_written_is_a_clear_settings_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fcntl.flock", refuse)  # whoever runs the tests may be allowed everything
    with pytest.raises(SettingsError, match="Permission denied"):
        opened(tmp_path / "jobs.db")


def test_connections_are_as_durable_as_they_say(tmp_path: Path) -> None:
    store = opened(tmp_path / "jobs.db")
    for open_one, synchronous in (
        (store._database.write, 2),
        (store._database.write_soon, 1),
    ):
        with open_one() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == synchronous
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    store.close()


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    store = opened(tmp_path / "jobs.db")
    with store._database.write():
        store.ping()
        assert store.page().jobs == ()
    store.close()


def test_a_database_that_does_not_answer_is_told_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.01)
    store = opened(tmp_path / "jobs.db")
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        store.worker_seen("w1")
    other.close()
    store.worker_seen("w1")
    store.close()

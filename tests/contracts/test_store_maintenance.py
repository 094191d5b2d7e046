"""Backup and check, and the commands for them."""

from __future__ import annotations

import json
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vitascope.cli import app
from vitascope.domain.errors import SettingsError, StorageError
from vitascope.domain.job import Job, JobError
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.store import Store, maintenance
from vitascope.store.tables import HEAD


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def create(small_spec: ModelSpec) -> Callable[[Store, str], Job]:
    request = GenerationRequest(prompt="a dog", model="small", seed=1)
    planned = plan(request, small_spec)
    return lambda store, job_id: store.create(job_id, request, planned, max_queued=10_000)


Create = Callable[[Store, str], Job]


class TestBackup:
    def test_a_backup_beside_writers_has_all_that_was_committed_before_it(
        self, url: str, tmp_path: Path, create: Create
    ) -> None:
        committed: list[str] = []
        stopping = threading.Event()

        def write() -> None:
            with closing(Store.open(url)) as store:
                while not stopping.is_set():
                    job_id = f"job{len(committed)}"
                    create(store, job_id)
                    committed.append(job_id)

        Store.open(url).close()
        thread = threading.Thread(target=write)
        thread.start()
        try:
            for number in range(3):
                acknowledged = len(committed)
                copy = tmp_path / f"copy{number}.db"
                maintenance.backup(url, copy)
                health = maintenance.check(f"sqlite:///{copy}")
                assert health.problems == ()
                assert health.counts["queued jobs"] >= acknowledged
                assert health.counts["queued jobs"] == health.counts["events"]
        finally:
            stopping.set()
            thread.join()

    def test_a_backup_is_one_private_file_that_can_be_opened(
        self, url: str, tmp_path: Path, create: Create
    ) -> None:
        with closing(Store.open(url)) as store:
            create(store, "a")
            (tmp_path / "backups").mkdir()
            maintenance.backup(url, tmp_path / "backups" / "copy.db")
        assert [path.name for path in (tmp_path / "backups").iterdir()] == ["copy.db"]
        assert stat.S_IMODE((tmp_path / "backups" / "copy.db").stat().st_mode) == 0o600
        with closing(Store.open(f"sqlite:///{tmp_path / 'backups' / 'copy.db'}")) as store:
            assert store.get("a").id == "a"

    def test_what_cannot_be_done_is_told_and_leaves_nothing(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="there is no database"):
            maintenance.backup(url, tmp_path / "copy.db")
        Store.open(url).close()
        (tmp_path / "taken.db").write_text("precious")
        with pytest.raises(SettingsError, match="exists already"):
            maintenance.backup(url, tmp_path / "taken.db")
        assert (tmp_path / "taken.db").read_text() == "precious"
        with pytest.raises(StorageError, match="cannot be written: No such file"):
            maintenance.backup(url, tmp_path / "missing" / "copy.db")
        (tmp_path / "jobs.db").write_bytes(b"not a database " * 1000)
        with pytest.raises(StorageError, match="cannot be made: file is not a database"):
            maintenance.backup(url, tmp_path / "copy.db")
        assert not (tmp_path / "copy.db").exists()
        assert list(tmp_path.glob("*.part")) == []

    def test_postgresql_is_left_to_its_own_tool(self, postgres_url: str, tmp_path: Path) -> None:
        with pytest.raises(SettingsError) as refused:
            maintenance.backup(postgres_url, tmp_path / "copy.db")
        assert refused.value.hint is not None
        assert "pg_dump" in refused.value.hint


class TestCheck:
    @pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
    def test_a_sound_database_is_counted(
        self, request: pytest.FixtureRequest, url: str, create: Create, kind: str
    ) -> None:
        if kind == "postgresql":
            url = request.getfixturevalue("postgres_url")
        with closing(Store.open(url)) as store:
            for job_id in "abc":
                create(store, job_id)
            lease = store.claim("w1", 60)
            assert lease is not None
            store.fail(lease, JobError("x", "y"))
            store.worker_seen("w1")
        health = maintenance.check(url)
        assert (health.revision, health.newest_revision, health.problems) == (HEAD, HEAD, ())
        assert {name: count for name, count in health.counts.items() if count} == {
            "queued jobs": 2,
            "failed jobs": 1,
            "events": 5,
            "workers": 1,
        }

    def test_a_check_makes_no_database(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="there is no database"):
            maintenance.check(url)
        assert list(tmp_path.glob("jobs.db*")) == []

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            ("UPDATE jobs SET last_event = 7", "history of job a does not end"),
            ("DELETE FROM events", "history of job a does not end"),
            ("DELETE FROM jobs", "belongs to nothing"),
            ("DROP TABLE alembic_version", "schema is missing"),
        ],
    )
    def test_what_does_not_fit_is_found(
        self, url: str, tmp_path: Path, create: Create, damage: str, words: str
    ) -> None:
        with closing(Store.open(url)) as store:
            create(store, "a")
        with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as connection:
            connection.execute(damage)
        assert words in " ".join(maintenance.check(url).problems)

    @pytest.mark.parametrize(("start", "words"), [(0, "not a database"), (4096, "")])
    def test_damage_of_the_file_is_found(
        self, url: str, tmp_path: Path, create: Create, start: int, words: str
    ) -> None:
        with closing(Store.open(url)) as store:
            create(store, "a")
        with (tmp_path / "jobs.db").open("r+b") as file:
            file.seek(start)
            file.write(b"\xff" * 4096)
        health = maintenance.check(url)
        assert health.problems
        assert words in health.problems[0]


class TestCommands:
    @pytest.fixture(autouse=True)
    def _home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VITASCOPE_HOME", str(tmp_path / "data"))
        monkeypatch.chdir(tmp_path)

    def db(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["db", *arguments])

    def test_upgrade_check_and_backup(self, tmp_path: Path) -> None:
        assert self.db("upgrade").exit_code == 0
        checked = self.db("check")
        assert (checked.exit_code, "no problems found" in checked.stdout) == (0, True)
        found = json.loads(self.db("check", "--json").stdout)
        assert (found["revision"], found["problems"], found["counts"]["workers"]) == (HEAD, [], 0)
        done = self.db("backup", "copy.db")
        assert (done.exit_code, done.stdout) == (0, "")
        assert maintenance.check(f"sqlite:///{tmp_path / 'copy.db'}").problems == ()
        assert isinstance(self.db("backup", "copy.db").exception, SettingsError)

    def test_a_check_that_finds_something_exits_1(self, tmp_path: Path) -> None:
        self.db("upgrade")
        with closing(sqlite3.connect(tmp_path / "data" / "vitascope.db", isolation_level=None)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '0001'")
        checked = self.db("check")
        assert checked.exit_code == 1
        assert "vitascope db upgrade" in " ".join(checked.stdout.split())

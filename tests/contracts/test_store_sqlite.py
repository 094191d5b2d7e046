"""What is particular to SQLite: the file, the disk it is on, and the clock of leases."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from vitascope.domain.errors import SettingsError, StoreUnavailable
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.store import Store, sqlite
from vitascope.store.clock import MachineClock
from vitascope.store.sqlite import SqliteDatabase


def opened(path: Path) -> Store:
    return Store.open(f"sqlite:///{path}")


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    opened(tmp_path / "jobs.db").close()
    before = (tmp_path / "jobs.db").read_bytes()
    opened(tmp_path / "jobs.db").close()
    assert (tmp_path / "jobs.db").read_bytes() == before


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
        ("postgresql+asyncpg://u:secret@host/db", "not supported"),
        ("postgresql://u:secret@host:port/db", "cannot be read"),
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


def mount_table(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system say that `folder` is on a file system of that kind."""
    place = str(folder).replace(" ", "\\040")
    table = folder.parent / "mountinfo"
    table.write_text(
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        f"36 22 0:32 / {place} rw,relatime - tmpfs none rw\n"
        f"37 22 0:33 / {place} rw,relatime shared:2 master:1 - {kind} server:/export rw\n"
        f"38 22 0:34 / {place}-other rw - ext4 /dev/vdb rw\n"
    )
    monkeypatch.setattr("vitascope.store.filesystem.MOUNT_TABLE", table)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    share = tmp_path / "a share"
    (share / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(share / "deep")
    mount_table(share, kind, monkeypatch)
    for folder in (share, share / "deep", tmp_path / "link"):
        with pytest.raises(SettingsError, match=f"network file system \\({kind}\\)"):
            opened(folder / "jobs.db")
        assert not (folder / "jobs.db").exists()
    (tmp_path / "a share-other").mkdir()
    opened(tmp_path / "a share-other" / "jobs.db").close()


@pytest.mark.parametrize("kind", ["ext4", "overlay", "tmpfs", "fuse.mergerfs", "9p"])
def test_a_file_system_of_this_machine_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "disk").mkdir()
    mount_table(tmp_path / "disk", kind, monkeypatch)
    opened(tmp_path / "disk" / "jobs.db").close()


def test_where_nobody_tells_the_file_system_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitascope.store.filesystem.MOUNT_TABLE", tmp_path / "missing")
    opened(tmp_path / "jobs.db").close()


class Machine:
    """A computer whose clocks a test turns."""

    def __init__(self) -> None:
        self.boot = "first"
        self.counter = 1000.0
        self.wall = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def process(self, path: Path) -> Store:
        """Open the store as a process that starts now."""
        opened(path).close()
        clock = MachineClock(lambda: self.boot, lambda: self.counter, lambda: self.wall)
        database = SqliteDatabase(sa.make_url(f"sqlite:///{path}"), clock)
        database.start_clock()
        return Store(database)

    def reboot(self) -> None:
        self.boot = "second"
        self.counter = 20.0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr("vitascope.store.clock.BOOT_ID", Path("/nonexistent"))  # of `Store.open`
    return made


def add_job(store: Store, small_spec: ModelSpec) -> None:
    request = GenerationRequest(prompt="a dog", model="small", seed=1)
    store.create("a", request, plan(request, small_spec), max_queued=10)


@pytest.mark.parametrize("hours", [-1, 1])
def test_setting_the_clock_moves_no_lease(
    tmp_path: Path, small_spec: ModelSpec, machine: Machine, hours: int
) -> None:
    early = machine.process(tmp_path / "jobs.db")
    add_job(early, small_spec)
    assert early.claim("w1", 15) is not None
    early.worker_seen("w1")
    machine.wall += timedelta(hours=hours)
    late = machine.process(tmp_path / "jobs.db")  # started when the clock was wrong already
    for store in (early, late):
        assert store.requeue_lapsed(3).num_jobs == 0
        assert store.live_workers(30) == 1
    machine.counter += 14
    assert late.requeue_lapsed(3).num_jobs == 0
    machine.counter += 2
    assert late.requeue_lapsed(3).num_jobs == 1
    machine.counter += 30
    assert late.live_workers(30) == 0
    early.close()
    late.close()


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_no_lease_outlives_a_boot_by_more_than_15_seconds(
    tmp_path: Path, small_spec: ModelSpec, machine: Machine, hours: int
) -> None:
    store = machine.process(tmp_path / "jobs.db")
    add_job(store, small_spec)
    assert store.claim("w1", 3600) is not None
    store.worker_seen("w1")
    store.close()
    machine.wall += timedelta(hours=hours)
    machine.reboot()
    store = machine.process(tmp_path / "jobs.db")
    assert store.live_workers(30) == 0
    machine.counter += 16
    assert store.requeue_lapsed(3).num_jobs == 1
    store.close()


def test_a_worker_keeps_its_job_should_the_boot_change_its_name(
    tmp_path: Path, small_spec: ModelSpec, machine: Machine
) -> None:
    worker = machine.process(tmp_path / "jobs.db")
    add_job(worker, small_spec)
    lease = worker.claim("w1", 15)
    assert lease is not None
    machine.boot = "another"
    other = machine.process(tmp_path / "jobs.db")
    for _ in range(10):
        machine.counter += 5
        worker.renew(lease, 15)
        assert other.requeue_lapsed(3).num_jobs == 0
        assert other.live_workers(30) == 1
    worker.close()
    other.close()


def test_a_machine_without_a_name_for_its_boot_goes_by_the_wall_clock(
    tmp_path: Path, small_spec: ModelSpec, machine: Machine
) -> None:
    opened(tmp_path / "jobs.db").close()
    database = SqliteDatabase(
        sa.make_url(f"sqlite:///{tmp_path / 'jobs.db'}"),
        MachineClock(lambda: None, wall=lambda: machine.wall),
    )
    database.start_clock()
    store = Store(database)
    add_job(store, small_spec)
    store.claim("w1", 15)
    assert store.requeue_lapsed(3).num_jobs == 0
    machine.wall += timedelta(seconds=16)
    assert store.requeue_lapsed(3).num_jobs == 1
    store.close()


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


def test_a_damaged_file_is_told_in_our_words(tmp_path: Path) -> None:
    store = opened(tmp_path / "jobs.db")
    store.close()
    with (tmp_path / "jobs.db").open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)
    with pytest.raises(StoreUnavailable, match="malformed"):
        store.page()
    store.close()

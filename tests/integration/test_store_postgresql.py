"""What is particular to PostgreSQL: a server that comes and goes, URLs, and the driver that may be missing."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa

from postgres import Server, running
from vitascope.domain.added import ModelKind
from vitascope.domain.errors import SettingsError, StoreUnavailable
from vitascope.domain.job import JobStatus
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.store import Store
from vitascope.store.postgresql import OURS, UPGRADE
from vitascope.store.tables import models
from waiting import eventually


def add_job(store: Store, spec: ModelSpec, job_id: str) -> None:
    request = GenerationRequest(prompt="a dog", model="small", seed=1)
    store.create(job_id, request, plan(request, spec), max_queued=1000)


def test_a_server_that_is_restarted_breaks_nothing(small_spec: ModelSpec) -> None:
    with running() as server:
        store = Store.open(server.create_database())
        for number in range(3):
            add_job(store, small_spec, f"job{number}")
            lease = store.claim("w1", 60)
            assert lease is not None
            store.report(lease, 50, "denoise")
            server.stop("immediate")
            for call in (store.ping, lambda lease=lease: store.renew(lease, 60)):
                with pytest.raises(StoreUnavailable):
                    call()
            server.start()
            store.ping()  # every connection of the pools was to the old server
            store.renew(lease, 60)
            store.report(lease, 60, "denoise")
            assert [event.percent for event in store.events(f"job{number}")] == [None, None, 50, 60]
            store.finish_cancelled(lease)
        assert store.queue_stats().total == {JobStatus.CANCELLED: 3}
        store.close()


def test_two_may_add_the_same_model_at_once(postgres_url: str) -> None:
    """The second one has found that there is none when the first one's commit makes it."""
    store = Store.open(postgres_url)

    def add(command_id: str) -> str:
        return store.add_model(command_id, "mine", ModelKind.PIPELINE, "hub:a/b", None, ["w"]).id

    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(postgres_url, autocommit=True) as other, ThreadPoolExecutor(1) as pool:
        with store._database.write() as connection:
            store._database.lock_queue(connection)
            at = sa.func.now()
            row = {"id": "mine", "kind": "pipeline", "source": "hub:a/b", "command_id": "a", "created_at": at}
            connection.execute(sa.insert(models).values(row))
            second = pool.submit(add, "b")
            eventually(lambda: other.execute(waits).fetchone() == (1,))
        assert second.result() == "b"
    assert [model.command_id for model in store.added_models()] == ["b"]
    store.close()


def test_a_server_that_goes_in_the_middle_of_a_transaction_takes_it_back(
    postgres_url: str, small_spec: ModelSpec
) -> None:
    store = Store.open(postgres_url)
    with pytest.raises(StoreUnavailable), store._database.write() as connection:
        connection.execute(sa.text("INSERT INTO workers VALUES ('w', now(), now())"))
        own = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [own])
        connection.execute(sa.text("SELECT 1"))
    assert store.live_workers(1000) == 0
    store.close()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_usual_url_is_accepted(postgres_url: str, scheme: str) -> None:
    store = Store.open(postgres_url.replace("postgresql", scheme, 1))
    store.ping()
    assert not store.has_quick_reads
    store.close()


def test_parameters_of_the_url_come_before_ours(postgres_url: str) -> None:
    url = f"{postgres_url}&application_name=mine&options=-cwork_mem%3D5MB"
    store = Store.open(url)
    with store._database.read() as connection:
        shown = [
            connection.execute(sa.text(f"SHOW {name}")).scalar_one()
            for name in ("application_name", "work_mem", "lock_timeout", "default_transaction_read_only")
        ]
    assert shown == ["mine", "5MB", "10s", "on"]
    store.close()


@pytest.mark.parametrize(
    ("database", "words"),
    [("missing?host={folder}", 'database "missing" does not exist'), ("x?host=/nonexistent", "No such file")],
)
def test_a_server_that_lets_nobody_in_is_told_at_the_start(
    postgres: Server, database: str, words: str
) -> None:
    with pytest.raises(StoreUnavailable, match=words) as refused:
        Store.open(f"postgresql://postgres:secret@/{database.format(folder=postgres.folder)}")
    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("parameter", "words"),
    [("frob=1", 'invalid connection option "frob"'), ("options=-csearch_path%3Dx", "no schema")],
)
def test_a_database_that_cannot_be_used_is_a_settings_error(
    postgres: Server, parameter: str, words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        Store.open(f"{postgres.create_database()}&{parameter}")


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsError, match="psycopg") as refused:
        Store.open("postgresql://u:secret@host/db")
    assert refused.value.hint is not None
    assert "vitascope[postgres]" in refused.value.hint


def test_who_opens_waits_for_an_upgrade_that_takes_long(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s, %s)", [OURS, UPGRADE])
        opened = threading.Event()

        def open_one() -> None:
            Store.open(postgres_url).close()
            opened.set()

        thread = threading.Thread(target=open_one)
        thread.start()
        waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while other.execute(waiting).fetchone() is None:
            assert not opened.is_set()
        other.execute("SELECT pg_advisory_unlock(%s, %s)", [OURS, UPGRADE])
        thread.join()
    assert opened.is_set()


def test_a_claim_skips_what_another_has_locked(postgres_url: str, small_spec: ModelSpec) -> None:
    store = Store.open(postgres_url)
    for job_id in ("a", "b"):
        add_job(store, small_spec, job_id)
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT 1 FROM jobs WHERE id = 'a' FOR UPDATE")
        lease = store.claim("w1", 15)
        assert lease is not None
        assert lease.job.id == "b"
        assert store.claim("w1", 15) is None
    assert store.claim("w1", 15) is not None
    store.close()

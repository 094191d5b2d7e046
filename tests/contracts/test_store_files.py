"""Files of clients, on every database: who sees them, how they go, and what a crash at each point leaves."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from vitascope.domain.access import Caller, KeyLimits, Scope
from vitascope.domain.errors import FileNotFound, InvalidParameter, StorageError, StorageLimitReached
from vitascope.domain.file import File
from vitascope.domain.job import Job
from vitascope.service import FileId, Files, Removal, Sent
from vitascope.service.files import FAILURES_AT_ONCE
from vitascope.storage import LocalStorage
from vitascope.store import Store
from vitascope.store.for_files import GRACE
from vitascope.worker import sweep
from vitascope.worker.sweep import Sweep

ME = Caller("me", frozenset({Scope.GENERATE}))


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "files")


@pytest.fixture
def files(store: Store, storage: LocalStorage, clock: Any) -> Files:
    return Files(store, storage, clock)


def add(files: Files, caller: Caller = ME, data: bytes = b"data", **more: Any) -> File:
    upload = files.prepare(data, more.pop("name", "a.png"), more.pop("purpose", "vision"), caller, **more)
    files.put(upload)
    return files.add(upload, caller)


def stored(storage: LocalStorage) -> set[str]:
    return {file.key for file in storage.files_in("files")}


def age(storage: LocalStorage) -> None:
    """Make all files old enough to be swept."""
    for file in storage.files_in("files"):
        at = datetime.now(UTC).timestamp() - 2 * sweep.LEAST_AGE_SECONDS
        os.utime(storage.path_for(file.key), (at, at))


def test_a_file_is_read_back_as_it_was_kept(files: Files, store: Store, clock: Any) -> None:
    made = add(files, name="ü\x00\ud800", expires_seconds=3600)
    assert made.name == "ü??"
    assert (made.num_bytes, made.created_at, made.expires_at) == (
        4,
        clock.now,
        clock.now + timedelta(hours=1),
    )
    assert files.get(made.id, ME) == made
    assert files.read(made) == b"data"
    for odd in ("a\x00", "\ud800", "x" * 100_000, ""):
        with pytest.raises(FileNotFound):
            store.file(odd)
        with pytest.raises(FileNotFound):
            store.delete_file(odd)
        with pytest.raises(InvalidParameter):
            store.file_page(after=odd)


def test_anothers_file_is_an_unknown_one(files: Files) -> None:
    made = add(files)
    other = Caller("other", frozenset({Scope.GENERATE}))
    for call in (files.get, files.delete):
        with pytest.raises(FileNotFound):
            call(made.id, other)
    assert files.page(other).files == ()
    with pytest.raises(InvalidParameter):
        files.page(other, after=made.id)
    assert files.get(made.id, Caller("op", frozenset(Scope))) == made


def test_a_file_that_goes_while_it_is_looked_up_is_an_unknown_one(
    files: Files, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, lost = add(files), add(files)
    real = storage.open

    def late(key: str) -> Any:
        if key == made.key:
            files.remove(files.delete(made.id, ME))  # its client, at this very moment
        return real(key)

    monkeypatch.setattr(storage, "open", late)
    with pytest.raises(InvalidParameter, match="no file has this id"):
        files.looked_up(Sent(image=FileId(made.id, "it")), ME)
    storage.delete(lost.key)
    with pytest.raises(StorageError):  # that is not the client's doing
        files.looked_up(Sent(image=FileId(lost.id, "it")), ME)


def test_of_many_at_once_only_as_many_as_fit_are_kept(
    open_store: Callable[[], Store], storage: LocalStorage, clock: Any
) -> None:
    caller = Caller("me", frozenset({Scope.GENERATE}), KeyLimits(max_storage_bytes=50))
    kept: list[File] = []
    refused: list[StorageLimitReached] = []

    def upload(store: Store) -> None:
        try:
            kept.append(add(Files(store, storage, clock), caller, b"x" * 10))
        except StorageLimitReached as error:
            refused.append(error)

    threads = [threading.Thread(target=upload, args=(open_store(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(kept), len(refused)) == (5, 3)


class TestGoing:
    def test_a_deleted_file_is_removed_whoever_was_killed(
        self, files: Files, store: Store, storage: LocalStorage, clock: Any
    ) -> None:
        made = add(files)
        key = files.delete(made.id, ME)  # killed here: it is in the storage still
        assert stored(storage) == {key}
        with pytest.raises(FileNotFound):
            files.get(made.id, ME)
        assert not Removal(store, storage).advance()
        assert stored(storage) == {key}, "somebody may be reading it"
        clock.advance(GRACE.total_seconds())
        Removal(store, storage).advance()
        assert stored(storage) == set()
        assert store.files_to_remove(10) == {}

    def test_a_file_goes_when_its_time_is_over(
        self, files: Files, store: Store, storage: LocalStorage, clock: Any
    ) -> None:
        made, lasting = add(files, expires_seconds=3600), add(files)
        clock.advance(3599)
        assert files.get(made.id, ME)
        assert store.files_to_remove(10) == {}
        clock.advance(1)
        with pytest.raises(FileNotFound):
            files.get(made.id, ME)
        assert [file.id for file in files.page(ME).files] == [lasting.id]
        removal = Removal(store, storage)
        removal.advance()
        clock.advance(-1800)  # the clock is set back: it stays gone
        with pytest.raises(FileNotFound):
            files.get(made.id, ME)
        clock.advance(1800 + GRACE.total_seconds())
        removal.advance()
        assert stored(storage) == {lasting.key}

    @pytest.mark.parametrize("point", ["before", "between", "after"])
    def test_a_removal_that_was_killed_is_done_again(
        self, files: Files, store: Store, storage: LocalStorage, clock: Any, point: str
    ) -> None:
        keys = {files.delete(add(files).id, ME) for _ in range(3)}
        clock.advance(GRACE.total_seconds())

        class Killed(Exception):
            pass

        class Dying:
            def __init__(self) -> None:
                self.num_deleted = 0

            def delete(self, key: str) -> None:
                if point == "before" or (point == "between" and self.num_deleted == 1):
                    raise Killed
                storage.delete(key)
                self.num_deleted += 1

            def files_to_remove(self, max_files: int) -> Any:
                return store.files_to_remove(max_files)

            def files_removed(self, file_ids: Any) -> None:
                raise Killed

        dying = Dying()
        with pytest.raises(Killed):
            Removal(dying, dying).advance()
        assert len(stored(storage)) == {"before": 3, "between": 2, "after": 0}[point]
        assert set(store.files_to_remove(10).values()) == keys
        Removal(store, storage).advance()
        assert stored(storage) == set()
        assert store.files_to_remove(10) == {}

    def test_a_storage_that_is_away_is_asked_again(
        self, files: Files, store: Store, storage: LocalStorage, clock: Any
    ) -> None:
        files.delete(add(files).id, ME)
        clock.advance(GRACE.total_seconds())

        class Away:
            def delete(self, key: str) -> None:
                raise StorageError("it is away")

        assert not Removal(store, Away()).advance()
        Removal(store, storage).advance()
        assert stored(storage) == set()

    def test_one_that_can_never_be_deleted_does_not_keep_the_others(
        self, files: Files, store: Store, storage: LocalStorage, clock: Any
    ) -> None:
        stuck = {files.delete(add(files).id, ME) for _ in range(FAILURES_AT_ONCE + 1)}
        clock.advance(1)
        going = {files.delete(add(files).id, ME) for _ in range(2)}
        clock.advance(GRACE.total_seconds())

        class Stubborn:
            def delete(self, key: str) -> None:
                if key in stuck:
                    raise StorageError("not this one")
                storage.delete(key)

        removal = Removal(store, Stubborn())
        removal.advance()
        assert stored(storage) == stuck | going, "it looks as if the storage were away"
        for _ in range(2):
            removal.advance()
        assert stored(storage) == stuck

    def test_many_go_without_a_pause(
        self, files: Files, store: Store, storage: LocalStorage, clock: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vitascope.service.files.REMOVED_AT_ONCE", 2)
        for _ in range(3):
            files.delete(add(files).id, ME)
        clock.advance(GRACE.total_seconds())
        removal = Removal(store, storage)
        assert (removal.advance(), removal.advance()) == (True, False)
        assert stored(storage) == set()


class TestSweep:
    def test_an_upload_that_was_cut_is_swept_and_no_other(
        self, files: Files, store: Store, storage: LocalStorage, create: Callable[..., Job]
    ) -> None:
        kept = add(files)
        cut = files.prepare(b"data", "a", "vision", ME)
        files.put(cut)  # killed here
        deleted = files.delete(add(files).id, ME)
        Sweep(store, storage).advance()
        assert stored(storage) == {kept.key, cut.file.key, deleted}, "they are young"
        age(storage)
        Sweep(store, storage).advance()
        assert stored(storage) == {kept.key}

    def test_files_older_than_all_rows_are_another_databases(self, files: Files, store: Store) -> None:
        old, new = "files/" + "0" * 26, "files/7" + "z" * 25
        assert store.unowned([old, new]) == set(), "without any row nothing is known"
        made = add(files)
        assert store.unowned([old, new, made.key, f"{made.key}.12ab.part"]) == {new, f"{made.key}.12ab.part"}

    def test_files_and_jobs_do_not_answer_for_each_other(
        self, files: Files, store: Store, create: Callable[..., Job]
    ) -> None:
        made, job = add(files), create("7" + "a" * 25)
        assert store.unowned([f"videos/{made.id}.mp4", f"files/{job.id}"]) >= {f"files/{job.id}"}
        assert store.unowned([made.key, f"inputs/{job.id}.png"]) == set()

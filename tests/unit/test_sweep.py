"""Which files a sweep removes, and how much it does at once."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pytest

from vitascope.domain.errors import StorageError, StoreUnavailable
from vitascope.storage import LocalStorage, StoredFile
from vitascope.worker import sweep
from vitascope.worker.sweep import Sweep


class Owners:
    """Needs the files whose names begin with "owned"; notes how often it is asked, and for how many."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.is_away = False

    name = "one"

    def deployment_id(self) -> str:
        return self.name

    def unowned(self, keys: Collection[str]) -> set[str]:
        if self.is_away:
            raise StoreUnavailable
        self.asked.append(len(keys))
        return {key for key in keys if "/owned" not in key}


@pytest.fixture
def files(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "files")


def put(files: LocalStorage, *keys: str, age_seconds: float = 2 * sweep.LEAST_AGE_SECONDS) -> None:
    for key in keys:
        files.put_bytes(b"content", key)
        written_at = datetime.now(UTC).timestamp() - age_seconds
        os.utime(files.path_for(key), (written_at, written_at))


def kept(files: LocalStorage) -> set[str]:
    return {file.key for folder in (*sweep.FOLDERS, "others") for file in files.files_in(folder)}


def test_only_old_files_that_no_job_needs_go(files: LocalStorage) -> None:
    put(files, "inputs/owned.png", "inputs/orphan.png", "videos/owned.1.mp4", "videos/orphan.1.mp4")
    put(files, "inputs/fresh.png", age_seconds=sweep.LEAST_AGE_SECONDS - 60)
    put(files, "others/orphan.bin")
    Sweep(Owners(), files).advance()
    assert kept(files) == {"inputs/owned.png", "videos/owned.1.mp4", "inputs/fresh.png", "others/orphan.bin"}


def test_files_of_another_database_stay(files: LocalStorage, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Owners(), Owners()
    second.name = "two"
    Sweep(first, files).advance()
    put(files, "videos/orphan.1.mp4")
    Sweep(second, files).advance()
    assert kept(files) == {"videos/orphan.1.mp4"}
    assert second.asked == []
    assert "files of another database" in caplog.text
    Sweep(first, files).advance()
    assert kept(files) == set()


def test_a_pass_goes_in_pieces(files: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "FILES_AT_ONCE", 10)
    put(files, *(f"videos/orphan{number}.mp4" for number in range(25)))
    owners = Owners()
    swept = Sweep(owners, files)
    for left in (15, 5, 0):
        swept.advance()
        assert len(kept(files)) == left
    put(files, "videos/orphan.mp4")
    swept.advance()
    assert owners.asked == [10, 10, 5], "one pass, and the next one is not due"


def test_another_pass_comes_later(files: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "PASS_SECONDS", 0.0)
    swept = Sweep(Owners(), files)
    for _ in range(2):
        put(files, "videos/orphan.mp4")
        swept.advance()
        assert kept(files) == set()


def test_two_workers_may_sweep_at_once(files: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "FILES_AT_ONCE", 10)
    put(files, *(f"videos/orphan{number}.mp4" for number in range(25)), "videos/owned.mp4")
    both = [Sweep(Owners(), files) for _ in range(2)]
    for _ in range(4):
        for one in both:
            one.advance()
    assert kept(files) == {"videos/owned.mp4"}


def test_without_the_store_nothing_goes(files: LocalStorage) -> None:
    put(files, "videos/orphan.mp4")
    owners = Owners()
    owners.is_away = True
    with pytest.raises(StoreUnavailable):
        Sweep(owners, files).advance()
    assert kept(files) == {"videos/orphan.mp4"}


def test_a_storage_that_cannot_be_read_stops_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def open(self, key: str) -> BinaryIO:
            raise StorageError

        def put_bytes(self, data: bytes, key: str) -> None:
            pass

        def files_in(self, folder: str) -> Iterator[StoredFile]:
            raise StorageError("the file `videos` could not be reached")
            yield

        def delete(self, key: str) -> None:
            raise AssertionError

    Sweep(Owners(), Broken()).advance()
    assert "could not be reached" in caplog.text

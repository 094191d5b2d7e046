"""How much room is left, and how often the disk is asked."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from vitascope.storage import Space, space


class Usage(NamedTuple):
    total: int
    used: int
    free: int


class Disk:
    """Stands for the system's: some free bytes by folder, and a clock."""

    def __init__(self) -> None:
        self.free: dict[Path, int | OSError] = {}
        self.asked: list[Path] = []
        self.now = 0.0

    def usage(self, path: Path) -> Usage:
        self.asked.append(path)
        free = self.free.get(path, FileNotFoundError())
        if isinstance(free, OSError):
            raise free
        return Usage(1000, 1000 - free, free)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(shutil, "disk_usage", disk.usage)
    return disk


def spaced(disk: Disk, *folders: str) -> Space:
    return Space([Path(folder) for folder in folders], 100, clock=lambda: disk.now)


def test_the_fullest_disk_counts(disk: Disk) -> None:
    disk.free = {Path("/a"): 100, Path("/b"): 99}
    assert not spaced(disk, "/a").is_low
    both = spaced(disk, "/a", "/b")
    assert (both.free_bytes, both.is_low) == (99, True)


def test_a_folder_that_is_not_there_yet_is_where_it_will_be(disk: Disk) -> None:
    disk.free = {Path("/a"): 7}
    assert spaced(disk, "/a/b/c").free_bytes == 7


def test_a_look_is_good_for_some_seconds(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    disk.free = {Path("/a"): 1}
    room = spaced(disk, "/a")
    with caplog.at_level(logging.INFO):
        assert [room.is_low for _ in range(1000)] == [True] * 1000
        assert len(disk.asked) == 1
        disk.free = {Path("/a"): 1000}
        disk.now += space.LOOK_SECONDS / 2
        assert room.is_low
        disk.now += space.LOOK_SECONDS / 2
        assert not room.is_low
    assert [record.message for record in caplog.records] == [
        "too little disk space is left: no new jobs are taken",
        "there is enough disk space again",
    ]


@pytest.mark.parametrize("error", [PermissionError(), OSError(5, "Input/output error")])
def test_a_disk_that_does_not_tell_refuses_nothing(disk: Disk, error: Any) -> None:
    disk.free = {Path("/a"): error}
    room = spaced(disk, "/a")
    assert (room.free_bytes, room.is_low) == (None, False)


def test_a_real_disk(tmp_path: Path) -> None:
    assert Space([tmp_path / "new"], 0).free_bytes
    assert not Space([tmp_path], 0).is_low
    assert Space([tmp_path], 2**62).is_low

"""A file that was put is there, whole, until it is deleted."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vitascope.domain.errors import StorageError
from vitascope.storage import LocalStorage, Storage, check_key

KEY = "videos/3f/video_3f.mp4"


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "files")


def made(tmp_path: Path, content: bytes = b"frames") -> Path:
    path = tmp_path / "made.mp4"
    path.write_bytes(content)
    return path


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_it_is_a_storage(storage: LocalStorage) -> None:
    accepted: Storage = storage
    assert accepted is storage


def test_put_takes_the_file_over(storage: LocalStorage, tmp_path: Path) -> None:
    path = made(tmp_path)
    storage.put(path, KEY)
    assert not path.exists()
    with storage.open(KEY) as file:
        assert file.read() == b"frames"
        file.seek(2)
        assert file.read() == b"ames"
    assert storage.path_for(KEY).read_bytes() == b"frames"
    assert storage.url_for(KEY, expires_seconds=60) is None


def test_put_again_replaces(storage: LocalStorage, tmp_path: Path) -> None:
    storage.put(made(tmp_path, b"first"), KEY)
    storage.put(made(tmp_path, b"second"), KEY)
    assert storage.path_for(KEY).read_bytes() == b"second"


def test_put_bytes_keeps_bytes(storage: LocalStorage, tmp_path: Path) -> None:
    storage.put_bytes(b"picture", "inputs/a.png")
    storage.put_bytes(b"another", "inputs/a.png")
    assert storage.path_for("inputs/a.png").read_bytes() == b"another"
    assert names(tmp_path) == ["files/inputs/a.png"]


def test_put_flushes_the_file_and_every_new_name(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []

    def record(descriptor: int) -> None:
        flushed.append(os.path.relpath(Path(f"/proc/self/fd/{descriptor}").readlink(), tmp_path))

    monkeypatch.setattr(os, "fsync", record)
    storage.put(made(tmp_path), KEY)
    assert flushed == [".", "files", "files/videos", "made.mp4", "files/videos/3f"]


def test_put_works_across_file_systems(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path)
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self == path:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    storage.put(path, KEY)
    assert names(tmp_path) == [f"files/{KEY}"]
    assert storage.path_for(KEY).read_bytes() == b"frames"


def test_a_failed_copy_leaves_the_original_and_no_half(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="disk is full"):
        storage.put(path, KEY)
    with pytest.raises(StorageError, match="disk is full"):
        storage.put_bytes(b"picture", "inputs/a.png")
    assert names(tmp_path) == ["made.mp4"]


def test_missing_files_are_said_without_paths(storage: LocalStorage, tmp_path: Path) -> None:
    for action in (storage.open, storage.path_for, lambda key: storage.put(tmp_path / "no", key)):
        with pytest.raises(StorageError, match=r"no file `videos/3f/video_3f\.mp4`") as caught:
            action(KEY)
        assert str(tmp_path) not in caught.value.message


def test_delete_twice_is_delete(storage: LocalStorage, tmp_path: Path) -> None:
    storage.delete(KEY)
    storage.put(made(tmp_path), KEY)
    storage.delete(KEY)
    storage.delete(KEY)
    with pytest.raises(StorageError):
        storage.path_for(KEY)


def test_files_are_listed_with_their_age(storage: LocalStorage, tmp_path: Path) -> None:
    assert list(storage.files_in("videos")) == []
    keys = {"videos/a.1.mp4", KEY, "videos/3f/4a/b.gif"}
    for key in (*keys, "inputs/a.png"):
        storage.put_bytes(b"content", key)
    os.utime(storage.path_for("videos/a.1.mp4"), (0, datetime.now(UTC).timestamp() - 7200))
    ages = {file.key: file.age_seconds for file in storage.files_in("videos")}
    assert set(ages) == keys
    assert 7200 <= ages.pop("videos/a.1.mp4") < 7300
    assert all(-1 < age < 100 for age in ages.values())
    assert {file.key for file in storage.files_in("inputs")} == {"inputs/a.png"}


def test_files_that_are_deleted_while_they_are_listed_do_no_harm(storage: LocalStorage) -> None:
    keys = [f"videos/{number}.mp4" for number in range(10)]
    for key in keys:
        storage.put_bytes(b"content", key)
    listing = storage.files_in("videos")
    listed = [next(listing).key]
    for key in keys:
        storage.delete(key)
    assert [*listed, *(file.key for file in listing)] == listed


def test_what_is_no_key_is_not_listed(storage: LocalStorage, tmp_path: Path) -> None:
    storage.put_bytes(b"content", "videos/a.mp4")
    for name in ("Notes.txt", ".hidden"):
        (tmp_path / "files" / "videos" / name).touch()
    assert [file.key for file in storage.files_in("videos")] == ["videos/a.mp4"]


def test_an_interrupted_put_leaves_what_can_be_listed_and_deleted(
    storage: LocalStorage, tmp_path: Path
) -> None:
    program = (
        "import os, sys; from pathlib import Path; from vitascope.storage import LocalStorage;"
        "Path.replace = lambda *_: os._exit(9);"
        "LocalStorage(Path(sys.argv[1])).put_bytes(b'picture', 'inputs/a.png')"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "files"], check=False)
    assert done.returncode == 9
    (left,) = storage.files_in("inputs")
    assert left.key.startswith("inputs/a.png.")
    storage.delete(left.key)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../a", "a/../b", "a/..", "a//b", "a/", ".hidden", "a/.part", "a\\b", "A", "é", "a b",
     "a\0b", "a\n", "~", "x" * 201],
)  # fmt: skip
def test_other_names_are_not_keys(storage: LocalStorage, tmp_path: Path, key: str) -> None:
    for action in (
        storage.open,
        storage.path_for,
        storage.delete,
        lambda key: storage.put(made(tmp_path), key),
    ):
        with pytest.raises(StorageError, match="not a storage key"):
            action(key)
    assert names(tmp_path) == ["made.mp4"]


@pytest.mark.parametrize("key", ["a", "a.mp4", KEY, "inputs/2026-11/in_put-1.tar.gz", "a..b"])
def test_our_own_names_are_keys(key: str) -> None:
    assert check_key(key) == key

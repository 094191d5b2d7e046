"""Characters, on every database: whose they are, how many there may be, and that what a crash leaves is swept."""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitascope.domain.access import Caller, KeyLimits, Scope
from vitascope.domain.character import Character
from vitascope.domain.errors import CharacterNotFound, InvalidParameter, StorageLimitReached
from vitascope.service import Characters
from vitascope.storage import LocalStorage
from vitascope.store import Store, for_characters
from vitascope.worker import sweep
from vitascope.worker.sweep import Sweep

ME, OTHER = (Caller(name, frozenset({Scope.GENERATE})) for name in ("me", "other"))
OPERATOR = Caller("root", frozenset({Scope.ADMIN}))


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "files")


@pytest.fixture
def characters(store: Store, storage: LocalStorage, clock: Any) -> Characters:
    return Characters(store, storage, clock)


def picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(content, "PNG")
    return content.getvalue()


def keep(characters: Characters, caller: Caller = ME, name: str = "Rex") -> Character:
    new = characters.prepare(name, picture(), caller)
    characters.put(new)
    return characters.add(new, caller)


def stored(storage: LocalStorage) -> set[str]:
    return {file.key for file in storage.files_in("characters")}


def swept(store: Store, storage: LocalStorage) -> set[str]:
    """Let all pictures be old, sweep, and tell what is left."""
    for file in storage.files_in("characters"):
        at = datetime.now(UTC).timestamp() - 2 * sweep.LEAST_AGE_SECONDS
        os.utime(storage.path_for(file.key), (at, at))
    Sweep(store, storage).advance()
    return stored(storage)


def test_a_character_is_its_keys_own(characters: Characters, storage: LocalStorage, clock: Any) -> None:
    made = keep(characters, name="R\x00x")
    assert (made.name, made.created_at, made.key_id) == ("R?x", clock.now, "me")
    assert characters.get(made.id, ME) == characters.get(made.id, OPERATOR) == made
    for stranger in (lambda: characters.get(made.id, OTHER), lambda: characters.delete(made.id, OTHER)):
        with pytest.raises(CharacterNotFound):
            stranger()
    for unknown in ("0" * 26, "nonsense", "", "\x00", "\ud800"):
        with pytest.raises(CharacterNotFound):
            characters.get(unknown, ME)
    characters.remove(characters.delete(made.id, ME))
    assert stored(storage) == set()
    for gone in (lambda: characters.get(made.id, ME), lambda: characters.delete(made.id, ME)):
        with pytest.raises(CharacterNotFound):
            gone()


def test_there_may_be_so_many_and_so_large(
    characters: Characters, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(for_characters, "MAX_CHARACTERS", 2)
    first = keep(characters)
    keep(characters)
    keep(characters, OTHER)
    with pytest.raises(InvalidParameter, match="may have 2 characters"):
        keep(characters)
    characters.delete(first.id, ME)
    small = Caller("me", ME.scopes, limits=KeyLimits(max_storage_bytes=2 * first.num_bytes - 1))
    with pytest.raises(StorageLimitReached):
        keep(characters, small)
    keep(characters, Caller("me", ME.scopes, limits=KeyLimits(max_storage_bytes=2 * first.num_bytes)))
    store.check_file_room("me", 2 * first.num_bytes + 1, 1)
    with pytest.raises(StorageLimitReached):  # what characters take is not there for files
        store.check_file_room("me", 2 * first.num_bytes, 1)


def test_pictures_without_a_row_are_swept_and_no_others(
    characters: Characters, store: Store, storage: LocalStorage
) -> None:
    kept = keep(characters)
    cut_off = characters.prepare("cut off before its row", picture(), ME)
    characters.put(cut_off)
    forgotten = keep(characters)
    characters.delete(forgotten.id, ME)
    assert stored(storage) == {kept.key, cut_off.character.key, forgotten.key}
    assert swept(store, storage) == {kept.key}
    assert characters.get(kept.id, ME) == kept


def test_another_databases_pictures_are_left_alone(
    characters: Characters, store: Store, storage: LocalStorage
) -> None:
    older = f"characters/{'0' * 26}.png"
    storage.put_bytes(picture(), older)
    kept = keep(characters)
    assert swept(store, storage) == {older, kept.key}

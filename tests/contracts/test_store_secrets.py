"""Secrets at rest, on both databases: made once, replaced with an overlap, unreadable without their key."""

from __future__ import annotations

import itertools
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from vitascope.domain.access import ApiKey, Scope
from vitascope.domain.errors import KeyNotFound, SecretUnreadable, SettingsError
from vitascope.store import Cipher, Store, maintenance
from vitascope.store.database import connect

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
Open = Callable[..., Store]


@pytest.fixture
def opened(url: str, clock: Any) -> Iterator[Open]:
    """Opens the database as a machine with these keys does."""
    stores: list[Store] = []

    def open_with(*keys: bytes, file: Path | None = None) -> Store:
        stores.append(Store.open(url, clock, cipher=Cipher(keys, file)))
        return stores[-1]

    yield open_with
    for store in stores:
        store.close()


def add_keys(store: Store, *ids: str) -> None:
    for key_id in ids:
        made = datetime(2026, 1, 1, tzinfo=UTC)
        key = ApiKey(
            id=key_id, name="x", prefix="vsk_", last4="last", scopes=frozenset({Scope.READ}), created_at=made
        )
        store.add_key(key, key_id)


def values(store: Store, key_id: str = "a") -> list[str]:
    return [secret.value for secret in store.webhook_secrets(key_id, lambda: f"whsec_of_{key_id}")]


def change(url: str, sql: str, **parameters: Any) -> None:
    database = connect(url)
    with database.write() as connection:
        connection.execute(sa.text(sql), parameters)
    database.close()


def stored(url: str) -> list[Any]:
    database = connect(url)
    with database.read() as connection:
        rows = list(connection.execute(sa.text("SELECT * FROM secrets ORDER BY created_at, id")).all())
    database.close()
    return rows


def test_a_secret_is_made_once_and_is_not_in_the_database(opened: Open, url: str) -> None:
    first, second = opened(OLD), opened(OLD)
    add_keys(first, "a", "b")
    assert values(first) == ["whsec_of_a"]
    assert [one.value for one in second.webhook_secrets("a", lambda: "another")] == ["whsec_of_a"]
    assert values(second, "b") == ["whsec_of_b"]
    rows = stored(url)
    assert len(rows) == 3, "two secrets, and the row that tells whether a key is the right one"
    assert not any(b"whsec" in bytes(row.ciphertext) for row in rows)
    assert "whsec" not in repr(rows)


def test_processes_that_look_together_find_one_secret(opened: Open, url: str, tmp_path: Path) -> None:
    stores = [opened(file=tmp_path / "secrets.key") for _ in range(6)]
    add_keys(stores[0], "a")
    numbers, start = itertools.count(), threading.Barrier(len(stores))
    found: list[str] = []

    def look(store: Store) -> None:
        start.wait()
        found.extend(one.value for one in store.webhook_secrets("a", lambda: f"secret {next(numbers)}"))

    threads = [threading.Thread(target=look, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert len(stored(url)) == 2
    assert stat.S_IMODE((tmp_path / "secrets.key").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.glob("*secrets.key*")) == ["secrets.key"]


def test_two_are_good_while_one_replaces_the_other(opened: Open, clock: Any, url: str) -> None:
    store = opened(OLD)
    add_keys(store, "a")
    assert [one.expires_at for one in store.webhook_secrets("a", lambda: "1")] == [None]
    replaced = store.replace_webhook_secret("a", "2")
    assert [(one.value, one.expires_at) for one in replaced] == [
        ("2", None),
        ("1", clock.now + timedelta(hours=24)),
    ]
    clock.advance(24 * 3600 - 1)
    assert values(store) == ["2", "1"]
    clock.advance(1)
    assert values(store) == ["2"]
    store.replace_webhook_secret("a", "3")
    assert [one.value for one in store.replace_webhook_secret("a", "4")] == ["4", "3"], "never three"
    assert len(stored(url)) == 3


def test_rotations_at_once_leave_one_current_secret(opened: Open, url: str) -> None:
    stores = [opened(OLD) for _ in range(4)]
    add_keys(stores[0], "a")
    threads = [
        threading.Thread(target=store.replace_webhook_secret, args=("a", str(number)))
        for number, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(values(stores[0])) == 2
    assert len(stored(url)) == 3


def test_a_revoked_key_has_no_secret_and_gets_none(opened: Open, url: str) -> None:
    store = opened(OLD)
    add_keys(store, "a", "b")
    store.replace_webhook_secret("a", "1")
    store.replace_webhook_secret("a", "2")
    values(store, "b")
    store.revoke_key("a")
    assert len(stored(url)) == 2, "those of the other key stay"
    for key_id in ("a", "unknown"):
        with pytest.raises(KeyNotFound):
            values(store, key_id)
        with pytest.raises(KeyNotFound):
            store.replace_webhook_secret(key_id, "3")


def test_a_machine_with_another_key_is_told_what_to_do(opened: Open, url: str, tmp_path: Path) -> None:
    opened(OLD).check_key()
    add_keys(other := opened(NEW), "a")
    for act in (other.check_key, lambda: values(other), other.encrypt_again):
        with pytest.raises(SecretUnreadable, match="encrypted with another key") as refused:
            act()
        assert refused.value.hint is not None
        assert "VITASCOPE_SECRETS__KEY" in refused.value.hint
    missing = opened(file=tmp_path / "secrets.key")
    with pytest.raises(SettingsError, match="there is no key for the secrets in the database"):
        missing.check_key()
    assert not (tmp_path / "secrets.key").exists(), "a new key would open nothing"
    (problem,) = maintenance.check(url, Cipher((NEW,))).problems
    assert "encrypted with another key" in problem
    assert "VITASCOPE_SECRETS__KEY" in problem
    (problem,) = maintenance.check(url, Cipher((), tmp_path / "secrets.key")).problems
    assert "there is no key" in problem
    assert maintenance.check(url, Cipher((OLD,))).problems == ()


def test_a_key_is_exchanged_without_losing_a_secret(opened: Open, url: str) -> None:
    add_keys(old := opened(OLD), "a", "b")
    assert values(old) == ["whsec_of_a"]
    both = opened(NEW, OLD)
    assert values(both) == ["whsec_of_a"]
    assert values(both, "b") == ["whsec_of_b"]
    assert both.encrypt_again() == (1, 0)
    assert both.encrypt_again() == (0, 0)
    new = opened(NEW)
    new.check_key()
    assert values(new) + values(new, "b") == ["whsec_of_a", "whsec_of_b"]
    with pytest.raises(SecretUnreadable):
        opened(OLD).check_key()


def test_what_a_lost_key_has_encrypted_can_be_given_up(opened: Open, url: str, tmp_path: Path) -> None:
    add_keys(old := opened(OLD), "a", "b")
    values(old)
    values(old, "b")
    store = opened(file=tmp_path / "secrets.key")
    assert store.encrypt_again(drop_unreadable=True) == (0, 2)
    assert [one.value for one in store.webhook_secrets("a", lambda: "new")] == ["new"]
    assert maintenance.check(url, Cipher((), tmp_path / "secrets.key")).problems == ()


@pytest.mark.parametrize("column", ["purpose", "owner", "ciphertext"])
def test_rows_cannot_be_exchanged(opened: Open, url: str, column: str) -> None:
    """Who can write to the database cannot make one key's webhooks be signed with another key's secret."""
    store = opened(OLD)
    add_keys(store, "a", "b")
    values(store), values(store, "b")
    theirs = next(row for row in stored(url) if row.owner == "b")
    if column == "ciphertext":
        change(url, "UPDATE secrets SET ciphertext = :c WHERE owner = 'a'", c=bytes(theirs.ciphertext))
    elif column == "owner":
        change(url, "DELETE FROM secrets WHERE owner = 'a'")
        change(url, "UPDATE secrets SET owner = 'a' WHERE owner = 'b'")
    else:
        change(url, "DELETE FROM secrets WHERE purpose = 'check'")
        change(url, "UPDATE secrets SET purpose = 'check' WHERE owner = 'a'")
        store = opened(OLD)
    with pytest.raises(SecretUnreadable, match="was changed, or belongs to another row"):
        values(store)


def test_a_changed_secret_is_noticed_and_goes_with_the_next_rotation(opened: Open, url: str) -> None:
    store = opened(OLD)
    add_keys(store, "a")
    values(store)
    row = next(row for row in stored(url) if row.owner == "a")
    for place in (0, 5, 15, 40, len(row.ciphertext) - 1):
        damaged = bytearray(row.ciphertext)
        damaged[place] ^= 1
        change(url, "UPDATE secrets SET ciphertext = :c WHERE owner = 'a'", c=bytes(damaged))
        with pytest.raises(SecretUnreadable) as refused:
            values(store)
        assert "whsec" not in str(refused.value)
    change(url, "UPDATE secrets SET ciphertext = :c WHERE owner = 'a'", c=b"")
    assert len(maintenance.check(url, Cipher((OLD,))).problems) == 1
    assert [one.value for one in store.replace_webhook_secret("a", "new")] == ["new"]

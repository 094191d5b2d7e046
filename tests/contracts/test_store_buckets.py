"""Buckets beside the storage of the settings, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from vitascope.domain.bucket import Bucket, bucket_id
from vitascope.domain.errors import SecretUnreadable
from vitascope.store import Cipher, Store
from vitascope.store.database import connect

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
Open = Callable[..., Store]

BUCKET = Bucket(
    id="vitascope-1",
    bucket="videos",
    prefix="generations",
    endpoint="https://s3.example",
    region="us-east-1",
    path_style=True,
    access_key_id="key-id",
    secret_access_key="very-secret",
    public_url="https://videos.example",
)
HIDDEN = replace(BUCKET, secret_access_key="")


@pytest.fixture
def opened(url: str, clock: Any) -> Iterator[Open]:
    """Opens the database as a machine with these keys does."""
    stores: list[Store] = []

    def open_with(*keys: bytes) -> Store:
        stores.append(Store.open(url, clock, cipher=Cipher(keys)))
        return stores[-1]

    yield open_with
    for store in stores:
        store.close()


def test_a_bucket_is_used_replaced_and_left(opened: Open) -> None:
    store, other = opened(OLD), opened(OLD)
    assert (store.bucket_in_use(), store.bucket_ids(), store.bucket(BUCKET.id)) == (None, [], None)
    assert not store.stop_using_buckets()
    store.use_bucket(BUCKET)
    assert other.bucket_in_use() == HIDDEN
    assert other.bucket_without_secret(BUCKET.id) == HIDDEN
    assert other.bucket(BUCKET.id) == BUCKET
    changed = replace(BUCKET, secret_access_key="another", public_url=None)
    other.use_bucket(changed)
    assert store.bucket(BUCKET.id) == changed
    second = replace(BUCKET, id="vitascope-2", bucket="more")
    store.use_bucket(second)
    assert other.bucket_in_use() == replace(second, secret_access_key="")
    assert other.stop_using_buckets()
    assert not other.stop_using_buckets()
    assert store.bucket_in_use() is None
    assert store.bucket_ids() == [BUCKET.id, second.id]
    assert store.bucket(BUCKET.id) == changed, "what is in it must be readable"


def test_what_opens_it_is_in_no_row_and_in_no_text(opened: Open, url: str) -> None:
    store = opened(OLD)
    store.use_bucket(BUCKET)
    database = connect(url)
    with database.read() as connection:
        rows = [connection.execute(sa.text(f"SELECT * FROM {name}")).all() for name in ("buckets", "secrets")]
    database.close()
    assert "very-secret" not in repr(rows)
    assert "very-secret" not in repr(store.bucket(BUCKET.id))


def test_another_key_opens_none_and_can_follow(opened: Open) -> None:
    opened(OLD).use_bucket(BUCKET)
    with pytest.raises(SecretUnreadable):
        opened(NEW).bucket(BUCKET.id)
    both = opened(NEW, OLD)
    assert both.bucket(BUCKET.id) == BUCKET
    assert both.encrypt_again() == (1, 0)
    assert opened(NEW).bucket(BUCKET.id) == BUCKET
    lost = opened(OLD)
    assert lost.encrypt_again(drop_unreadable=True) == (0, 1)
    with pytest.raises(SecretUnreadable):
        lost.bucket(BUCKET.id)
    lost.use_bucket(BUCKET)
    assert lost.bucket(BUCKET.id) == BUCKET


def test_of_those_that_are_named_at_once_one_is_in_use(opened: Open) -> None:
    buckets = [replace(BUCKET, id=f"vitascope-{number}", bucket=f"b{number}") for number in range(6)]
    stores = [opened(OLD) for _ in buckets]
    stores[0].check_key()
    threads = [
        threading.Thread(target=store.use_bucket, args=(bucket,))
        for store, bucket in zip(stores, buckets, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stores[0].bucket_ids() == [bucket.id for bucket in buckets]
    assert stores[0].bucket_in_use() in [replace(bucket, secret_access_key="") for bucket in buckets]


def test_a_place_has_one_name_and_deployments_have_different_ones() -> None:
    names = {
        bucket_id("one", "https://a", "b", "c"),
        bucket_id("two", "https://a", "b", "c"),
        bucket_id("one", "https://b", "b", "c"),
        bucket_id("one", "https://a", "b", ""),
    }
    assert len(names) == 4
    assert bucket_id("one", "https://a", "b", "c") in names

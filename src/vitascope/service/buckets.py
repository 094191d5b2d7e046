"""Buckets that new videos go to, named while the server runs: checked before they are taken, and opened where a file is asked for.

Files stay where they were put. What has gone to a bucket is read, removed and swept there for as long as there are jobs with files in it,
wherever new videos go by then; so what opens a bucket is kept, encrypted, also once it is not in use any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from vitascope.domain.bucket import Bucket, bucket_id
from vitascope.domain.errors import (
    BucketRefused,
    InvalidParameter,
    QueueFull,
    SecretUnreadable,
    SettingsError,
    StorageError,
    StorageUnavailable,
    StoreUnavailable,
    UrlRefused,
    VitascopeError,
)
from vitascope.outbound import Outbound
from vitascope.storage import S3Storage, Storage, public_url_of
from vitascope.store import Store
from vitascope.webhooks import SWITCHED_OFF

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", re.ASCII)
_PREFIX = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/(?!$)|$))*", re.ASCII)
_REGION = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_CREDENTIAL = re.compile(r"[!-~]{1,1024}", re.ASCII)
_PUBLIC_URL = re.compile(r"https?://[!-~]+", re.ASCII)
MAX_PUBLIC_BYTES = 1000
MAX_PREFIX_CHARS = 200
MAX_URL_CHARS = 1000

HINT = "look at the bucket's name, its endpoint, its region and its credentials"


def storage_of(bucket: Bucket) -> S3Storage:
    """Open a bucket; asks nothing of it.

    Raises:
        SettingsError: object storage is not installed, or does not understand these values.
    """
    return S3Storage(
        bucket.bucket,
        bucket.prefix,
        endpoint=bucket.endpoint,
        region=bucket.region,
        path_style=bucket.path_style,
        access_key_id=bucket.access_key_id,
        secret_access_key=bucket.secret_access_key,
        public_url=bucket.public_url,
        is_alone=True,
    )


class Buckets:
    """Where new videos go.

    Args:
        store: where that is kept.
        outbound: the way to URLs that users give; None takes no bucket.
    """

    def __init__(self, store: Store, outbound: Outbound | None) -> None:
        self._store = store
        self._outbound = outbound

    @property
    def in_use(self) -> Bucket | None:
        """The bucket that new videos go to, without its secret; None is the storage that the settings name."""
        return self._store.bucket_in_use()

    async def check_address(self, bucket: Bucket) -> None:
        """Find out whether this server may go to the bucket's endpoint.

        Only with encryption, unless the operator allows the host: a server that shows a certificate is the one that it says, where a
        name that leads elsewhere tomorrow, or an answer that sends on, would open the operator's own network.

        Raises:
            InvalidParameter: it may not, or its host has no address.
        """
        if self._outbound is None:
            hint = "an operator can switch it on: VITASCOPE_OUTBOUND__ENABLED"
            raise InvalidParameter("endpoint", bucket.endpoint, SWITCHED_OFF, hint=hint)
        try:
            await self._outbound.check(bucket.endpoint, only_encrypted=True)
        except UrlRefused as error:
            raise InvalidParameter("endpoint", bucket.endpoint, error.rule, hint=error.hint) from None

    def use(self, bucket: Bucket) -> Bucket:
        """Let new videos go to a bucket from now on, if it takes, gives and deletes a file; `check_address` of it first. Takes a while.

        Args:
            bucket: without an id.

        Raises:
            InvalidParameter: a value is not one that a bucket can have.
            BucketRefused: it cannot be listed, written, read or deleted from, or does not answer.
        """
        _check(bucket)
        where = (bucket.endpoint, bucket.bucket, bucket.prefix)
        bucket = replace(bucket, id=bucket_id(self._store.deployment_id(), *where))
        _try(bucket)
        used = self._store.use_bucket(bucket)
        logger.info("new videos go to a bucket", extra={"bucket": used.bucket, "key": used.id})
        return used

    async def why_not_public(self, bucket: Bucket) -> str | None:
        """Find out whether anyone can read what is in a bucket that is in use, at its `public_url`, by a small file.

        Returns:
            Why nobody can, as far as this server can tell; None if all is well, or no such address is given.
        """
        if self._outbound is None or bucket.public_url is None:
            return None
        key, data = f"{bucket.id}/probe-{secrets.token_hex(16)}", secrets.token_hex(16).encode()
        storage = storage_of(bucket)
        try:
            await asyncio.to_thread(storage.put_bytes, data, key)
            url = public_url_of(bucket.public_url, bucket.prefix, key)
            found = await self._outbound.fetch(url, max_bytes=MAX_PUBLIC_BYTES)
            await asyncio.to_thread(storage.delete, key)
        except UrlRefused as error:
            await asyncio.to_thread(_delete, storage, key)
            return error.rule
        except (StorageError, QueueFull) as error:  # what is left of it is swept
            return error.message
        return None if found.data == data else "another file is there"

    def try_again(self) -> Bucket | None:
        """Try the bucket that is in use as `use` did; returns it, or None if there is none.

        Raises:
            BucketRefused: it cannot be listed, written, read or deleted from, or does not answer.
            SecretUnreadable: this machine cannot read what opens it.
        """
        in_use = self.in_use
        bucket = None if in_use is None else self._store.bucket(in_use.id)
        if bucket is not None:
            _try(bucket)
        return bucket

    def reset(self) -> bool:
        """Let new videos go where the settings say; tells whether that is a change. What is in a bucket stays there."""
        is_change = self._store.stop_using_buckets()
        if is_change:
            logger.info("new videos go where the settings say")
        return is_change


def _delete(storage: Storage, key: str) -> None:
    with contextlib.suppress(StorageError):
        storage.delete(key)


def _try(bucket: Bucket) -> None:
    try:
        storage_of(bucket).check(bucket.id)
    except SettingsError as error:
        raise BucketRefused(error.message, hint=error.hint) from None
    except StorageError as error:
        raise BucketRefused(f"the bucket cannot be used: {error.message}", hint=HINT) from None


def _check(bucket: Bucket) -> None:
    """Refuse what no bucket can have; nothing of a credential is shown."""
    rules: tuple[tuple[str, str, re.Pattern[str], str], ...] = (
        ("bucket", bucket.bucket, _NAME, "it must be 3 to 63 lower-case letters, digits, dots and hyphens"),
        (
            "prefix",
            bucket.prefix[:MAX_PREFIX_CHARS] or "a",
            _PREFIX,
            "it must be letters, digits, `-`, `_` and `.`, with slashes between names, and no name may begin with a dot",
        ),
        ("region", bucket.region, _REGION, "it must be letters, digits and hyphens, such as `us-east-1`"),
        (
            "public_url",
            bucket.public_url or "https://-",
            _PUBLIC_URL,
            "it must be an http:// or https:// URL without spaces",
        ),
    )
    for name, value, form, rule in rules:
        if form.fullmatch(value) is None:
            raise InvalidParameter(name, value, rule)
    if len(bucket.prefix) > MAX_PREFIX_CHARS:
        raise InvalidParameter("prefix", bucket.prefix, f"it must have at most {MAX_PREFIX_CHARS} characters")
    if bucket.public_url is not None and (
        len(bucket.public_url) > MAX_URL_CHARS or set(bucket.public_url) & set("?#")
    ):
        rule = f"it must have at most {MAX_URL_CHARS} characters, without a query"
        raise InvalidParameter("public_url", bucket.public_url, rule)
    for name, value in (
        ("access_key_id", bucket.access_key_id),
        ("secret_access_key", bucket.secret_access_key),
    ):
        if _CREDENTIAL.fullmatch(value) is None:
            raise InvalidParameter(
                name, "given" if value else "missing", "it must be plain ASCII without spaces"
            )


class OpenBuckets:
    """All buckets that there ever were, opened as they are asked for; `storage.Places` asks. Safe to call from any thread.

    Each call reads the database: a bucket that is named, or gets other credentials, is so in all processes at once.

    Args:
        store: where they are kept.
        outbound: says whether a bucket's address may still be gone to, when a process opens it first.
    """

    def __init__(self, store: Store, outbound: Callable[[], Outbound]) -> None:
        self._store = store
        self._outbound = outbound
        self._opened: dict[str, tuple[Bucket, Storage]] = {}
        self._lock = threading.Lock()

    def open(self, name: str) -> Storage:
        """Open one.

        Raises:
            StorageError: there is none of this name.
            StorageUnavailable: the database does not tell, or this machine cannot open it now.
        """
        bucket = self._known(name)
        with self._lock:
            found = self._opened.get(name)
        if found is not None and found[0] == bucket:
            return found[1]
        try:
            asyncio.run(self._outbound().check(bucket.endpoint, only_encrypted=True))
            opened: Storage = storage_of(bucket)
        except VitascopeError as error:
            message = f"the bucket `{bucket.bucket}` cannot be opened: {error.message}"
            raise StorageUnavailable(message, hint=error.hint) from None
        with self._lock:
            self._opened[name] = bucket, opened
        return opened

    def _known(self, name: str) -> Bucket:
        try:
            bucket = self._store.bucket(name)
        except (StoreUnavailable, SecretUnreadable, SettingsError) as error:
            raise StorageUnavailable(error.message, hint=error.hint) from error
        if bucket is None:
            raise StorageError(f"there is no bucket `{name}`")
        return bucket

    def for_new_videos(self) -> str | None:
        """Name the one that new videos go to; None is the storage of the settings."""
        try:
            bucket = self._store.bucket_in_use()
        except StoreUnavailable as error:
            raise StorageUnavailable(error.message, hint=error.hint) from error
        return None if bucket is None else bucket.id

    def public_url_for(self, key: str) -> str | None:
        """Say where anyone can fetch a file; a point read of the database."""
        bucket = self._store.bucket_without_secret(key.partition("/")[0])
        if bucket is None or bucket.public_url is None:
            return None
        return public_url_of(bucket.public_url, bucket.prefix, key)

    def names(self) -> Sequence[str]:
        """Name all of them."""
        try:
            return self._store.bucket_ids()
        except StoreUnavailable as error:
            raise StorageUnavailable(error.message, hint=error.hint) from error

"""API keys: making them, ending them, and finding out who calls."""

from __future__ import annotations

import hashlib
import secrets
import string
import time
from collections.abc import Collection
from datetime import UTC, datetime

from vitascope.domain.access import OPEN, ApiKey, Caller, KeyLimits, Scope
from vitascope.domain.errors import InvalidApiKey, InvalidParameter, KeyNotFound
from vitascope.domain.secret import Secret
from vitascope.store import Store
from vitascope.webhooks import new_secret

from . import ids

PREFIX = "vsk_"
"""Of every key, so that scanners for leaked secrets can know one."""

_ALPHABET = string.ascii_letters + string.digits
_RANDOM_CHARS = 40
"""238 random bits: a digest of so much needs no salt and no slow hash, and finding a key by it tells nothing by its timing."""

OPEN_SECONDS = 1.0
"""How long a look whether there are keys is good for: on an open server it would cost each request a read."""

SHOWN_CHARS = 8
MAX_SECRET_CHARS = 200
MAX_NAME_CHARS = 255
MAX_LIMIT = 2**53


class Keys:
    """The keys of a deployment.

    Args:
        store: where they are kept, as digests.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._is_closed = False
        self._look_at = float("-inf")

    def create(
        self,
        name: str,
        scopes: Collection[Scope] = (Scope.GENERATE,),
        limits: KeyLimits | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key.

        Returns:
            What is kept of it, and the key itself, which nobody can show again.

        Raises:
            InvalidParameter: a name, limit or date is not legal.
        """
        limits = limits or KeyLimits()
        _check(name, scopes, limits, expires_at)
        secret = _new_secret()
        key = ApiKey(
            id=ids.new_id(),
            name=name.strip(),
            prefix=secret[:SHOWN_CHARS],
            last4=secret[-4:],
            scopes=frozenset(scopes),
            limits=limits,
            created_at=datetime.now(UTC),
            expires_at=expires_at,
        )
        self._store.add_key(key, _digest(secret))
        self._look_at = float("-inf")
        return key, secret

    def rotate(self, key_id: str) -> tuple[ApiKey, str]:
        """Give a key another secret; its jobs and limits stay, the old secret ends at once.

        Raises:
            KeyNotFound: there is none of that id, or it was revoked.
        """
        secret = _new_secret()
        key = self._store.replace_digest(key_id, _digest(secret), secret[:SHOWN_CHARS], secret[-4:])
        return key, secret

    def revoke(self, key_id: str) -> ApiKey:
        """End a key for good, and what its webhooks are signed with.

        Raises:
            KeyNotFound: there is none of that id.
        """
        return self._store.revoke_key(key_id)

    def webhook_secrets(self, key_id: str) -> tuple[Secret, ...]:
        """Return what a key's webhooks are signed with, now: one secret, or two while one replaces the other.

        The first look makes a key's first secret, so this may write. Sign with all of them; the current one comes first.
        An empty `key_id` stands for a server without keys, which has one too.

        Raises:
            KeyNotFound: there is no key of that id, or it was revoked: then nothing is signed any more.
            SecretUnreadable: this machine's key for secrets is not the one that they were encrypted with.
        """
        return self._store.webhook_secrets(key_id, new_secret)

    def rotate_webhook_secret(self, key_id: str) -> tuple[Secret, ...]:
        """Give a key another secret for its webhooks; the old one signs too for a day, an even older one ends at once.

        Returns:
            The new one, then the old one.

        Raises:
            KeyNotFound: there is no key of that id, or it was revoked.
        """
        return self._store.replace_webhook_secret(key_id, new_secret())

    def all(self) -> list[ApiKey]:
        return self._store.all_keys()

    def is_open(self) -> bool:
        """Whether there has never been a key; then everybody may do everything.

        The first key that another process makes is noticed within OPEN_SECONDS.
        """
        now = time.monotonic()
        if not self._is_closed and now >= self._look_at:
            self._is_closed = self._store.has_keys()
            self._look_at = now + OPEN_SECONDS
        return not self._is_closed

    def identify(self, secret: str | None) -> Caller:
        """Tell who calls.

        Args:
            secret: the key that was sent, if any.

        Raises:
            InvalidApiKey: there is none, or it is not good any more.
        """
        if self.is_open():
            return OPEN
        if secret is None:
            raise InvalidApiKey("no API key was sent", hint="send `Authorization: Bearer KEY`")
        if len(secret) > MAX_SECRET_CHARS:
            raise InvalidApiKey
        key = self._store.find_key(_digest(secret))
        if key is None:
            raise InvalidApiKey
        return _caller_with(key)

    def get(self, key_id: str) -> ApiKey:
        """Return a key, whether or not it is still good.

        Raises:
            KeyNotFound: there is none.
        """
        return self._store.key(key_id)

    def caller(self, key_id: str) -> Caller:
        """Stand for the key of this id, in whose name something goes on that it has asked for before.

        An empty id stands for what was asked of a server without keys: it is nobody's, and may see no more than that.

        Raises:
            InvalidApiKey: the key is not good any more.
        """
        if not key_id:
            return Caller("", frozenset({Scope.GENERATE}))
        try:
            return _caller_with(self._store.key(key_id))
        except KeyNotFound:
            raise InvalidApiKey from None


def _caller_with(key: ApiKey) -> Caller:
    if key.revoked_at is not None:
        raise InvalidApiKey("the API key was revoked")
    if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
        raise InvalidApiKey("the API key has expired")
    return Caller(key.id, key.scopes, key.limits)


def _new_secret() -> str:
    return PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARS))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", errors="surrogatepass")).hexdigest()


def _check(name: str, scopes: Collection[Scope], limits: KeyLimits, expires_at: datetime | None) -> None:
    if not name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise InvalidParameter("name", name, f"it must be 1 to {MAX_NAME_CHARS} printable characters")
    if not scopes:
        raise InvalidParameter("scopes", "empty", f"it must be some of {', '.join(Scope)}")
    for field in ("requests_per_minute", "max_running", "max_queued", "max_storage_bytes"):
        limit = getattr(limits, field)
        if limit is not None and not 1 <= limit <= MAX_LIMIT:
            nearest = 1 if limit < 1 else MAX_LIMIT
            raise InvalidParameter(field, limit, f"it must be from 1 to {MAX_LIMIT}", nearest=nearest)
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise InvalidParameter("expires_at", expires_at.isoformat(), "it must be in the future")

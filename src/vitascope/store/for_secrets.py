"""Secrets that must be readable again: made once, replaced with an overlap, and encrypted for all others."""

from __future__ import annotations

import secrets as random
from collections.abc import Callable, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from vitascope.domain.errors import KeyNotFound, SecretUnreadable
from vitascope.domain.secret import OVERLAP, Secret

from . import outbox
from .base import Base
from .cipher import Cipher
from .rows import Row
from .tables import endpoints, keys, secrets
from .tables import outbox as outbox_table

CHECK = "check"
"""Purpose of the one row that holds no secret: by it a machine finds out at its start whether its key is the right one."""

WEBHOOK = "webhook"
"""What a key's webhooks are signed with; without an owner, those of a server without keys."""

BUCKET = "bucket"
"""What opens a bucket that was named while the server ran."""

ENDPOINT = "endpoint"
"""What the messages to one endpoint are signed with."""


class ForSecrets(Base):
    """Encrypted rows. What is unreadable raises SecretUnreadable, and SettingsError where there is no key at all."""

    _has_checked_key = False

    def check_key(self) -> None:
        """Find out whether this machine has the key of this database; the first machine's key becomes it.

        Raises:
            SecretUnreadable: it has another one.
            SettingsError: it has none, or cannot make one.
        """
        if self._has_checked_key:
            return
        is_it = secrets.c.purpose == CHECK
        with self._database.read() as connection:
            row = connection.execute(sa.select(secrets).where(is_it)).one_or_none()
        if row is None:
            self._cipher.make_key()
            with self._database.write() as connection:
                try:
                    with connection.begin_nested():
                        self._add(connection, CHECK, "", "")
                except IntegrityError:
                    pass  # another process was first
                row = connection.execute(sa.select(secrets).where(is_it)).one()
        opened(self._cipher, row)
        self._has_checked_key = True

    def derived_keys(self, purpose: str) -> tuple[bytes, ...]:
        """Return keys of this deployment for something that is not kept, such as links: the first makes, all check.

        They are the same on all of its machines, and change when the key for secrets is exchanged.
        """
        self.check_key()
        return self._cipher.derive(purpose)

    def webhook_secrets(self, key_id: str, make: Callable[[], str]) -> tuple[Secret, ...]:
        """Return what a key's webhooks are signed with now: the current secret, then perhaps the one before it.

        Args:
            key_id: whose they are; empty for those of a server without keys.
            make: a new secret, for a key that has none yet.

        Raises:
            KeyNotFound: there is no key of that id, or it was revoked.
        """
        self.check_key()
        with self._database.read() as connection:
            rows = self._active(connection, WEBHOOK, key_id)
        if not rows or rows[0].expires_at is not None:
            with self._database.write() as connection:
                _must_be_good(connection, key_id)
                rows = self._active(connection, WEBHOOK, key_id)
                if not rows or rows[0].expires_at is not None:
                    self._add(connection, WEBHOOK, key_id, make())
                    rows = self._active(connection, WEBHOOK, key_id)
        return tuple(self._shown(row) for row in rows)

    def replace_webhook_secret(self, key_id: str, value: str) -> tuple[Secret, ...]:
        """Give a key another secret for its webhooks; the one that it had stays good for OVERLAP, an older one ends at once.

        Returns:
            The new one, then the one before it.

        Raises:
            KeyNotFound: there is no key of that id, or it was revoked.
        """
        self.check_key()
        with self._database.write() as connection:
            _must_be_good(connection, key_id)
            self._retire(connection, WEBHOOK, key_id)
            self._add(connection, WEBHOOK, key_id, value)
            rows = self._active(connection, WEBHOOK, key_id)
        return tuple(self._shown(row) for row in rows)

    def encrypt_again(self, *, drop_unreadable: bool = False) -> tuple[int, int]:
        """Encrypt with the newest key whatever was encrypted with an older one, so that the older one can go.

        Args:
            drop_unreadable: delete what no key opens, instead of raising SecretUnreadable and changing nothing.

        Returns:
            How many secrets were encrypted again, and how many deleted.
        """
        num_changed = num_dropped = 0
        if drop_unreadable:
            self._cipher.make_key()
        with self._database.write() as connection:
            for row in connection.execute(sa.select(secrets).with_for_update()).all():
                is_it, counts = secrets.c.id == row.id, row.purpose != CHECK
                try:
                    value = opened(self._cipher, row)
                except SecretUnreadable:
                    if not drop_unreadable:
                        raise
                    connection.execute(sa.delete(secrets).where(is_it))
                    num_dropped += counts
                    continue
                if not self._cipher.is_newest(row.ciphertext):
                    data = self._cipher.encrypt(value, *_identity(row))
                    connection.execute(sa.update(secrets).where(is_it).values(ciphertext=data))
                    num_changed += counts
        self._has_checked_key = False
        self.check_key()
        return num_changed, num_dropped

    def _add(self, connection: sa.Connection, purpose: str, owner: str, value: str) -> None:
        secret_id = random.token_hex(16)
        row = {
            "id": secret_id,
            "purpose": purpose,
            "owner": owner,
            "ciphertext": self._cipher.encrypt(value, purpose, owner, secret_id),
            "created_at": self._now(),
        }
        connection.execute(sa.insert(secrets).values(row))

    def _end_now(self, connection: sa.Connection, purpose: str, owner: str) -> None:
        """End all secrets now."""
        connection.execute(sa.delete(secrets).where(secrets.c.purpose == purpose, secrets.c.owner == owner))

    def _retire(self, connection: sa.Connection, purpose: str, owner: str) -> None:
        """End the secret before the current one now, and the current one later; one that nobody can read ends now too."""
        of_owner = (secrets.c.purpose == purpose) & (secrets.c.owner == owner)
        connection.execute(sa.delete(secrets).where(of_owner, secrets.c.expires_at.is_not(None)))
        for row in self._active(connection, purpose, owner):
            is_it = secrets.c.id == row.id
            try:
                opened(self._cipher, row)
            except SecretUnreadable:
                connection.execute(sa.delete(secrets).where(is_it))
            else:
                ends_at = self._now() + OVERLAP
                connection.execute(sa.update(secrets).where(is_it).values(expires_at=ends_at))

    def _active(self, connection: sa.Connection, purpose: str, owner: str) -> Sequence[Row]:
        """Find what is good now, the current one first."""
        is_good = secrets.c.expires_at.is_(None) | (secrets.c.expires_at > self._now())
        found = sa.select(secrets).where(secrets.c.purpose == purpose, secrets.c.owner == owner, is_good)
        return connection.execute(found.order_by(secrets.c.expires_at.is_not(None))).all()

    def _shown(self, row: Row) -> Secret:
        value = opened(self._cipher, row)
        return Secret(value=value, created_at=row.created_at, expires_at=row.expires_at)


def end_secrets(connection: sa.Connection, key_id: str, now: datetime) -> None:
    """Delete what a key signs with, its endpoints' secrets among it; what is still to be delivered is not sent any more."""
    connection.execute(sa.delete(secrets).where(secrets.c.purpose == WEBHOOK, secrets.c.owner == key_id))
    own = sa.select(endpoints.c.id).where(endpoints.c.key_id == key_id)
    connection.execute(sa.delete(secrets).where(secrets.c.purpose == ENDPOINT, secrets.c.owner.in_(own)))
    outbox.end_pending(connection, outbox_table.c.key_id == key_id, outbox.KEY_REVOKED, now)


def unreadable(connection: sa.Connection, cipher: Cipher) -> list[SecretUnreadable]:
    """Try all secrets of a database; one error for each that cannot be read."""
    found = []
    for row in connection.execute(sa.select(secrets)):
        try:
            opened(cipher, row)
        except SecretUnreadable as error:
            found.append(error)
    return found


def _must_be_good(connection: sa.Connection, key_id: str) -> None:
    # held until the transaction ends: a key that is being revoked gets no new secret
    if not key_id:  # no key's: the one row that is always there stands for the lock
        connection.execute(sa.select(secrets.c.id).where(secrets.c.purpose == CHECK).with_for_update())
        return
    good = sa.select(keys.c.id).where(keys.c.id == key_id, keys.c.revoked_at.is_(None))
    if connection.execute(good.with_for_update()).first() is None:
        raise KeyNotFound


def _identity(row: Row) -> tuple[str, str, str]:
    return row.purpose, row.owner, row.id


def opened(cipher: Cipher, row: Row) -> str:
    """Decrypt a row, or raise SecretUnreadable."""
    return cipher.decrypt(bytes(row.ciphertext), *_identity(row))

"""Buckets beside the storage of the settings: which one new videos go to, and what opens each that ever was."""

from __future__ import annotations

from dataclasses import asdict, replace

import sqlalchemy as sa

from vitascope.domain.bucket import Bucket
from vitascope.domain.errors import SecretUnreadable

from .cipher import LOST
from .for_secrets import BUCKET, CHECK, ForSecrets, opened
from .rows import Row
from .tables import buckets, secrets


class ForBuckets(ForSecrets):
    """Buckets. None is ever forgotten: there may be files in it."""

    def use_bucket(self, bucket: Bucket) -> Bucket:
        """Let new videos go to a bucket from now on; one that is known gets these details in place of those that it had."""
        self.check_key()
        values = {name: value for name, value in asdict(bucket).items() if name != "secret_access_key"}
        is_it = buckets.c.id == bucket.id
        with self._database.write() as connection:
            # two at once would each see the other's row as not in use yet
            connection.execute(sa.select(secrets.c.id).where(secrets.c.purpose == CHECK).with_for_update())
            connection.execute(sa.update(buckets).values(is_in_use=False))
            values |= {"is_in_use": True, "changed_at": self._now()}
            if connection.execute(sa.update(buckets).where(is_it).values(values)).rowcount == 0:
                connection.execute(sa.insert(buckets).values(values))
            self._end_now(connection, BUCKET, bucket.id)
            self._add(connection, BUCKET, bucket.id, bucket.secret_access_key)
        return bucket

    def stop_using_buckets(self) -> bool:
        """Let new videos go where the settings say again; tells whether that is a change."""
        change = sa.update(buckets).where(buckets.c.is_in_use).values(is_in_use=False, changed_at=self._now())
        with self._database.write() as connection:
            return connection.execute(change).rowcount > 0

    def bucket(self, bucket_id: str) -> Bucket | None:
        """Return one with what opens it; None if there is none of that id.

        Raises:
            SecretUnreadable: this machine cannot read what opens it, or that was dropped.
            SettingsError: this machine has no key for secrets.
        """
        of_it = (secrets.c.purpose == BUCKET) & (secrets.c.owner == bucket_id)
        with self._database.read() as connection:
            row = connection.execute(sa.select(buckets).where(buckets.c.id == bucket_id)).one_or_none()
            secret = connection.execute(sa.select(secrets).where(of_it)).one_or_none()
        if row is None:
            return None
        if secret is None:
            raise SecretUnreadable(hint=LOST)
        return replace(_bucket_of(row), secret_access_key=opened(self._cipher, secret))

    def bucket_without_secret(self, bucket_id: str) -> Bucket | None:
        """Return one without what opens it; None if there is none of that id."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(buckets).where(buckets.c.id == bucket_id)).one_or_none()
        return None if row is None else _bucket_of(row)

    def bucket_in_use(self) -> Bucket | None:
        """Return the one that new videos go to, without what opens it; None is where the settings say."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(buckets).where(buckets.c.is_in_use)).one_or_none()
        return None if row is None else _bucket_of(row)

    def bucket_ids(self) -> list[str]:
        """Name all that ever were."""
        with self._database.read() as connection:
            return list(connection.scalars(sa.select(buckets.c.id).order_by(buckets.c.id)))


def _bucket_of(row: Row) -> Bucket:
    return Bucket(
        id=row.id,
        bucket=row.bucket,
        prefix=row.prefix,
        endpoint=row.endpoint,
        region=row.region,
        path_style=row.path_style,
        access_key_id=row.access_key_id,
        secret_access_key="",
        public_url=row.public_url,
    )

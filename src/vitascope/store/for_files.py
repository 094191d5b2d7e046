"""Files of clients: uploaded once, named in later requests, listed, deleted, and gone when their time is over.

The file is in the storage before its row is, and the row says that it is gone before the storage deletes it. So a row that can be read has
its file; what a process that was killed between the two has left is either a file without a row, which the sweep finds (`unowned`), or a
row that is marked, whose file `files_to_remove` names again and again until `files_removed` is told.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Literal

import sqlalchemy as sa

from vitascope.domain.errors import FileNotFound, InvalidParameter
from vitascope.domain.file import File, FilePage

from .base import Base
from .for_clients import check_storage
from .rows import Row
from .tables import files, storable

FILES = "files/"
"""With what the keys of these files begin, and no others."""

GRACE = timedelta(seconds=60)
"""A file goes from the storage so long after its row was marked, where that was not done at once: who was let in just before has opened it
by then."""


class ForFiles(Base):
    """Files. Where an `owner` is asked for, another's is no other case than an unknown one."""

    def add_file(self, file: File, max_storage_bytes: int | None = None) -> File:
        """Make a stored file known; from now on it is given out.

        Args:
            file: which the storage has.
            max_storage_bytes: bytes of its key's videos and files that it must not exceed.

        Raises:
            StorageLimitReached: there is no room for it.
        """
        with self._database.write() as connection:
            if max_storage_bytes is not None:
                self._database.lock_queue(connection)  # or two at once would each find the room
                check_storage(connection, file.key_id, max_storage_bytes, file.num_bytes)
            return file_of(insert_file(connection, file))

    def check_file_room(self, key_id: str, max_storage_bytes: int, num_bytes: int) -> None:
        """Find out quickly whether there is room for a file; `add_file` looks again.

        Raises:
            StorageLimitReached: there is none.
        """
        with self._database.read() as connection:
            check_storage(connection, key_id, max_storage_bytes, num_bytes)

    def file(self, file_id: str, owner: str | None = None) -> File:
        """Return a file.

        Raises:
            FileNotFound: there is none of that id, or not any more.
        """
        query = sa.select(files).where(files.c.id == file_id, *self._is_there(owner))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise FileNotFound
        return file_of(row)

    def file_page(
        self,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        purpose: str | None = None,
        owner: str | None = None,
    ) -> FilePage:
        """List files by age, from the one that follows `after`. A deleted file still marks its place.

        Raises:
            InvalidParameter: no file has the id `after`.
        """
        query = sa.select(files).where(*self._is_there(owner))
        anchor = sa.select(files.c.number).where(files.c.id == after)
        if owner is not None:
            anchor = anchor.where(files.c.key_id == owner)
        if purpose is not None:
            query = query.where(files.c.purpose == storable(purpose))
        with self._database.read() as connection:
            if after is not None:
                number = connection.scalar(anchor)
                if number is None:
                    raise InvalidParameter("after", after, "no file has this id")
                query = query.where(files.c.number < number if order == "desc" else files.c.number > number)
            query = query.order_by(files.c.number.desc() if order == "desc" else files.c.number)
            rows = connection.execute(query.limit(limit + 1)).all()
        return FilePage(tuple(file_of(row) for row in rows[:limit]), has_more=len(rows) > limit)

    def delete_file(self, file_id: str, owner: str | None = None) -> str:
        """Give a file out no more; returns its key, for the storage to delete.

        Raises:
            FileNotFound: there is none of that id, or not any more.
        """
        is_it = (files.c.id == file_id, *self._is_there(owner))
        update = sa.update(files).where(*is_it).values(deleted_at=self._now()).returning(files.c.key)
        with self._database.write() as connection:
            key: str | None = connection.scalar(update)
        if key is None:
            raise FileNotFound
        return key

    def files_to_remove(self, max_files: int) -> Mapping[str, str]:
        """Name files that the storage shall delete, by id: those whose time is over are given out no more from now on.

        Tell `files_removed` of those that are gone. The others come again, whoever asks.
        """
        now = self._now()
        is_over = files.c.expires_at.is_not(None) & files.c.deleted_at.is_(None) & (files.c.expires_at <= now)
        over = sa.select(files.c.number).where(is_over).order_by(files.c.expires_at).limit(max_files)
        is_due = files.c.removed_at.is_(None) & (files.c.deleted_at <= now - GRACE)
        due = sa.select(files.c.id, files.c.key).where(is_due).order_by(files.c.deleted_at).limit(max_files)
        with self._database.read() as connection:
            numbers = connection.scalars(over).all()
            found = {row.id: row.key for row in connection.execute(due)}
        if numbers:
            ended = sa.update(files).where(files.c.number.in_(numbers), files.c.deleted_at.is_(None))
            with self._database.write() as connection:
                connection.execute(ended.values(deleted_at=now))
        return found

    def files_removed(self, file_ids: Collection[str]) -> None:
        """Write down that the storage does not have these any more."""
        is_news = files.c.id.in_(file_ids) & files.c.deleted_at.is_not(None) & files.c.removed_at.is_(None)
        with self._database.write() as connection:
            connection.execute(sa.update(files).where(is_news).values(removed_at=self._now()))

    def _is_there(self, owner: str | None) -> Sequence[sa.ColumnElement[bool]]:
        lasts = sa.or_(files.c.expires_at.is_(None), files.c.expires_at > self._now())
        conditions = [files.c.deleted_at.is_(None), lasts]
        return conditions if owner is None else [*conditions, files.c.key_id == owner]


def insert_file(connection: sa.Connection, file: File) -> Row:
    values = {**asdict(file), "name": storable(file.name)}
    return connection.execute(sa.insert(files).values(values).returning(files)).one()


def file_of(row: Row) -> File:
    return File(
        id=row.id,
        key_id=row.key_id,
        name=row.name,
        purpose=row.purpose,
        key=row.key,
        num_bytes=row.num_bytes,
        sha256=row.sha256,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


def unowned_files(connection: sa.Connection, ids: Mapping[str, str], first_job_id: str | None) -> set[str]:
    """Tell which of these files no row needs: ids by their keys in, keys out.

    Those that would be older than the first row of all are another database's, as with files of jobs.
    """
    query = sa.select(files.c.id, files.c.key, files.c.deleted_at).where(files.c.id.in_(set(ids.values())))
    rows = {row.id: row for row in connection.execute(query)}
    first = connection.scalar(sa.select(files.c.id).order_by(files.c.number).limit(1))
    oldest = min((found for found in (first, first_job_id) if found is not None), default=None)

    def is_needed(key: str, file_id: str) -> bool:
        if (row := rows.get(file_id)) is None:
            return oldest is None or file_id < oldest
        return row.deleted_at is None and row.key == key

    return {key for key, file_id in ids.items() if not is_needed(key, file_id)}

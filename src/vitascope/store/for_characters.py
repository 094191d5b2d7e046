"""Characters: kept once, named in later requests.

The picture is in the storage before its row is, and the row is gone before the storage deletes it: a row that can be read has its picture, and
what a process that was killed between the two has left has no row and is swept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import sqlalchemy as sa

from vitascope.domain.character import Character
from vitascope.domain.errors import CharacterNotFound, InvalidParameter

from .base import Base
from .for_clients import check_storage
from .rows import Row
from .tables import characters, storable

CHARACTERS = "characters/"
"""With what the keys of their pictures begin, and no others."""

MAX_CHARACTERS = 1000
"""Of a key."""


class ForCharacters(Base):
    """Characters. Where an `owner` is asked for, another's is no other case than an unknown one."""

    def add_character(self, character: Character, max_storage_bytes: int | None = None) -> Character:
        """Make a character known whose picture is stored.

        Args:
            character: who.
            max_storage_bytes: bytes of its key's videos, files and characters that it must not exceed.

        Raises:
            InvalidParameter: its key has as many as it may.
            StorageLimitReached: there is no room for it.
        """
        is_its_keys = characters.c.key_id == character.key_id
        values = {**asdict(character), "name": storable(character.name)}
        with self._database.write() as connection:
            self._database.lock_queue(connection)  # or two at once would each find the room
            count = sa.select(sa.func.count()).select_from(characters).where(is_its_keys)
            if connection.scalars(count).one() >= MAX_CHARACTERS:
                rule = f"an API key may have {MAX_CHARACTERS} characters"
                raise InvalidParameter("name", character.name, rule, hint="delete one first")
            if max_storage_bytes is not None:
                check_storage(connection, character.key_id, max_storage_bytes, character.num_bytes)
            row = connection.execute(sa.insert(characters).values(values).returning(characters)).one()
        return character_of(row)

    def character(self, character_id: str, owner: str | None = None) -> Character:
        """Return a character.

        Raises:
            CharacterNotFound: there is none of that id.
        """
        query = sa.select(characters).where(*_is(character_id, owner))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise CharacterNotFound
        return character_of(row)

    def delete_character(self, character_id: str, owner: str | None = None) -> str:
        """Forget a character; returns the key of its picture, for the storage to delete.

        Raises:
            CharacterNotFound: there is none of that id.
        """
        forget = sa.delete(characters).where(*_is(character_id, owner)).returning(characters.c.key)
        with self._database.write() as connection:
            key: str | None = connection.scalar(forget)
        if key is None:
            raise CharacterNotFound
        return key


def _is(character_id: str, owner: str | None) -> list[sa.ColumnElement[bool]]:
    is_it = [characters.c.id == character_id]
    return is_it if owner is None else [*is_it, characters.c.key_id == owner]


def character_of(row: Row) -> Character:
    return Character(
        id=row.id,
        key_id=row.key_id,
        name=row.name,
        key=row.key,
        num_bytes=row.num_bytes,
        created_at=row.created_at,
    )


def unowned_characters(
    connection: sa.Connection, ids: Mapping[str, str], first_job_id: str | None
) -> set[str]:
    """Tell which of these pictures no row needs: ids by their keys in, keys out.

    Those that would be older than the first row of all are another database's, as with files of jobs.
    """
    known = set(connection.scalars(sa.select(characters.c.id).where(characters.c.id.in_(set(ids.values())))))
    first = connection.scalar(sa.select(sa.func.min(characters.c.id)))
    oldest = min((found for found in (first, first_job_id) if found is not None), default=None)
    is_ours = {key for key, its_id in ids.items() if oldest is not None and its_id >= oldest}
    return {key for key in is_ours if ids[key] not in known}

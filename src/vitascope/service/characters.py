"""Characters: a picture is taken of what a client sends, kept under a name, and shown to models that later requests name it for.

The picture is stored first and becomes a row then, as files do; deleting goes the other way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from vitascope import media
from vitascope.domain.access import Caller
from vitascope.domain.character import MAX_NAME_CHARS, Character
from vitascope.domain.errors import (
    CharacterNotFound,
    InvalidParameter,
    StorageError,
    StorageUnavailable,
    UnreadableImage,
    UnreadableVideo,
)
from vitascope.domain.request import MAX_VIDEO_FRAMES, MAX_VIDEO_SECONDS
from vitascope.media.signature import picture_kind
from vitascope.storage import Storage
from vitascope.store import Store

from . import ids
from .inputs import MAX_REFERENCE_SIDE, CharacterId, Content, Sent, measured, unreadable

NO_SUCH_CHARACTER = "no character has this id"


@dataclass(frozen=True, slots=True)
class NewCharacter:
    """A character that was checked, and is nowhere yet."""

    character: Character
    picture: bytes


class Characters:
    """Characters of keys. Another's is an unknown one, but to operators.

    Args:
        store: where their rows are.
        storage: where their pictures are.
        clock: the time now.
    """

    def __init__(self, store: Store, storage: Storage, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._storage = storage
        self._clock = clock

    def prepare(self, name: str, content: bytes, caller: Caller) -> NewCharacter:
        """Take a picture of what was sent: the one in the middle of a video, or the picture itself. Reads all of it.

        Raises:
            InvalidParameter: the name is not legal, or the file cannot be read.
            QueueFull: too many others are being read.
        """
        if not 1 <= len(name.strip()) <= MAX_NAME_CHARS:
            rule = f"it must have from 1 to {MAX_NAME_CHARS} characters"
            raise InvalidParameter("name", name, rule)
        picture = _picture(content)
        character_id = ids.new_id()
        character = Character(
            id=character_id,
            key_id=caller.key_id,
            name=name,
            key=f"characters/{character_id}.png",
            num_bytes=len(picture),
            created_at=self._clock(),
        )
        return NewCharacter(character, picture)

    def put(self, new: NewCharacter) -> None:
        """Store the picture, safe from a crash. May wait for a network."""
        self._storage.put_bytes(new.picture, new.character.key)

    def add(self, new: NewCharacter, caller: Caller) -> Character:
        """Make a character known whose picture was put. When this returns, it is durable.

        Raises:
            InvalidParameter: the caller has as many as it may: `remove` the picture.
            StorageLimitReached: the caller has no room for it: the same.
        """
        return self._store.add_character(new.character, caller.limits.max_storage_bytes)

    def get(self, character_id: str, caller: Caller) -> Character:
        """Return a character, or raise CharacterNotFound."""
        if not ids.is_id(character_id):
            raise CharacterNotFound
        return self._store.character(character_id, caller.owner)

    def delete(self, character_id: str, caller: Caller) -> str:
        """Forget a character; returns the key of its picture, to `remove` once that is durable. Raises CharacterNotFound."""
        if not ids.is_id(character_id):
            raise CharacterNotFound
        return self._store.delete_character(character_id, caller.owner)

    def remove(self, key: str) -> None:
        """Remove a picture that nobody needs any more. May wait for a network."""
        with contextlib.suppress(StorageError):  # what stays behind has no row, and is swept
            self._storage.delete(key)

    def looked_up(self, sent: Sent, caller: Caller) -> Sent:
        """Put the pictures into what came with a request in the place of characters' ids. May wait for a network.

        Raises:
            InvalidParameter: the caller has no such character.
        """

        def picture(name: str, content: Content) -> Content:
            if not isinstance(content, CharacterId):
                return content
            try:
                with self._storage.open(self.get(content.id, caller).key) as file:
                    return file.read()
            except StorageUnavailable:
                raise
            except (CharacterNotFound, StorageError):  # it may be deleted just now
                raise InvalidParameter(name, content.shown, NO_SUCH_CHARACTER) from None

        return sent.mapped(picture)


def _picture(content: bytes) -> bytes:
    if picture_kind(content) is not None:
        try:
            return media.open_picture(content, max_side=MAX_REFERENCE_SIDE).to_png()
        except UnreadableImage as error:
            raise unreadable("video", content, error) from None
    video = measured(content)
    scale = min(1.0, MAX_REFERENCE_SIDE / max(video.height, video.width))
    size = max(1, round(video.height * scale)), max(1, round(video.width * scale))
    try:
        picture = media.picture_of_video(
            content,
            size=size,
            at_seconds=video.seconds / 2,
            max_frames=MAX_VIDEO_FRAMES,
            max_seconds=MAX_VIDEO_SECONDS,
        )
    except UnreadableVideo as error:
        raise unreadable("video", content, error) from None
    return picture.to_png()

"""Finished files, as the store knows them: their pixels and their names on disk are nobody's business but the storage's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Variant = Literal["video", "thumbnail", "spritesheet"]
VARIANTS: tuple[Variant, ...] = ("video", "thumbnail", "spritesheet")
"""What can be fetched of each video: the file itself, and the pictures that are made with it."""

SHEET_COLUMNS = 5
MAX_SHEET_TILES = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture in the storage that was made of a video."""

    #: Where the storage has it.
    key: str
    media_type: str
    num_bytes: int
    sha256: str
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """A video file in the storage, and the pictures of it."""

    #: Which of the videos of one request it is, from 0. Where one could not be made, its number is left out.
    index: int = 0
    #: Where the storage has it.
    key: str
    media_type: str
    num_bytes: int
    sha256: str
    height: int
    width: int
    num_frames: int
    fps: int
    #: One frame, as a WebP; None in jobs from before there were such pictures.
    thumbnail: Picture | None = None
    #: Frames side by side, as a JPEG; see `sheet_grid`.
    spritesheet: Picture | None = None

    @property
    def duration_seconds(self) -> float:
        return self.num_frames / self.fps

    @property
    def files(self) -> tuple[Video | Picture, ...]:
        """All that the storage has of it."""
        return (self, *(picture for picture in (self.thumbnail, self.spritesheet) if picture is not None))

    @property
    def total_bytes(self) -> int:
        """What its files take together."""
        return sum(file.num_bytes for file in self.files)

    def variant(self, variant: Variant) -> Video | Picture | None:
        """Return one of its files; None if it has no such picture."""
        return {"video": self, "thumbnail": self.thumbnail, "spritesheet": self.spritesheet}[variant]

    def with_keys(self, keys: Mapping[str, str]) -> Video:
        """Give it and its pictures the keys that `keys` has for the ones that they have."""
        pictures = {
            name: picture and replace(picture, key=keys[picture.key])
            for name, picture in (("thumbnail", self.thumbnail), ("spritesheet", self.spritesheet))
        }
        return replace(self, key=keys[self.key], **pictures)  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Video:
        """Read back what `dataclasses.asdict` made of it."""
        pictures = {name: values.get(name) for name in ("thumbnail", "spritesheet")}
        return cls(**{**values, **{name: made and Picture(**made) for name, made in pictures.items()}})


def stored_keys(videos: Iterable[Video]) -> list[str]:
    """Name all files of these videos, as the storage has them."""
    return [file.key for video in videos for file in video.files]


def sheet_frames(num_frames: int) -> tuple[int, ...]:
    """Tell which frames a spritesheet shows: at most 25, evenly spread, the first one first.

    Of T tiles, tile k shows the frame at k/T of the video's duration.
    """
    num_tiles = min(num_frames, MAX_SHEET_TILES)
    return tuple(tile * num_frames // num_tiles for tile in range(num_tiles))


def sheet_grid(num_frames: int) -> tuple[int, int]:
    """Tell how many rows and columns a spritesheet has. Tiles follow in reading order; what is left of the last row is black."""
    num_tiles = len(sheet_frames(num_frames))
    columns = min(num_tiles, SHEET_COLUMNS)
    return -(-num_tiles // columns), columns

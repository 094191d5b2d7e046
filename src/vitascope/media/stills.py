"""Pictures of a video, for pages and players: one frame as a thumbnail, many of them in a spritesheet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vitascope.domain.video import sheet_frames, sheet_grid

from .frames import Frame, check_frame
from .target import replacing

MAX_THUMBNAIL_SIDE = 640
"""Pixels of its longer side; a smaller video's is as large as the video."""

MAX_TILE_SIDE = 160
"""The same, of a spritesheet's tiles: 25 of 16:9 make a sheet of 800x450."""

_QUALITY = 80


class Stills:
    """Looks at a video's frames as they pass by, and keeps small copies of some of them.

    Args:
        num_frames: of the video.
    """

    def __init__(self, num_frames: int) -> None:
        self._num_frames = num_frames
        self._thumbnail: Image.Image | None = None
        self._tiles: list[Image.Image] = []

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Pass the frames on, unchanged."""
        tiled = frozenset(sheet_frames(self._num_frames))
        for index, frame in enumerate(frames):
            check_frame(frame)
            if index in tiled:
                self._tiles.append(_small(frame, MAX_TILE_SIDE))
            if index == self._num_frames // 2:
                self._thumbnail = _small(frame, MAX_THUMBNAIL_SIDE)
            yield frame

    def save_thumbnail(
        self, path: Path, *, xmp: bytes = b"", finish: Callable[[Path], None] | None = None
    ) -> tuple[int, int]:
        """Write the frame in the middle as WebP, once all have passed.

        Args:
            path: the file, from where a storage takes it; replaced if it exists.
            xmp: its metadata.
            finish: what is still to be done with the complete file before it has its name, such as signing it.

        Returns:
            Its height and width.

        Raises:
            WriteFailed: the folder is missing or not writable, or the disk is full.
        """
        assert self._thumbnail is not None
        return _save(self._thumbnail, path, "WEBP", xmp, finish)

    def save_spritesheet(
        self, path: Path, *, xmp: bytes = b"", finish: Callable[[Path], None] | None = None
    ) -> tuple[int, int]:
        """Write the tiles as JPEG, as `domain.video` says in which grid; otherwise as `save_thumbnail`."""
        rows, columns = sheet_grid(self._num_frames)
        width, height = self._tiles[0].size
        sheet = Image.new("RGB", (columns * width, rows * height))
        for index, tile in enumerate(self._tiles):
            sheet.paste(tile, (index % columns * width, index // columns * height))
        return _save(sheet, path, "JPEG", xmp, finish)


def _small(frame: Frame, max_side: int) -> Image.Image:
    picture = Image.fromarray(np.array(frame))  # a copy: whoever made the frame may use its memory again
    scale = min(1.0, max_side / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _save(
    picture: Image.Image, path: Path, format: str, xmp: bytes, finish: Callable[[Path], None] | None
) -> tuple[int, int]:
    metadata = {"xmp": xmp} if xmp else {}
    with replacing(path, is_kept=False) as temporary:
        picture.save(temporary, format, quality=_QUALITY, **metadata)
        if finish is not None:
            finish(temporary)
    return picture.height, picture.width

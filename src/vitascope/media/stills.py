"""Pictures of a video, for pages and players: one frame as a thumbnail, many of them in a spritesheet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
from PIL import Image

from vitascope.domain.video import sheet_frames, sheet_grid

from .frames import YuvToRgb
from .target import replacing

MAX_THUMBNAIL_SIDE = 640
"""Pixels of its longer side; a smaller video's is as large as the video."""

MAX_TILE_SIDE = 160
"""The same, of a spritesheet's tiles: 25 of 16:9 make a sheet of 800x450."""

_QUALITY = 80

_WEBP_METHOD = 2
"""Of 0 to 6, Pillow's own being 4: 9 instead of 33 ms for 640x360, 4.3 instead of 9.5 for 256x256; 5 % larger, 0.1 dB less of 36 to 39."""


class Stills:
    """Looks at a video's frames as they are written, and keeps small copies of some of them.

    Args:
        num_frames: of the video.
        when_shown: called when the frame of the thumbnail has passed.
        when_tiled: called when the last of the spritesheet's has.
    """

    def __init__(
        self,
        num_frames: int,
        when_shown: Callable[[], None] | None = None,
        when_tiled: Callable[[], None] | None = None,
    ) -> None:
        self._num_frames, self._num_seen = num_frames, 0
        self._tiled = frozenset(sheet_frames(num_frames))
        self._shown = num_frames // 2
        self._calls = ((self._shown, when_shown), (max(self._tiled), when_tiled))
        self._to_tile, self._to_thumbnail = (
            YuvToRgb(max_side=MAX_TILE_SIDE),
            YuvToRgb(max_side=MAX_THUMBNAIL_SIDE),
        )
        self._thumbnail: Image.Image | None = None
        self._tiles: list[Image.Image] = []

    def see(self, picture: av.VideoFrame) -> None:
        """Look at the next frame, as the writer has it: from what is YUV already a tile takes a fifth of the time (0.3 of 1.5 ms)."""
        if self._num_seen in self._tiled:
            self._tiles.append(Image.fromarray(self._to_tile(picture)))
        if self._num_seen == self._shown:
            self._thumbnail = Image.fromarray(self._to_thumbnail(picture))
        for number, call in self._calls:
            if number == self._num_seen and call is not None:
                call()
        self._num_seen += 1

    def save_thumbnail(
        self, path: Path, *, xmp: bytes = b"", finish: Callable[[Path], None] | None = None
    ) -> tuple[int, int]:
        """Write the frame in the middle as WebP, once it has passed.

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
        """Write the tiles as JPEG, once they have passed, as `domain.video` says in which grid; otherwise as `save_thumbnail`."""
        rows, columns = sheet_grid(self._num_frames)
        width, height = self._tiles[0].size
        sheet = Image.new("RGB", (columns * width, rows * height))
        for index, tile in enumerate(self._tiles):
            sheet.paste(tile, (index % columns * width, index // columns * height))
        return _save(sheet, path, "JPEG", xmp, finish)


def _save(
    picture: Image.Image, path: Path, format: str, xmp: bytes, finish: Callable[[Path], None] | None
) -> tuple[int, int]:
    options: dict[str, object] = {"xmp": xmp} if xmp else {}
    if format == "WEBP":
        options["method"] = _WEBP_METHOD
    with replacing(path, is_kept=False) as temporary:
        picture.save(temporary, format, quality=_QUALITY, **options)
        if finish is not None:
            finish(temporary)
    return picture.height, picture.width

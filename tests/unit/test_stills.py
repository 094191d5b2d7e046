"""The pictures that are made of a video, and which frames they show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitascope import media
from vitascope.domain.errors import WriteFailed
from vitascope.domain.request import OutputFormat
from vitascope.domain.video import sheet_frames, sheet_grid
from vitascope.media.frames import RgbToYuv


def clip(num_frames: int, height: int, width: int) -> media.Frames:
    """Each frame is of one grey, which says its number."""
    greys = (np.arange(num_frames) * 255 // max(1, num_frames - 1)).astype(np.uint8)
    return np.broadcast_to(greys[:, None, None, None], (num_frames, height, width, 3))


def watched(frames: media.Frames) -> media.Stills:
    stills = media.Stills(len(frames))
    convert = RgbToYuv("yuv420p", limited=True)
    for frame in frames:
        stills.see(convert(frame))
    return stills


@pytest.mark.parametrize(
    ("num_frames", "rows", "columns", "last"),
    [
        (1, 1, 1, 0),
        (2, 1, 2, 1),
        (5, 1, 5, 4),
        (17, 4, 5, 16),
        (25, 5, 5, 24),
        (26, 5, 5, 24),
        (240, 5, 5, 230),
    ],
)
def test_a_sheet_shows_the_whole_length(num_frames: int, rows: int, columns: int, last: int) -> None:
    frames = sheet_frames(num_frames)
    assert (frames[0], frames[-1]) == (0, last)
    assert len(set(frames)) == len(frames) == min(num_frames, 25)
    assert sheet_grid(num_frames) == (rows, columns)


@pytest.mark.parametrize(
    ("height", "width", "thumbnail", "tile"),
    [
        (64, 96, (96, 64), (96, 64)),  # what is small stays as it is
        (1080, 1920, (640, 360), (160, 90)),
        (1280, 720, (360, 640), (90, 160)),
        (16, 4096, (640, 2), (160, 1)),
    ],
)
def test_pictures_keep_the_shape(
    tmp_path: Path, height: int, width: int, thumbnail: tuple[int, int], tile: tuple[int, int]
) -> None:
    stills = watched(clip(7, height, width))
    assert stills.save_thumbnail(tmp_path / "a.webp") == thumbnail[::-1]
    assert stills.save_spritesheet(tmp_path / "a.jpg") == (2 * tile[1], 5 * tile[0])
    with Image.open(tmp_path / "a.webp") as picture:
        assert (picture.format, picture.mode, picture.size) == ("WEBP", "RGB", thumbnail)
        assert picture.getpixel((0, 0)) == pytest.approx((127, 127, 127), abs=3), "the frame in the middle"
    with Image.open(tmp_path / "a.jpg") as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (5 * tile[0], 2 * tile[1]))


def test_tiles_are_in_reading_order_and_the_rest_is_black(tmp_path: Path) -> None:
    watched(clip(7, 32, 32)).save_spritesheet(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as sheet:
        greys = [
            sheet.getpixel((column * 32 + 16, row * 32 + 16))[0] for row in (0, 1) for column in range(5)
        ]  # type: ignore[index]
    assert greys == pytest.approx([0, 42, 85, 127, 170, 212, 255, 0, 0, 0], abs=3)


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_a_writer_shows_them_in_their_own_colours(tmp_path: Path, format: OutputFormat) -> None:
    """From what it writes: an MP4 has its colours in another form, a GIF has them as they came."""
    frame = np.empty((64, 96, 3), np.uint8)

    def reused() -> Iterator[media.Frame]:
        for red in (0, 200, 250):
            frame[:] = (red, 60, 20)
            yield frame

    stills = media.Stills(3)
    media.write_video(reused(), tmp_path / "a", fps=8, format=format, stills=stills)
    stills.save_thumbnail(tmp_path / "a.webp")
    stills.save_spritesheet(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.webp") as picture:
        assert picture.getpixel((48, 32)) == pytest.approx((200, 60, 20), abs=3)
    with Image.open(tmp_path / "a.jpg") as sheet:
        reds = [sheet.getpixel((column * 96 + 48, 32)) for column in range(3)]
    assert np.abs(np.array(reds) - [(0, 60, 20), (200, 60, 20), (250, 60, 20)]).max() <= 3


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    stills = watched(clip(2, 32, 32))
    with pytest.raises(WriteFailed, match="folder for the file does not exist"):
        stills.save_thumbnail(tmp_path / "nowhere" / "a.webp")

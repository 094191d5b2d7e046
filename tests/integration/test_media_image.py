"""Pictures that strangers send are read or refused, in one sentence, whatever is in them."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitascope import media
from vitascope.domain.errors import UnreadableImage, WriteFailed


def gradient(height: int = 24, width: int = 32) -> media.Frame:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 8, columns * 6, 255 - rows * 4 - columns * 3], axis=-1).astype(np.uint8)


def packed(picture: Image.Image, format: str, **options: object) -> bytes:
    content = io.BytesIO()
    picture.save(content, format, **options)
    return content.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is this large and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 98, "subsampling": 0})],
)
def test_known_formats_are_read(tmp_path: Path, format: str, options: dict[str, object]) -> None:
    content = packed(Image.fromarray(gradient()), format, **options)
    (tmp_path / "picture").write_bytes(content)
    for source in (content, tmp_path / "picture"):
        frame = media.read_image(source)
        assert (frame.shape, frame.dtype, frame.flags.writeable) == ((24, 32, 3), np.uint8, True)
        assert np.abs(frame.astype(int) - gradient()).max() <= 6


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = Image.fromarray(np.full((8, 8), 200, np.uint8))
    if mode == "I;16":
        picture = Image.fromarray(np.full((8, 8), 200 * 257, np.uint16))
    else:
        start = grey if mode in {"1", "L", "LA"} else grey.convert("RGB")
        picture = start.convert(mode, palette=Image.Palette.ADAPTIVE)  # the web palette would dither
    frame = media.read_image(packed(picture, "JPEG" if mode == "CMYK" else "PNG"))
    assert frame.shape == (8, 8, 3)
    if mode != "1":  # which has only black and white dots
        assert np.abs(frame.astype(int) - 200).max() <= 3


def test_transparent_becomes_white() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, 2:, 3] = 255
    frame = media.read_image(packed(Image.fromarray(pixels), "PNG"))
    assert (frame[:, :2] == 255).all()
    assert (frame[:, 2:] == 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(gradient())
    frame = media.read_image(packed(stored, "PNG", exif=exif))
    turned = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, 1),
    }  # fmt: skip
    assert np.array_equal(frame, turned[orientation](gradient()))


def test_damaged_exif_is_no_reason_to_refuse() -> None:
    content = packed(Image.fromarray(gradient()), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff\xff\xff")
    assert media.read_image(content).shape == (24, 32, 3)


@pytest.mark.parametrize("size", [(60_000, 60_000), (10_000, 5_001), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(UnreadableImage, match="at most 50 megapixels") as caught:
        media.read_image(png_header(*size))
    assert caught.value.hint == "send a smaller picture"


def test_the_limit_is_the_callers() -> None:
    content = media.image_to_png(gradient())
    with pytest.raises(UnreadableImage, match="32x24"):
        media.read_image(content, max_pixels=32 * 24 - 1)
    assert media.read_image(content, max_pixels=32 * 24).shape == (24, 32, 3)


@pytest.mark.parametrize("content", [b"", b"hello", b"%PDF-1.7", b"<svg/>"])
def test_other_files_are_refused_with_help(content: bytes) -> None:
    with pytest.raises(UnreadableImage, match="not a picture in a format that can be read") as caught:
        media.read_image(content)
    assert caught.value.hint == "send a PNG, JPEG, WebP or GIF file"


def test_formats_that_need_outside_programs_or_parsers_are_refused() -> None:
    for format in ("TIFF", "BMP", "EPS", "PPM"):
        with pytest.raises(UnreadableImage):
            media.read_image(packed(Image.fromarray(gradient()), format))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_truncated_pictures_are_refused(format: str) -> None:
    content = packed(Image.fromarray(gradient()), format)
    for length in range(0, len(content) * 3 // 4, 7):
        with pytest.raises(UnreadableImage):
            media.read_image(content[:length])


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_damaged_pictures_raise_nothing_else(format: str) -> None:
    """Whatever Pillow raises or warns of stays inside; pytest makes warnings errors."""
    content = packed(Image.fromarray(gradient()), format)
    dice = random.Random(7)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(dice.randint(1, 6)):
            damaged[dice.randrange(min(len(damaged), 400))] = dice.randrange(256)
        try:
            assert media.read_image(bytes(damaged), max_pixels=100_000).dtype == np.uint8
        except UnreadableImage as error:
            assert "\n" not in error.message


def test_missing_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no.png"):
        with pytest.raises(UnreadableImage, match="no such picture file") as caught:
            media.read_image(path)
        assert str(tmp_path) not in caught.value.message


def test_png_keeps_every_pixel(tmp_path: Path) -> None:
    media.save_image(gradient(), tmp_path / "a.png")
    assert np.array_equal(media.read_image(tmp_path / "a.png"), gradient())
    assert np.array_equal(media.read_image(media.image_to_png(gradient())), gradient())
    with pytest.raises(WriteFailed):
        media.save_image(gradient(), tmp_path / "no" / "a.png")


def test_contact_sheet_lays_frames_out_in_reading_order() -> None:
    frames = np.stack([np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30, 40, 50)])
    sheet = media.contact_sheet(frames, columns=3, gap=2)
    assert sheet.shape == (10, 22, 3)
    assert [sheet[0, 0, 0], sheet[0, 8, 0], sheet[0, 16, 0], sheet[6, 0, 0], sheet[6, 8, 0]] == [
        10,
        20,
        30,
        40,
        50,
    ]
    assert (sheet[6:, 16:] == 255).all()

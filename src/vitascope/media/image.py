"""Reads pictures that users send, safely, and writes our own."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vitascope.domain.errors import UnreadableImage

from .frames import Frame, Frames
from .target import replacing

MAX_IMAGE_PIXELS = 50_000_000
"""Largest picture that is decoded: the biggest that phones take by default. 50 megapixels are 150 MB in memory."""

_FORMATS = ("PNG", "JPEG", "WEBP")
_SEND_A_PICTURE = "send a PNG, JPEG or WebP file"

#: What Pillow raises on broken files, besides its own errors: its parsers trust lengths and offsets that they read.
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    EOFError, OverflowError, AssertionError, NotImplementedError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: `warnings.catch_warnings` changes the process; two threads that leave it in another order would leave it changed.
_reading = threading.Lock()


def read_image(source: Path | bytes, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Frame:
    """Read a PNG, JPEG or WebP picture that somebody sent.

    It is turned upright as its EXIF data say, and what is transparent becomes white. The size is checked before a
    pixel is decoded, so a small file cannot fill the memory.

    Returns:
        RGB, `uint8`, `(height, width, 3)`; a copy of its own. Of an animation the first picture.

    Raises:
        UnreadableImage: there is no such file, it is none of these formats, it is damaged or too large.
    """
    with _reading, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd EXIF and of sizes that `max_pixels` judges
        try:
            return _read(source, max_pixels)
        except UnreadableImage:
            raise
        except UnidentifiedImageError:
            message = "the file is not a picture in a format that can be read"
            raise UnreadableImage(message, hint=_SEND_A_PICTURE) from None
        except Image.DecompressionBombError:
            raise _too_large(max_pixels) from None
        except MemoryError:
            raise UnreadableImage("there is not enough memory to read the picture") from None
        except _BROKEN:
            hint = "open it in another program and save it again"
            raise UnreadableImage("the picture is damaged or incomplete", hint=hint) from None


def save_image(frame: Frame, path: Path) -> None:
    """Write a frame as PNG; the file is there whole or not at all.

    Raises:
        WriteFailed: the folder is missing or not writable, or the disk is full.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(image_to_png(frame))


def image_to_png(frame: Frame) -> bytes:
    """Pack a frame as PNG, without loss, and quickly: 12 megapixels of a photo take 0.5 s, the best compression 21 s."""
    content = io.BytesIO()
    Image.fromarray(frame).save(content, "PNG", compress_level=1)
    return content.getvalue()


def contact_sheet(frames: Sequence[Frame] | Frames, *, columns: int, gap: int = 4) -> Frame:
    """Lay frames out in rows on white, in reading order, `gap` pixels apart: a video for a page of paper."""
    count, (height, width) = len(frames), frames[0].shape[:2]
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, frame in enumerate(frames):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = frame
    return sheet


def _read(source: Path | bytes, max_pixels: int) -> Frame:
    if isinstance(source, Path):
        source = _content(source)
    with Image.open(io.BytesIO(source), formats=_FORMATS) as picture:
        if picture.width * picture.height > max_pixels:
            raise _too_large(max_pixels, picture.width, picture.height)
        picture.load()
        upright = _UPRIGHT.get(_orientation(picture))
        rgb = _on_white(picture)
        return np.array(rgb if upright is None else rgb.transpose(upright))


def _content(path: Path) -> bytes:
    if not path.is_file():  # nor a device, which would never end
        raise UnreadableImage("there is no such picture file", hint="check the path")
    try:
        return path.read_bytes()
    except PermissionError:
        hint = "check its permissions"
        raise UnreadableImage("the picture file may not be read", hint=hint) from None


def _too_large(max_pixels: int, width: int | None = None, height: int | None = None) -> UnreadableImage:
    size = f"{width}x{height}" if width else "far too large"
    message = f"the picture is {size}, but at most {max_pixels / 1e6:g} megapixels are read"
    return UnreadableImage(message, hint="send a smaller picture")


def _orientation(picture: Image.Image) -> int:
    """How a camera held the picture, from 1 (upright) to 8. Damaged EXIF data are no reason to refuse a picture."""
    try:
        return int(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except _BROKEN:
        return 1


def _on_white(picture: Image.Image) -> Image.Image:
    """Any of Pillow's modes as RGB."""
    if picture.mode.startswith("I"):  # 16 bits of grey, which convert() would clip at 255 instead of scaling
        grey = np.asarray(picture).astype(np.uint32) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")

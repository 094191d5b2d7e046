"""Decodes one picture. Runs in the opening process, under its limits; nothing else calls it.

Knows Pillow and no numpy, which would double the process's memory and its time to start.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError
from PIL.Image import Resampling, Transpose

from .refusal import Refusal
from .signature import PictureKind
from .structure import strip

#: What Pillow raises on broken files, besides its own errors: its parsers trust lengths and offsets that they read.
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, UnidentifiedImageError,
    EOFError, OverflowError, AssertionError, NotImplementedError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)
"""Orientations that swap height and width."""

_SPARE = 2
"""JPEG is decoded at an eighth, a quarter or a half where that is still so many times the size asked for."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How a picture is wanted; as it is where neither `size` nor `max_side` is given."""

    max_pixels: int
    #: (height, width) that it is made to cover.
    size: tuple[int, int] | None = None
    #: Its longer side at most, in its own shape.
    max_side: int | None = None
    #: Give RGBA, with what is transparent as it is.
    with_opacity: bool = False

    def size_of(self, picture: Image.Image, orientation: int) -> tuple[int, int] | None:
        """Return the (height, width) that the picture gets before it is turned upright; None is its own."""
        if self.size is not None:
            return self.size[::-1] if orientation in _LYING else self.size
        longest = max(picture.size)
        if self.max_side is None or longest <= self.max_side:
            return None
        return picture.height * self.max_side // longest or 1, picture.width * self.max_side // longest or 1


def decode(content: bytes, kind: PictureKind, wish: Wish) -> Image.Image:
    """Decode a file's first picture: RGB, upright, transparent parts white unless the wish says otherwise.

    Raises:
        Refusal: it is damaged or too large.
        MemoryError: it does not fit the limit.
    """
    stripped, orientation = strip(content, kind)
    try:
        with Image.open(io.BytesIO(stripped), formats=[kind.upper()]) as picture:
            if picture.width * picture.height > wish.max_pixels:
                raise Refusal("size", width=picture.width, height=picture.height, limit=wish.max_pixels)
            return _shaped(picture, orientation, wish)
    except Image.DecompressionBombError:
        raise Refusal("bomb", limit=wish.max_pixels) from None
    except _BROKEN:
        raise Refusal("damaged") from None


def _shaped(picture: Image.Image, orientation: int, wish: Wish) -> Image.Image:
    """Load a picture and bring it to a size, then turn it upright."""
    size = wish.size_of(picture, orientation)
    if size is not None:
        height, width = size
        # in both directions, as the longer one may be cut
        picture.draft("RGB", (_SPARE * width, _SPARE * height))
    picture.load()
    plain = _plain(picture)
    if size is not None:
        plain = cover(plain, height, width)
    final = plain.convert("RGBA") if wish.with_opacity else _on_white(plain)
    turn = _UPRIGHT.get(orientation)
    return final if turn is None else final.transpose(turn)


def cover(picture: Image.Image, height: int, width: int) -> Image.Image:
    """Fill the whole size, cutting equal parts off both sides of the longer direction."""
    if (picture.height, picture.width) == (height, width):
        return picture
    scale = max(width / picture.width, height / picture.height)
    left = max(0.0, (picture.width - width / scale) / 2)  # rounding may leave a hair less than nothing
    top = max(0.0, (picture.height - height / scale) / 2)
    box = (left, top, picture.width - left, picture.height - top)
    # Lanczos: sharpest of what was measured (426x240 to 1280x720): 35.5 dB in 8 ms; bicubic 35.0 dB in 6 ms
    return picture.resize((width, height), Resampling.LANCZOS, box=box)


def _plain(picture: Image.Image) -> Image.Image:
    """Any of Pillow's modes as RGB, or RGBA if there is transparency."""
    if picture.mode.startswith("I"):  # 16 bits of grey, which convert() would clip at 255 instead of scaling
        high_bytes = picture.convert("I;16").tobytes()[1::2]
        picture = Image.frombytes("L", picture.size, high_bytes)
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white

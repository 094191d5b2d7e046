"""Takes a picture file apart without decoding it, and leaves only what makes the first picture.

Runs in the opening process. Comments, colour profiles, previews, locations and further frames never reach a decoder, so
that nothing in them is inflated or parsed; of EXIF data the one number is read that says which way is up.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .refusal import Refusal
from .signature import PictureKind

MAX_METADATA_BYTES = 8 * 1024 * 1024
"""What cameras and editors write beside the pixels stays below 2 MB."""
MAX_FRAMES = 1000
"""Frames of an animation whose first one is taken. Long GIFs have some hundreds."""

_PNG_NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_PNG_ANIMATION = {b"acTL", b"fcTL", b"fdAT"}
_WEBP_PIXELS = {b"VP8 ", b"VP8L", b"ALPH"}
_JPEG_NEEDED_APPS = {0xE0, 0xEE}
"""JFIF, and Adobe's word on how colours are coded."""
_JPEG_BARE = {0x01, *range(0xD0, 0xD9)}
"""Markers without a length."""


def strip(content: bytes, kind: PictureKind) -> tuple[bytes, int]:
    """Return the file with nothing but its first picture, and its EXIF orientation, from 1 to 8.

    Raises:
        Refusal: it is cut off, or carries too much beside the picture.
    """
    try:
        return {"png": _png, "jpeg": _jpeg, "webp": _webp, "gif": _gif}[kind](content)
    except (struct.error, IndexError):
        raise Refusal("damaged") from None


class _Beside:
    """Counts what is in a file beside its picture."""

    def __init__(self) -> None:
        self._metadata = 0
        self._frames = 0

    def metadata(self, num_bytes: int) -> None:
        self._metadata += num_bytes
        if self._metadata > MAX_METADATA_BYTES:
            raise Refusal("metadata", limit=MAX_METADATA_BYTES >> 20)

    def frames(self, count: int = 1) -> None:
        self._frames += count
        if self._frames > MAX_FRAMES:
            raise Refusal("frames", limit=MAX_FRAMES)


def _png(content: bytes) -> tuple[bytes, int]:
    kept, orientation, beside = [content[:8]], 1, _Beside()
    position = 8
    while position < len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if end > len(content):
            raise Refusal("damaged")
        if name in _PNG_NEEDED:
            kept.append(content[position:end])
        elif name == b"acTL":
            beside.frames(struct.unpack_from(">I", content, position + 8)[0])
        elif name not in _PNG_ANIMATION:
            beside.metadata(length)
        if name == b"eXIf":
            orientation = exif_orientation(content[position + 8 : end - 4])
        position = end
        if name == b"IEND":
            break
    return b"".join(kept), orientation


def _jpeg(content: bytes) -> tuple[bytes, int]:
    kept, orientation, beside = [content[:2]], 1, _Beside()
    position = 2
    while True:
        if content[position] != 0xFF:
            raise Refusal("damaged")
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _JPEG_BARE:
            position += 2
            continue
        if marker == 0xDA:  # pixels from here on
            return b"".join((*kept, content[position:])), orientation
        (length,) = struct.unpack_from(">H", content, position + 2)
        segment = content[position : position + 2 + length]
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0":
            orientation = exif_orientation(segment[10:])
        if (0xE0 <= marker <= 0xEF or marker == 0xFE) and marker not in _JPEG_NEEDED_APPS:
            beside.metadata(length)
        else:
            kept.append(segment)
        position += 2 + length


def _webp(content: bytes) -> tuple[bytes, int]:
    kept, orientation, beside, has_frame = [], 1, _Beside(), False
    for name, chunk in _riff(content):
        if name == b"VP8X":  # says what follows: no profile, no EXIF, no XMP any more
            kept.append(chunk[:8] + bytes([chunk[8] & ~0x2C]) + chunk[9:])
        elif name == b"ANMF":
            beside.frames()
            kept.extend([] if has_frame else [chunk])
            has_frame = True
        elif name == b"ANIM" or name in _WEBP_PIXELS:
            kept.append(chunk)
        else:
            beside.metadata(len(chunk))
        if name == b"EXIF":
            data = chunk[8:]
            orientation = exif_orientation(data.removeprefix(b"Exif\0\0"))
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body, orientation


def _riff(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    end = struct.unpack_from("<I", content, 4)[0] + 8
    if end > len(content):
        raise Refusal("damaged")
    position = 12
    while position + 8 <= end:
        name, length = struct.unpack_from("<4sI", content, position)
        padded = position + 8 + length + length % 2
        if position + 8 + length > end:
            raise Refusal("damaged")
        yield name, content[position:padded]
        position = padded


def _gif(content: bytes) -> tuple[bytes, int]:
    beside = _Beside()
    position = 13 + _gif_colours(content[10])
    first_end = None
    while position < len(content) and content[position] != 0x3B:
        if content[position] == 0x21:
            end = _gif_blocks(content, position + 2)
            beside.metadata(end - position if content[position + 1] != 0xF9 else 0)
        elif content[position] == 0x2C:
            beside.frames()
            end = _gif_blocks(content, position + 11 + _gif_colours(content[position + 9]))
            first_end = first_end or end
        elif first_end:  # what stands behind the first picture need not be right
            break
        else:
            raise Refusal("damaged")
        position = end
    if first_end is None:
        raise Refusal("damaged")
    return content[:first_end] + b";", 1


def _gif_colours(packed: int) -> int:
    """Return the length of a colour table by the byte that describes it."""
    return 3 << ((packed & 7) + 1) if packed & 0x80 else 0


def _gif_blocks(content: bytes, position: int) -> int:
    """Return where a chain of blocks ends; a chain that is cut off ends with the file."""
    while position < len(content) and (length := content[position]):
        position += 1 + length
    return min(position + 1, len(content))


def exif_orientation(data: bytes) -> int:
    """Read how a camera held the picture from EXIF data. Damaged ones are no reason to refuse a picture: upright then."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        for index in range(min(count, 512)):
            tag, form, _, value = struct.unpack_from(order + "HHIH", data, start + 2 + 12 * index)
            if tag == 0x0112 and form == 3:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1

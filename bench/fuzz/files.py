"""Small valid files, what can be done to them, and bombs."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image

Change = Callable[[bytearray, random.Random, list[bytes]], bytearray]


def valid_files() -> dict[str, bytes]:
    """Make small pictures of each format that is read, in the forms that decoders treat differently."""
    rgb = Image.frombytes(
        "RGB", (24, 16), bytes((x * 7 + y * 13) % 256 for x in range(24 * 3) for y in range(16))
    )
    rgba = rgb.convert("RGBA")
    rgba.putalpha(rgb.convert("L"))
    palette = rgb.quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [rgb.rotate(angle) for angle in (90, 180)]
    return {
        "png": _packed(rgb, "PNG", exif=exif),
        "png-alpha": _packed(rgba, "PNG"),
        "png-palette": _packed(palette, "PNG", transparency=3),
        "apng": _packed(rgb, "PNG", save_all=True, append_images=frames),
        "jpeg": _packed(rgb, "JPEG", exif=exif, comment=b"a comment"),
        "jpeg-progressive": _packed(rgb, "JPEG", progressive=True, subsampling=2),
        "jpeg-cmyk": _packed(rgb.convert("CMYK"), "JPEG"),
        "webp": _packed(rgb, "WEBP", exif=exif),
        "webp-lossless": _packed(rgba, "WEBP", lossless=True),
        "webp-animation": _packed(rgb, "WEBP", save_all=True, append_images=frames),
        "gif": _packed(palette, "GIF"),
        "gif-animation": _packed(
            rgb, "GIF", save_all=True, append_images=frames, loop=0, comment=b"a comment"
        ),
    }


def valid_videos() -> dict[str, bytes]:
    """Make a small video of each container that is read."""
    return {"mp4": _video("libx264", "mp4"), "webm": _video("libvpx-vp9", "webm")}


def _video(codec: str, container: str) -> bytes:
    content = io.BytesIO()
    with av.open(content, "w", format=container) as output:
        stream = cast(VideoStream, output.add_stream(codec, rate=8, options={"threads": "1"}))
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for index in range(6):
            picture = Image.radial_gradient("L").resize((48, 32)).rotate(40 * index).convert("RGB")
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
        output.mux(stream.encode(None))
    return content.getvalue()


def _packed(picture: Image.Image, format: str, **options: object) -> bytes:
    content = io.BytesIO()
    picture.save(content, format, **options)
    return content.getvalue()


def mutated(content: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """Damage a file in one to three ways. PNG's checksums are often set right again, or little would be decoded."""
    damaged = bytearray(content)
    for _ in range(dice.choice([1, 1, 2, 3])):
        damaged = dice.choice(CHANGES)(damaged, dice, others)
    if dice.random() < 0.7:
        damaged = with_right_checksums(damaged)
    return bytes(damaged)


def _flip_bits(content: bytearray, dice: random.Random, _others: list[bytes]) -> bytearray:
    for _ in range(dice.randint(1, 8)):
        if content:
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    return content


def _truncate(content: bytearray, dice: random.Random, _others: list[bytes]) -> bytearray:
    return content[: dice.randrange(len(content) + 1)]


def _splice(content: bytearray, dice: random.Random, others: list[bytes]) -> bytearray:
    other = dice.choice(others)
    return content[: dice.randrange(len(content) + 1)] + other[dice.randrange(len(other)) :]


def _lie_about_a_length(content: bytearray, dice: random.Random, _others: list[bytes]) -> bytearray:
    """Write an edge value over two or four bytes, most often near the start, where sizes and lengths stand."""
    value = dice.choice(
        [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, dice.getrandbits(32)]
    )
    form = dice.choice([">I", "<I", ">H", "<H"])
    width = struct.calcsize(form)
    if len(content) > width:
        start = dice.randrange(min(len(content) - width, dice.choice([64, 1 << 30])))
        struct.pack_into(form, content, start, value & (1 << 8 * width) - 1)
    return content


def _repeat_a_part(content: bytearray, dice: random.Random, _others: list[bytes]) -> bytearray:
    start = dice.randrange(len(content) + 1)
    part = content[start : start + dice.randint(1, 200)]
    return content[:start] + part * dice.choice([2, 3, 50]) + content[start:]


def _drop_a_part(content: bytearray, dice: random.Random, _others: list[bytes]) -> bytearray:
    start = dice.randrange(len(content) + 1)
    return content[:start] + content[start + dice.randint(1, 40) :]


CHANGES: list[Change] = [
    _flip_bits,
    _flip_bits,
    _truncate,
    _splice,
    _lie_about_a_length,
    _repeat_a_part,
    _drop_a_part,
]


def with_right_checksums(content: bytearray) -> bytearray:
    """Set the checksums of a PNG's chunks right, as far as they can be told."""
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        return content
    position = 8
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        end = position + 8 + length
        if end + 4 > len(content):
            break
        struct.pack_into(">I", content, end, zlib.crc32(content[position + 4 : end]))
        position = end + 4
    return content


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, pixels: bytes, *before: bytes) -> bytes:
    """Make a PNG of any header and any pixels; `before` are chunks that stand before them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rest = png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + rest


def bombs() -> dict[str, tuple[bytes, str]]:
    """Small files that ask for much, each with a part of its refusal; an empty one: read, and the bomb left out."""
    files = valid_files()
    gif, jpeg = files["gif"], files["jpeg"]
    first_gif_frame = gif[gif.index(b"\x2c", 13 + 3 * 16) : -1]
    webp_frame = _riff_chunk(files["webp-animation"], b"ANMF")
    zeros = zlib.compress(bytes(64 << 20), 9)
    small = zlib.compress(bytes(8 * 25), 9)
    segment = b"\xff\xe1" + struct.pack(">H", 65535) + bytes(65533)
    inflating = png_chunk(b"iCCP", b"a\0\0" + zeros)
    return {
        "png-enormous": (png(60_000, 60_000, zlib.compress(b"")), "at most 50 megapixels"),
        "png-endless": (png(2**31 - 1, 2**31 - 1, zlib.compress(b"")), "at most 50 megapixels"),
        "gif-enormous": (gif[:6] + b"\xff\xff\xff\xff" + gif[10:], "at most 50 megapixels"),
        "webp-enormous": (
            _webp(b"VP8X" + struct.pack("<IB9s", 10, 0, b"\0\0\0" + b"\xff\x3f\0" * 2)),
            "at most 50 megapixels",
        ),
        "png-zip-bomb": (png(4000, 4000, zeros), ""),
        "png-more-pixels-than-it-says": (png(8, 8, zeros), ""),
        "png-profile-bomb": (png(8, 8, small, inflating), ""),
        "png-text-bomb": (png(8, 8, small, *[png_chunk(b"zTXt", b"a\0\0" + zeros)] * 20), ""),
        "png-text": (png(8, 8, small, *[png_chunk(b"tEXt", b"a\0" + bytes(1 << 20))] * 9), "8 MiB beside"),
        "png-exif": (png(8, 8, small, png_chunk(b"eXIf", bytes(9 << 20))), "8 MiB beside"),
        "jpeg-exif": (jpeg[:2] + segment * 150 + jpeg[2:], "8 MiB beside"),
        "apng-frames": (png(8, 8, small, png_chunk(b"acTL", struct.pack(">II", 10**6, 0))), "1000 frames"),
        "gif-frames": (gif[:-1] + first_gif_frame * 5000 + b";", "1000 frames"),
        "webp-frames": (_webp(files["webp-animation"][12:] + webp_frame * 5000), "1000 frames"),
    }


def _riff_chunk(content: bytes, name: bytes) -> bytes:
    start = content.index(name)
    (length,) = struct.unpack_from("<I", content, start + 4)
    return content[start : start + 8 + length + length % 2]


def _webp(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks

"""Tells what a file is by its first bytes, and refuses what no decoder here should see. Decodes nothing.

The name of a file and the type that its sender claims play no part.
"""

from __future__ import annotations

import struct
from typing import Literal

PictureKind = Literal["png", "jpeg", "webp", "gif"]
VideoKind = Literal["mp4", "webm"]

#: Files that people send by mistake and attackers on purpose: each is named in its refusal.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"8BPS", "a Photoshop file"),
    (b"II*\0", "a TIFF file"),
    (b"MM\0*", "a TIFF file"),
    (b"II+\0", "a TIFF file"),
    (b"MM\0+", "a TIFF file"),
    (b"BM", "a BMP file"),
    (b"\0\0\1\0", "an icon"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL file"),
    (b"\xff\x0a", "a JPEG XL file"),
    (b"PK\x03\x04", "an archive"),
    (b"PK\x05\x06", "an archive"),
    (b"7z\xbc\xaf'\x1c", "an archive"),
    (b"Rar!\x1a\x07", "an archive"),
    (b"\x1f\x8b", "an archive"),
    (b"BZh", "an archive"),
    (b"\xfd7zXZ\0", "an archive"),
    (b"(\xb5/\xfd", "an archive"),
    (b"#EXTM3U", "a playlist"),
    (b"ffconcat", "a playlist"),
    (b"[playlist]", "a playlist"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"#!", "a program"),
)

#: Pictures in an MP4's clothes.
_STILL_BRANDS = {
    b"heic": "a HEIC picture", b"heix": "a HEIC picture", b"heim": "a HEIC picture", b"hevc": "a HEIC picture",
    b"mif1": "a HEIC picture", b"msf1": "a HEIC picture", b"avif": "an AVIF picture", b"avis": "an AVIF picture",
}  # fmt: skip

#: What makes a file a second thing to another program, wherever it stands, in lower case. Six bytes and more: shorter
#: ones are found by chance in one large picture of some thousands.
_SECOND_FACES = (
    b"<script", b"<iframe", b"<!doctype html", b"<html>", b"<html ", b"<svg xmlns", b"<?php ", b"<?php\n", b"<?php\r",
    b"#extm3u", b"ffconcat version", b"rar!\x1a\x07", b"7z\xbc\xaf'\x1c",
)  # fmt: skip
_PDF_WINDOW = 1024
"""Readers accept a document that begins anywhere in here."""
_ZIP_TAIL = 22 + 0xFFFF
"""Where a ZIP's last record may stand: at the end, before a comment."""


def picture_kind(content: bytes) -> PictureKind | None:
    """Tell which of the formats that are read this claims to be; None if none."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if content.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    return None


def video_kind(content: bytes) -> VideoKind | None:
    """Tell which of the formats that are read this claims to be; None if none."""
    if content[4:8] == b"ftyp" and content[8:12] not in _STILL_BRANDS:
        return "mp4"
    if content.startswith(b"\x1aE\xdf\xa3"):
        return "webm"
    return None


def name_of(content: bytes) -> str | None:
    """Name what this is, with its article; None if it is nothing known."""
    if content[4:8] == b"ftyp":
        return _STILL_BRANDS.get(content[8:12], "a video")
    if content.startswith(b"\x1aE\xdf\xa3") or (content[:4] == b"RIFF" and content[8:12] == b"AVI "):
        return "a video"
    if picture_kind(content):
        return "a picture"
    if content[257:262] == b"ustar":
        return "an archive"
    for signature, name in _OTHERS:
        if content.startswith(signature):
            return name
    return _name_of_text(content[:_PDF_WINDOW].lstrip(b"\xef\xbb\xbf \t\r\n").lower())


def _name_of_text(start: bytes) -> str | None:
    if b"%pdf-" in start:
        return "a PDF document"
    if not start.startswith(b"<"):
        return "a playlist" if start.startswith((b"#extm3u", b"ffconcat", b"[playlist]")) else None
    if b"<svg" in start:
        return "an SVG file"
    return "a playlist" if b"<mpd" in start or b"<smil" in start else "a web page or XML file"


def has_second_face(content: bytes) -> bool:
    """Tell whether a file is something else too: a document, an archive or a script behind a picture's first bytes."""
    if b"%PDF-" in content[:_PDF_WINDOW] or _ends_as_zip(content):
        return True
    lower = content.lower()  # and a search for each: a regular expression takes ten times as long
    return any(face in lower for face in _SECOND_FACES)


def _ends_as_zip(content: bytes) -> bool:
    tail = content[-_ZIP_TAIL:]
    start = tail.rfind(b"PK\x05\x06")
    while start >= 0:
        if len(tail) - start >= 22:
            (comment_length,) = struct.unpack_from("<H", tail, start + 20)
            if start + 22 + comment_length == len(tail):
                return True
        start = tail.rfind(b"PK\x05\x06", 0, start)
    return False

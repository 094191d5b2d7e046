"""What comes back from a file that somebody sent."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .frames import Frame


@dataclass(frozen=True, slots=True)
class Picture:
    """What came back: pixels, upright, row by row."""

    height: int
    width: int
    pixels: bytes | bytearray
    #: 3 for RGB, 4 where opacity was asked for.
    channels: int = 3

    def frame(self) -> Frame:
        """Return the pixels as a frame of its own."""
        import numpy as np

        return np.frombuffer(self.pixels, np.uint8).reshape(self.height, self.width, self.channels).copy()

    def to_png(self) -> bytes:
        """Pack the picture as PNG, with the standard library alone: of a file that we wrote we know what is in it."""
        stride = self.channels * self.width
        rows = b"".join(
            b"\0" + self.pixels[start : start + stride] for start in range(0, len(self.pixels), stride)
        )
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2 if self.channels == 3 else 6, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """One picture of a video, and when it is shown."""

    seconds: float
    picture: Picture


@dataclass(frozen=True, slots=True)
class SentVideo:
    """What a video is that somebody sent, upright."""

    height: int
    width: int
    num_frames: int
    #: From its first picture to its last.
    seconds: float

    @property
    def fps(self) -> float:
        """Mean rate of its pictures; 0 if it has only one."""
        return (self.num_frames - 1) / self.seconds if self.seconds > 0 else 0.0

"""Writes pictures of our own; `opener` reads those that others send."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .frames import Frame, Frames
from .target import replacing


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

"""`python -m bench.provenance [--every N]`: times, sizes, and a file with each N-th byte changed in turn."""

from __future__ import annotations

import argparse
import collections
import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vitascope import media
from vitascope.domain.provenance import Claim
from vitascope.domain.request import OutputFormat, Watermark
from vitascope.media import provenance
from vitascope.media.certificate import Credentials, local_credentials

CLAIM = Claim(
    generator="Vitascope",
    version="0",
    model="pocket",
    license="Apache-2.0",
    source="embedded:pocket",
    revision=None,
    made_at="2026-11-21T12:00:00+00:00",
)
ROUNDS = 7


def moving(num_frames: int, height: int, width: int) -> Iterator[media.Frame]:
    """Coarse noise that moves to the right: neither trivial nor impossible to compress."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    picture = noise.repeat(8, axis=0).repeat(8, axis=1)
    return (np.roll(picture, index, axis=1) for index in range(num_frames))


def signing(folder: Path, credentials: Credentials) -> None:
    """Print what signing and checking cost beside writing."""
    for num_frames, height, width in ((17, 192, 192), (24, 720, 1280)):
        for format in ("mp4", "gif"):
            plain, signed = folder / "plain", folder / "signed"
            started = time.perf_counter()
            media.write_video(moving(num_frames, height, width), plain, fps=8, format=format)
            written = time.perf_counter() - started
            times = []
            for _ in range(ROUNDS):
                signed.write_bytes(plain.read_bytes())
                started = time.perf_counter()
                provenance.sign(signed, format, CLAIM, credentials)
                times.append(time.perf_counter() - started)
            started = time.perf_counter()
            with signed.open("rb") as file:
                finding = media.verify(file, credentials.certificates)
            checked = time.perf_counter() - started
            before, after = plain.stat().st_size, signed.stat().st_size
            print(
                f"{width}x{height}x{num_frames} {format}: written in {1000 * written:.0f} ms, {before} bytes; signing "
                f"{1000 * statistics.median(times):.1f} ms, {after - before} bytes; checking {1000 * checked:.0f} ms: {finding.state}"
            )


def drawing() -> None:
    """Print what a watermark costs."""
    logo = np.full((400, 400, 4), 200, np.uint8)
    for height, width in ((192, 192), (480, 832), (720, 1280)):
        frame = np.full((height, width, 3), 90, np.uint8)
        for mark in (Watermark(text="Made by AI"), Watermark(image="logo")):
            started = time.perf_counter()
            for _ in media.draw_watermark([frame] * 100, mark, height=height, width=width, image=logo):
                pass
            kind = "picture" if mark.text is None else "text"
            print(
                f"{width}x{height}: {kind} {10 * (time.perf_counter() - started):.2f} ms a frame, of 100 with the drawing"
            )


def changes(folder: Path, credentials: Credentials, every: int) -> None:
    """Change one bit of each byte in turn, and count what a check says."""
    formats: tuple[OutputFormat, ...] = ("mp4", "gif")
    for format in formats:
        path = folder / "small"
        media.write_video(moving(4, 48, 64), path, fps=8, format=format)
        provenance.sign(path, format, CLAIM, credentials)
        content = path.read_bytes()
        found: collections.Counter[str] = collections.Counter()
        for at in range(0, len(content), every):
            changed = bytearray(content)
            changed[at] ^= 1
            found[provenance.examine(io.BytesIO(changed), format).state] += 1
        print(f"{format} of {len(content)} bytes, one bit changed: {dict(found)}")


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="change only each so many-th byte")
    every = parser.parse_args().every
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        credentials = local_credentials(folder / "provenance.pem")
        signing(folder, credentials)
        drawing()
        changes(folder, credentials, every)


if __name__ == "__main__":
    main()

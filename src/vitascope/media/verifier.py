"""Whether a file is what it says of its origin. Our side: the file itself is read in a process of its own, under limits."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from vitascope.domain.errors import QueueFull
from vitascope.domain.provenance import Finding

if TYPE_CHECKING:
    from .provenance import SignedFormat

SECONDS = 60
"""Time for one file, of the clock. 300 MB take 1 to 2 s."""
MEMORY_BYTES = 2 * 1024 * 1024 * 1024
"""Address space; the libraries take 0.3 GB of it."""
_MAX_ANSWER_BYTES = 1024 * 1024

_GRACE_SECONDS = 2.0
"""How much later than the process's own clock we give up on it."""

_AT_ONCE, _WAITING = 2, 2
_turns = threading.BoundedSemaphore(_AT_ONCE)
_places = threading.BoundedSemaphore(_AT_ONCE + _WAITING)


def verify(file: BinaryIO | Callable[[], BinaryIO], certificates: str = "") -> Finding:
    """Read back what was signed into a file, and whether it is still true.

    Args:
        file: from its beginning; anybody's. Or what opens it, which a storage may do by sending all of it: that is not asked
            for unless there is a place for one more.
        certificates: PEM of the chain that is known here, the signing one first; empty if none is.

    Raises:
        QueueFull: too many others are being read.
    """
    if not _places.acquire(blocking=False):  # who waits holds a thread of the server
        raise QueueFull("too many files are being verified", retry_after_seconds=2)
    try:
        with file() if callable(file) else contextlib.nullcontext(file) as opened:
            format = _format_of(opened.read(12))
            if format is None:
                return Finding(state="none", problems=("unknown_format",))
            with _turns, _on_disk(opened) as seen:
                return _ask(seen, format, certificates)
    finally:
        _places.release()


def _format_of(start: bytes) -> SignedFormat | None:
    if start[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "webp"
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    return "mp4" if start[4:8] == b"ftyp" else None


@contextlib.contextmanager
def _on_disk(file: BinaryIO) -> Iterator[BinaryIO]:
    """Give a file that a process can inherit: itself, or a nameless copy of what a storage sends."""
    file.seek(0)
    try:
        file.fileno()
    except (OSError, AttributeError):
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            os.lseek(copy.fileno(), 0, os.SEEK_SET)
            yield copy
    else:
        file.flush()  # a spooled one may have just gone to the disk
        os.lseek(file.fileno(), 0, os.SEEK_SET)  # behind the buffer's back: the process reads the descriptor
        yield file


def _ask(file: BinaryIO, format: SignedFormat, certificates: str) -> Finding:
    order = {
        "format": format,
        "certificates": certificates,
        "serial": _serial(certificates),
        "memory_bytes": MEMORY_BYTES,
        "seconds": SECONDS,
    }
    with subprocess.Popen(
        # -P: no module is looked for in the working directory. -B: nothing is written
        [sys.executable, "-P", "-B", "-m", "vitascope.media.verifying_process", json.dumps(order)],
        env={"PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path)), "LC_ALL": "C.UTF-8"},
        stdin=file.fileno(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        process_group=0,  # a Ctrl-C in the terminal is ours to handle
    ) as process:
        try:
            answer, _ = process.communicate(timeout=SECONDS + _GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return Finding(state="tampered", problems=("too_slow",))
        finally:
            process.kill()  # whatever happened; one that has ended is left alone
    if process.returncode != 0 or len(answer) > _MAX_ANSWER_BYTES:
        return Finding(state="tampered", problems=("unreadable",))
    values = json.loads(answer)
    return Finding(**{**values, "problems": tuple(values["problems"])})


def _serial(certificates: str) -> str:
    if not certificates:
        return ""
    from cryptography import x509

    return str(x509.load_pem_x509_certificates(certificates.encode())[0].serial_number)

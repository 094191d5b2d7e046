"""The way in: files that somebody sent are opened in a process of their own, and only pixels come back.

The server's side. Imports no decoder, so that none is ever at work in the process that calls it; the sentences that
users read are made here from codes and numbers, so that nothing from a decoder or from the file gets into them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from vitascope.domain.errors import QueueFull, StorageError, UnreadableImage, UnreadableVideo

from .exchange import Broken, Header, Line, TooSlow
from .opened import Picture, SentVideo, ShownPicture
from .refusal import Refusal
from .signature import PictureKind, VideoKind, name_of, picture_kind, video_kind

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

MAX_IMAGE_PIXELS = 50_000_000
"""Largest picture that is decoded: the biggest that phones take by default. 50 megapixels are 150 MB in memory."""
MAX_IMAGE_BYTES = 128 * 1024 * 1024
"""Largest picture file that is looked at; 50 megapixels of noise are 150 MB as PNG, of a photo 90 MB."""

MAX_VIDEO_PIXELS = 3840 * 2160
"""Largest picture of a video."""

MEMORY_BYTES = 1280 * 1024 * 1024
"""Address space of the process that reads one file. 50 megapixels take 448 to 640 MiB of it, with transparency up to 896 as
PNG and 1,280 as WebP (docs/experiments.md)."""
SECONDS = 20
"""Time for one file, of the processor and of the clock: 50 megapixels take 1 to 5 s on a busy core."""

_START_SECONDS = 60.0
_GRACE_SECONDS = 2.0
"""How much later than the process's own clock the server gives up on it."""

_SEND_A_PICTURE = "send a PNG, JPEG, WebP or GIF file"
_SAVE_AGAIN = "open it in another program and save it again"
_SEND_A_VIDEO = "send an MP4 or WebM file with H.264, HEVC, VP8, VP9 or AV1"
_SMALLER = "send a smaller {what}"
_TOO_MANY = "too many pictures are being read"
_NUMBERS = ("width", "height", "limit")

#: What the opening process's codes mean to who sent the file.
_SENTENCES: dict[str, tuple[str, str]] = {
    "size": ("the {what} is {width}x{height}, but at most {megapixels:g} megapixels are read", _SMALLER),
    "bomb": ("the {what} is far too large, but at most {megapixels:g} megapixels are read", _SMALLER),
    "two_things": (
        "the file is a {what} and something else at once, such as a document, an archive or a page",
        _SAVE_AGAIN,
    ),
    "metadata": ("the {what} carries more than {limit} MiB beside its pixels", _SAVE_AGAIN),
    "frames": (
        "the animation or video has more than {limit} frames",
        "send a shorter one, or a single picture",
    ),
    "duration": ("the video lasts longer than {limit} s", "send a shorter one"),
    "no_video": ("the file holds no video in a format that can be read", _SEND_A_VIDEO),
    "damaged": ("the {what} is damaged or incomplete", _SAVE_AGAIN),
    "crash": ("the {what} is damaged: its reader failed on it", _SAVE_AGAIN),
    "memory": ("reading the {what} takes more memory than is allowed", _SMALLER),
    "time": ("reading the {what} takes longer than is allowed", _SMALLER),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What reading one file may take."""

    memory_bytes: int = MEMORY_BYTES
    seconds: int = SECONDS
    #: Files that are read at the same time.
    processes: int = 2
    #: Files that wait for their turn; one more is answered at once that it must come later.
    waiting: int = 16
    #: How long one waits.
    patience_seconds: float = 30.0


class Opener:
    """Opens files in other processes, some at a time. Safe to use from any thread.

    A process is started when it is first needed and kept; one that ended badly is replaced when the next file comes.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._turns = threading.BoundedSemaphore(self._limits.processes)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._waiting = 0
        #: Processes that were started so far.
        self.started = 0

    def open_picture(
        self,
        content: bytes,
        *,
        size: tuple[int, int] | None = None,
        max_side: int | None = None,
        max_pixels: int = MAX_IMAGE_PIXELS,
        with_opacity: bool = False,
    ) -> Picture:
        """Read a PNG, JPEG, WebP or GIF picture that somebody sent.

        It is turned upright as its EXIF data say, and what is transparent becomes white; of an animation the first
        picture is taken.

        Args:
            content: the file.
            size: (height, width) that the picture is to cover; what is too much is cut off on both sides. None: as
                it is.
            max_side: without a size: what its longer side is to have at most, in its own shape.
            max_pixels: larger ones are refused before they are decoded.
            with_opacity: leave what is transparent as it is, and give a fourth channel that says so.

        Raises:
            UnreadableImage: it is none of these formats, damaged, too large, or something else besides a picture.
            QueueFull: too many others wait.
        """
        order = {
            "do": "picture",
            "kind": _checked_kind(content),
            "height": size[0] if size else 0,
            "width": size[1] if size else 0,
            "max_side": max_side or 0,
            "max_pixels": max_pixels,
            "with_opacity": with_opacity,
        }
        channels = 4 if with_opacity else 3

        def read(line: Line, header: Header) -> Picture:
            height, width = count(header, "height"), count(header, "width")
            if header["is"] != "picture" or height * width > max(
                max_pixels, size[0] * size[1] if size else 0
            ):
                raise Broken
            return Picture(height, width, line.receive_bytes(height * width * channels), channels)

        outcome = self._open(order, content, read)
        if isinstance(outcome, Refusal):
            message, hint = _sentence(outcome, "picture")
            raise UnreadableImage(message, hint=hint)
        return outcome

    def open_video(
        self,
        content: bytes,
        *,
        size: tuple[int, int],
        max_frames: int,
        max_seconds: float,
        fps: float = 0.0,
        num_pictures: int | None = None,
        seconds: int | None = None,
        take: Callable[[ShownPicture], None] | None = None,
    ) -> list[ShownPicture]:
        """Read the pictures of an MP4 or WebM video that somebody sent; sound is left out.

        Args:
            content: the file.
            size: (height, width) that the pictures are to cover.
            max_frames: a video with more is refused.
            max_seconds: a video that lasts longer is refused.
            fps: give what is shown at every so many instants of a second; 0: each picture once.
            num_pictures: give the first so many and look no further; None: all.
            seconds: how long it may take, where that is not the usual time.
            take: gets each picture as soon as it is there; then only the last one is kept and returned.

        Raises:
            UnreadableVideo: it is none of these formats, damaged, too large, or too long.
            QueueFull: too many others wait.
        """
        most = max_frames if num_pictures is None else num_pictures
        order = {
            **_video_order(content, max_frames, max_seconds),
            "do": "video",
            "height": size[0],
            "width": size[1],
            "fps": fps,
            "num_pictures": num_pictures or 0,
        }

        def read(line: Line, header: Header) -> list[ShownPicture] | Refusal:
            pictures: deque[ShownPicture] = deque(maxlen=None if take is None else 1)
            num_shown = 0
            while header.get("is") == "picture":
                if (header.get("height"), header.get("width")) != size or num_shown >= most:
                    raise Broken
                picture = Picture(*size, line.receive_bytes(size[0] * size[1] * 3))
                pictures.append(ShownPicture(count(header, "microseconds") / 1e6, picture))
                num_shown += 1
                if take is not None:
                    take(pictures[-1])
                header = line.receive()
            if header.get("is") == "refused":  # after some good ones
                return _refusal(header)
            if header.get("is") != "end" or not pictures:
                raise Broken
            return list(pictures)

        return _of_video(self._open(order, content, read, seconds))

    def measure_video(self, content: bytes, *, max_frames: int, max_seconds: float) -> SentVideo:
        """Decode a video that somebody sent from its beginning to its end, and tell what it is.

        Raises:
            UnreadableVideo: it is none of the formats, damaged, too large, or too long.
            QueueFull: too many others wait.
        """
        order = {**_video_order(content, max_frames, max_seconds), "do": "measure"}

        def read(_line: Line, header: Header) -> SentVideo:
            names = ("height", "width", "num_frames", "microseconds")
            if header.get("is") != "measured":
                raise Broken
            height, width, num_frames, microseconds = (count(header, name) for name in names)
            return SentVideo(height, width, num_frames, microseconds / 1e6)

        return _of_video(self._open(order, content, read))

    def close(self) -> None:
        """End the processes. Files that are being read are read on; afterwards the opener can be used again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()

    def _open(
        self,
        order: Header,
        content: bytes,
        read: Callable[[Line, Header], Answer | Refusal],
        seconds: int | None = None,
    ) -> Answer | Refusal:
        limits = self._limits if seconds is None else replace(self._limits, seconds=seconds)
        with self._turn():
            process = self._take()
            try:
                return process.open(order, content, limits, read)
            finally:
                self._give_back(process)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock:
            if self._waiting >= self._limits.waiting + self._limits.processes:
                raise QueueFull(_TOO_MANY, retry_after_seconds=2)
            self._waiting += 1
        try:
            if not self._turns.acquire(timeout=self._limits.patience_seconds):
                raise QueueFull(_TOO_MANY, retry_after_seconds=10)
            try:
                yield
            finally:
                self._turns.release()
        finally:
            with self._lock:
                self._waiting -= 1

    def _take(self) -> _Process:
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
                self.started += process is None
            if process is None:
                return _Process()
            if process.is_alive():
                return process
            process.end()

    def _give_back(self, process: _Process) -> None:
        if process.is_free:
            with self._lock:
                self._idle.append(process)
        else:
            process.end()


class _Process:
    """One opening process, which opens one file at a time, each in a fork of its own."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._control = Line(ours)
        self._socket = ours
        with theirs:
            self._process = subprocess.Popen(
                # -P: no module is looked for in the working directory. -B: nothing is written
                [sys.executable, "-P", "-B", "-m", "vitascope.media.opening_process"],
                env={"PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path)), "LC_ALL": "C.UTF-8"},
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,  # a Ctrl-C in the terminal is the server's to handle
            )
        #: Whether it may have another file; not before it has started, nor while it is busy, nor after it has failed.
        self.is_free = False
        try:
            self._control.until(_START_SECONDS)
            self._control.receive()
        except BaseException as error:
            self.end()
            if isinstance(error, TooSlow | Broken):
                raise StorageError("the program that reads pictures does not start") from None
            raise
        self.is_free = True

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def open(
        self, order: Header, content: bytes, limits: Limits, read: Callable[[Line, Header], Answer | Refusal]
    ) -> Answer | Refusal:
        """Have one file read; `read` takes the answer from the line."""
        self.is_free = False
        ours, theirs = socket.socketpair()
        with ours, theirs:
            line = Line(ours)
            line.until(limits.seconds + _GRACE_SECONDS)
            self._control.until(limits.seconds + _GRACE_SECONDS)
            outcome: Answer | Refusal | None = None
            with contextlib.suppress(TooSlow, Broken, OSError):
                socket.send_fds(self._socket, [b"f"], [theirs.fileno()])
                theirs.close()
                outcome = self._ask(line, order, content, limits, read)
            ours.close()  # a fork that still sends ends by that
        with contextlib.suppress(TooSlow, Broken):
            status = self._control.receive()["status"]
            self.is_free = True
            return outcome or Refusal(_why(status))
        return outcome or Refusal("time")

    def _ask(
        self,
        line: Line,
        order: Header,
        content: bytes,
        limits: Limits,
        read: Callable[[Line, Header], Answer | Refusal],
    ) -> Answer | Refusal:
        limited = {"memory_bytes": limits.memory_bytes, "seconds": limits.seconds, "bytes": len(content)}
        line.send({**order, **limited}, content)
        header = line.receive()
        return _refusal(header) if header.get("is") == "refused" else read(line, header)

    def end(self) -> None:
        """End it and what it has forked, at once."""
        self.is_free = False
        self._control.close()
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def count(header: Header, name: str) -> int:
    """Take a number from what the other side says; it is believed to be nothing else than one.

    Raises:
        Broken: it is no number.
    """
    value = header.get(name)
    if type(value) is not int or value < 0:
        raise Broken
    return value


def _refusal(header: Header) -> Refusal:
    code, numbers = header.get("code"), header.get("numbers")
    if not isinstance(code, str) or not isinstance(numbers, dict):
        raise Broken
    return Refusal(code, **{name: count(numbers, name) for name in _NUMBERS if name in numbers})


def _why(status: int) -> str:
    """Say what the end of a fork means that gave no answer; a negative status is a signal."""
    if status in (-signal.SIGXCPU, -signal.SIGALRM):
        return "time"
    logger.warning("a file made its reader fail", extra={"status": status})
    return "crash"


def _checked_kind(content: bytes) -> PictureKind:
    kind = picture_kind(content)
    if kind is None:
        name = name_of(content)
        what = f"{name}, not a picture" if name else "not a picture"
        raise UnreadableImage(f"the file is {what} in a format that can be read", hint=_SEND_A_PICTURE)
    if len(content) > MAX_IMAGE_BYTES:
        limit = MAX_IMAGE_BYTES >> 20
        raise UnreadableImage(
            f"the file is larger than the {limit} MiB that are read", hint="send a smaller picture"
        )
    return kind


def _checked_video_kind(content: bytes) -> VideoKind:
    kind = video_kind(content)
    if kind is None:
        name = name_of(content)
        what = f"{name}, not a video" if name else "not a video"
        raise UnreadableVideo(f"the file is {what} in a format that can be read", hint=_SEND_A_VIDEO)
    return kind


def _video_order(content: bytes, max_frames: int, max_seconds: float) -> Header:
    kind, limits = _checked_video_kind(content), {"max_frames": max_frames, "max_seconds": max_seconds}
    return {"kind": kind, "max_pixels": MAX_VIDEO_PIXELS, **limits}


def _of_video(outcome: Answer | Refusal) -> Answer:
    if isinstance(outcome, Refusal):
        message, hint = _sentence(outcome, "video")
        raise UnreadableVideo(message, hint=hint)
    return outcome


def _sentence(refusal: Refusal, what: str) -> tuple[str, str | None]:
    """Say what a refusal means: the message and the hint."""
    numbers = {**dict.fromkeys(_NUMBERS, 0), **refusal.numbers}
    message, hint = _SENTENCES.get(refusal.code, _SENTENCES["damaged"])
    message = message.format_map({**numbers, "what": what, "megapixels": numbers["limit"] / 1e6})
    return message, hint.format(what=what)

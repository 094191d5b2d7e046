"""The way in: files that somebody sent are opened in a process of their own, and only pixels come back.

The server's side. Imports no decoder, so that none is ever at work in the process that calls it; the sentences that
users read are made here from codes and numbers, so that nothing from a decoder or from the file gets into them.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vitascope.domain.errors import QueueFull, StorageError, UnreadableImage, UnreadableVideo

from .exchange import Broken, Header, Line, TooSlow
from .refusal import Refusal
from .signature import PictureKind, VideoKind, name_of, picture_kind, video_kind

if TYPE_CHECKING:
    from .frames import Frame, Frames

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

SECONDS_AS_LONG_AS_IT_IS_WRITTEN = 2.0
"""For each frame of a stored video whose frames are written to a file as they come: the reader waits for the writer then."""

SECONDS_A_FRAME = 0.25
"""Beside that, for each frame of a stored video: to shape one and to hand it over takes 20 ms at 832x480 on a busy core, and an
engine's reader is nice. What is stored was decoded within SECONDS once, so this is no way to hold a worker."""

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


_shared = Opener()
atexit.register(_shared.close)


def open_picture(
    content: bytes,
    *,
    size: tuple[int, int] | None = None,
    max_side: int | None = None,
    with_opacity: bool = False,
) -> Picture:
    """Read a picture that somebody sent, with the opener that this process has for all; see `Opener.open_picture`."""
    return _shared.open_picture(content, size=size, max_side=max_side, with_opacity=with_opacity)


def read_overlay(path: Path) -> Frame:
    """Read a picture with its opacity: (height, width, 4).

    Raises:
        UnreadableImage: there is no such file, or the picture is not read.
        QueueFull: too many others wait.
    """
    return _shared.open_picture(_content(path), with_opacity=True).frame()


def read_image(
    source: Path | bytes, *, size: tuple[int, int] | None = None, max_pixels: int = MAX_IMAGE_PIXELS
) -> Frame:
    """Read a picture from a file or from its bytes; see `Opener.open_picture`.

    Raises:
        UnreadableImage: there is no such file, or the picture is not read.
        QueueFull: too many others wait.
    """
    content = source if isinstance(source, bytes) else _content(source)
    return _shared.open_picture(content, size=size, max_pixels=max_pixels).frame()


def _content(path: Path) -> bytes:
    if not path.is_file():  # nor a device, which would never end
        raise UnreadableImage("there is no such picture file", hint="check the path")
    try:
        with path.open("rb") as file:
            return file.read(MAX_IMAGE_BYTES + 1)
    except PermissionError:
        raise UnreadableImage("the picture file may not be read", hint="check its permissions") from None


def measure_video(content: bytes, *, max_frames: int, max_seconds: float) -> SentVideo:
    """Tell what a video is that somebody sent; see `Opener.measure_video`."""
    return _shared.measure_video(content, max_frames=max_frames, max_seconds=max_seconds)


def read_video(
    path: Path, *, size: tuple[int, int], fps: float, num_frames: int, max_frames: int, max_seconds: float
) -> Frames:
    """Read a stored video that somebody sent, at a rate of our own; its last picture is held where it is too short.

    Args:
        path: of the file.
        size: (height, width) that the frames are to cover.
        fps: of the result.
        num_frames: of the result.
        max_frames: see `Opener.open_video`.
        max_seconds: see `Opener.open_video`.

    Raises:
        UnreadableVideo: it cannot be read.
        QueueFull: too many others wait.
    """
    import numpy as np

    content = _video_content(path)
    shown = _shared.open_video(
        content,
        size=size,
        max_frames=max_frames,
        max_seconds=max_seconds,
        fps=fps,
        num_pictures=num_frames,
        seconds=SECONDS + math.ceil(num_frames * SECONDS_A_FRAME),
    )
    frames = [np.frombuffer(each.picture.pixels, np.uint8).reshape(*size, 3) for each in shown]
    return np.stack(frames + frames[-1:] * (num_frames - len(frames)))


def picture_of_video(
    content: bytes, *, size: tuple[int, int], at_seconds: float, max_frames: int, max_seconds: float
) -> Picture:
    """Read the one picture of a video that is shown at an instant; its first one, where it has ended by then.

    Args:
        content: the file.
        size: (height, width) that the picture is to cover.
        at_seconds: after the first picture.
        max_frames: see `Opener.open_video`.
        max_seconds: see `Opener.open_video`.

    Raises:
        UnreadableVideo: it cannot be read.
        QueueFull: too many others wait.
    """
    fps, num_pictures = (1 / at_seconds, 2) if at_seconds > 0 else (0.0, 1)
    shown = _shared.open_video(
        content, size=size, fps=fps, num_pictures=num_pictures, max_frames=max_frames, max_seconds=max_seconds
    )
    return shown[-1].picture


def stream_video(
    path: Path, *, size: tuple[int, int], fps: float, num_frames: int, max_frames: int, max_seconds: float
) -> Iterator[Frame]:
    """Read a stored video as `read_video` does, frame by frame: only a few are in memory at a time.

    Close the iterator if it is not read to its end; the file is read as fast as its frames are taken, within reason.

    Raises:
        UnreadableVideo: it cannot be read.
        QueueFull: too many others wait.
    """
    import numpy as np

    content = _video_content(path)
    seconds = SECONDS + math.ceil(num_frames * SECONDS_AS_LONG_AS_IT_IS_WRITTEN)
    reader = _Streaming(
        lambda take: _shared.open_video(
            content,
            size=size,
            fps=fps,
            num_pictures=num_frames,
            max_frames=max_frames,
            max_seconds=max_seconds,
            seconds=seconds,
            take=take,
        )
    )
    frame: Frame | None = None
    with contextlib.closing(reader):
        for index in range(num_frames):
            picture = reader.next()
            if picture is not None:
                frame = np.frombuffer(picture.pixels, np.uint8).reshape(*size, 3)
            assert frame is not None, f"a video has a picture: {index}"
            yield frame


def _video_content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise UnreadableVideo("there is no such video file", hint="check the path") from None


class _Streaming:
    """Reads a video in a thread, a few pictures ahead of who takes them."""

    def __init__(self, open_video: Callable[[Callable[[ShownPicture], None]], object]) -> None:
        self._open_video = open_video
        self._pictures: queue.Queue[Picture | Exception | None] = queue.Queue(maxsize=4)
        self._is_closed = self._is_over = False
        self._thread = threading.Thread(target=self._run, name="read-video", daemon=True)
        self._thread.start()

    def next(self) -> Picture | None:
        """Return the next picture; None after the last one."""
        if self._is_over:
            return None
        item = self._pictures.get()
        self._is_over = not isinstance(item, Picture)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Read no further."""
        self._is_closed = True
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._pictures.get(timeout=0.05)

    def _run(self) -> None:
        end: Exception | None = None
        try:
            self._open_video(self._take)
        except Exception as error:  # noqa: BLE001  raised again where the pictures are taken
            end = error
        if not self._is_closed:
            self._pictures.put(end)

    def _take(self, shown: ShownPicture) -> None:
        if self._is_closed:
            raise Broken  # as if the other side were gone, which it then is
        self._pictures.put(shown.picture)

"""Read pictures and videos that somebody sent, with the one opener that this process has for all."""

from __future__ import annotations

import atexit
import contextlib
import math
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vitascope.domain.errors import UnreadableImage, UnreadableVideo

from .exchange import Broken
from .opened import Picture, SentVideo, ShownPicture
from .opener import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, SECONDS, Opener

if TYPE_CHECKING:
    from .frames import Frame, Frames

SECONDS_AS_LONG_AS_IT_IS_WRITTEN = 2.0
"""For each frame of a stored video whose frames are written to a file as they come: the reader waits for the writer then."""

SECONDS_A_FRAME = 0.25
"""Beside that, for each frame of a stored video: to shape one and to hand it over takes 20 ms at 832x480 on a busy core, and an
engine's reader is nice. What is stored was decoded within SECONDS once, so this is no way to hold a worker."""

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

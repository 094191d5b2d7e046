"""The process that opens what strangers send: `python -m vitascope.media.opening_process`, on a socket as standard input.

It never looks at a file itself. For each one it is handed a socket and forks; the fork reads that file alone, under
limits that it cannot lift, answers on that socket and ends. A file that breaks its decoder therefore sees no other file,
and leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import io
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import warnings
from itertools import islice
from pathlib import Path
from types import ModuleType

from .exchange import Broken, Header, Line
from .refusal import Refusal
from .signature import PictureKind, has_second_face

FAILED = 70
"""Status of a fork that ended in an exception."""

_IS_LINUX = sys.platform == "linux"


def main() -> None:
    """Serve until the server closes its end."""
    _have_nothing()
    _warm_up()
    with socket.socket(fileno=0) as control:
        line = Line(control)
        line.send({"is": "ready"})
        while (channel := _next_channel(control)) is not None:
            with channel:
                pid, ended = _fork(control, channel)
            line.send({"is": "free", "status": _wait(control, pid, ended)})


def _have_nothing() -> None:
    """Give up what an attacker could use: a folder to look around in, debuggers, privileges."""
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    folder.rmdir()  # nothing can be made in a folder that is gone
    warnings.simplefilter("ignore")  # Pillow warns of sizes that `decode` judges
    if _IS_LINUX:
        pr_set_dumpable, pr_set_no_new_privs = 4, 38  # linux/prctl.h
        prctl = ctypes.CDLL(None).prctl
        prctl(pr_set_dumpable, 0, 0, 0, 0)
        prctl(pr_set_no_new_privs, 1, 0, 0, 0)


def _warm_up() -> None:
    """Load all that decoding pictures takes: a fork may open no file, not even a module."""
    from PIL import GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

    from .decode import Wish, decode

    assert GifImagePlugin
    assert JpegImagePlugin
    assert PngImagePlugin
    assert WebPImagePlugin
    own = Image.new("RGBA", (4, 2), (255, 0, 0, 128))
    kinds: tuple[PictureKind, ...] = ("png", "jpeg", "webp", "gif")
    for kind in kinds:
        content = io.BytesIO()
        (own.convert("RGB") if kind == "jpeg" else own).save(content, kind)
        decode(content.getvalue(), kind, Wish(max_pixels=8, size=(2, 2)))


def _next_channel(control: socket.socket) -> socket.socket | None:
    """Wait for the next file's own socket; None when the server has closed its end."""
    _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
    return socket.socket(fileno=descriptors[0]) if descriptors else None


def _fork(control: socket.socket, channel: socket.socket) -> tuple[int, int]:
    """Let a fork read one file; returns its id, and a descriptor that is closed when it has ended."""
    ended, its_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(its_end)
        return pid, ended
    status = FAILED
    try:
        os.close(ended)
        control.close()  # it must neither speak for this process nor hear of the next file
        _answer(Line(channel))
        status = 0
    finally:
        os._exit(status)  # whatever happened: nothing of the process above may run twice


def _wait(control: socket.socket, pid: int, ended: int) -> int:
    """Wait for a fork's end; returns its status, negative for a signal. A server that goes takes it along."""
    poller = select.poll()
    poller.register(ended, select.POLLIN)
    poller.register(control, 0)  # only that the other end is closed
    if ended not in dict(poller.poll()):
        os.kill(pid, signal.SIGKILL)
    os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _answer(line: Line) -> None:
    order = line.receive()
    if order["do"] != "picture":
        from . import decode_video  # loads FFmpeg's libraries: files, so before the limits
    _limit(order)
    content = bytes(line.receive_bytes(order["bytes"]))
    try:
        if has_second_face(content):
            raise Refusal("two_things")  # noqa: TRY301  it is answered below as any other
        if order["do"] == "video":
            _answer_video(line, content, order, decode_video)
        elif order["do"] == "measure":
            _answer_measures(line, content, order, decode_video)
        else:
            _answer_picture(line, content, order)
    except Refusal as refusal:
        line.send({"is": "refused", "code": refusal.code, "numbers": refusal.numbers})
    except MemoryError:
        line.send({"is": "refused", "code": "memory", "numbers": {}})


def _answer_picture(line: Line, content: bytes, order: Header) -> None:
    from .decode import Wish, decode

    size = (order["height"], order["width"]) if order["height"] else None
    wish = Wish(order["max_pixels"], size, order["max_side"] or None, order["with_opacity"])
    picture = decode(content, order["kind"], wish)
    pixels = picture.tobytes()
    line.send({"is": "picture", "height": picture.height, "width": picture.width}, pixels)


def _answer_video(line: Line, content: bytes, order: Header, decoder: ModuleType) -> None:
    size, limits = (order["height"], order["width"]), _video_limits(order, decoder)
    shown = decoder.decode_video(content, order["kind"], limits, size=size, fps=order["fps"])
    for seconds, picture in islice(shown, order["num_pictures"] or None):
        header = {"height": picture.height, "width": picture.width, "microseconds": round(seconds * 1e6)}
        line.send({"is": "picture", **header}, picture.tobytes())
    line.send({"is": "end"})


def _answer_measures(line: Line, content: bytes, order: Header, decoder: ModuleType) -> None:
    found = decoder.measure_video(content, order["kind"], _video_limits(order, decoder))
    size = {"height": found.height, "width": found.width}
    microseconds = round(found.seconds * 1e6)
    line.send({"is": "measured", **size, "num_frames": found.num_frames, "microseconds": microseconds})


def _video_limits(order: Header, decoder: ModuleType) -> object:
    return decoder.VideoLimits(order["max_frames"], order["max_pixels"], order["max_seconds"])


def _limit(order: Header) -> None:
    """Set limits that hold for this fork and cannot be lifted again: memory, time, no files, no processes."""
    seconds = int(order["seconds"])
    limits = {
        resource.RLIMIT_AS: order["memory_bytes"],
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_NOFILE: 0,  # neither files nor sockets; what is open stays usable
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for what, value in limits.items():
        try:
            resource.setrlimit(what, (value, value))
        except (ValueError, OSError):
            if _IS_LINUX:  # other systems know fewer of them
                raise
    signal.setitimer(
        signal.ITIMER_REAL, seconds
    )  # of the clock, also while it waits; the signal ends the process
    if _IS_LINUX:
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    try:
        main()
    except Broken:  # the server is gone
        sys.exit(0)

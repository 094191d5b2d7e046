"""A file that is there whole or not at all.

Content goes to a temporary name beside the target and is renamed over it when it is complete and on the disk. A
reader never sees half a file, and whatever goes wrong (Ctrl-C included) leaves what was there before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import av

from vitascope.domain.errors import OutOfMemory, WriteFailed

_ELSEWHERE = "check the folder or write to another place"

#: What happened and what to check. No paths: the sentence is stored with the job and shown to clients.
_REASONS: dict[int, tuple[str, str]] = {
    errno.ENOENT: ("the folder for the file does not exist", "create the folder or write to another place"),
    errno.ENOTDIR: ("the folder for the file is not a folder", _ELSEWHERE),
    errno.EACCES: ("the folder for the file cannot be written to", "check the folder's permissions"),
    errno.EPERM: ("the folder for the file cannot be written to", "check the folder's permissions"),
    errno.EROFS: ("the folder for the file is on a read-only disk", _ELSEWHERE),
    errno.ENOSPC: ("the disk is full", "free some space or write to another disk"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or write to another disk"),
    errno.EFBIG: ("the file is larger than the system allows", "check the limit on file size (`ulimit -f`)"),
    errno.EISDIR: ("the file's name is taken by a folder", "choose another name"),
    errno.EEXIST: ("the file's name is taken by something that is not a file", "choose another name"),
    errno.ENAMETOOLONG: ("the file's name is too long", "choose a shorter name"),
}


def check_target(path: Path) -> None:
    """Find out whether a file could be written, before an hour of work goes into its content.

    Raises:
        WriteFailed: the folder is missing or not writable, or the name is taken by something else than a file.
    """
    with writing_errors():
        _temporary_file(_resolve(path)).unlink()


@contextlib.contextmanager
def replacing(path: Path, *, is_kept: bool = True) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `path` at the end, or vanishes if there is an exception.

    Where it is not kept there, because a storage takes it next, it need not survive a power cut, and nothing waits for the disk.

    The temporary file exists and is empty at first, in the target's folder, because renaming is only atomic
    within one file system. Its permissions follow the umask as those of any new file.

    Raises:
        WriteFailed: the file cannot be written, for a reason that the message tells.
    """
    with writing_errors():
        target = _resolve(path)
        temporary = _temporary_file(target)
        try:
            yield temporary
            if is_kept:
                _flush(temporary)
            temporary.replace(target)
        except BaseException:  # Ctrl-C and a closed generator must not leave half a file either
            temporary.unlink(missing_ok=True)
            raise
        if is_kept:
            _flush(target.parent)  # the new name, too, must survive a power cut


@contextlib.contextmanager
def writing_errors() -> Iterator[None]:
    """Say what the system's errors mean, as `WriteFailed`, or as `OutOfMemory` if it was that."""
    try:
        yield
    except av.error.MemoryError as error:
        message = "this machine ran out of memory while the file was written"
        raise OutOfMemory(message, hint="a smaller size or fewer frames need less") from error
    except (OSError, av.FFmpegError) as error:
        message, hint = _REASONS.get(error.errno or 0, ("the file could not be written", _ELSEWHERE))
        raise WriteFailed(message, hint=hint) from error


def _resolve(path: Path) -> Path:
    """Follow links, as any program does that writes to a file; refuse to rename over a folder or a device."""
    target = Path(os.path.realpath(path))
    with contextlib.suppress(FileNotFoundError):
        mode = target.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    return target


def _temporary_file(target: Path) -> Path:
    """Create an empty file beside `target`. The name is short of its own: the target's may be as long as is allowed."""
    temporary = target.with_name(f".vitascope-{secrets.token_hex(6)}.part")
    temporary.touch(exist_ok=False)
    return temporary


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

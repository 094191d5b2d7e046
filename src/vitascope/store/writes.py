"""Hears of writes to a file by any process, without asking again and again: Linux's inotify, and nothing elsewhere."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

_IN_MODIFY = 0x2  # linux/inotify.h
_BUFFER_BYTES = 65536


class Writes:
    """Writes to one file of a folder, which may come and go.

    Args:
        path: without symbolic links in its name.

    Raises:
        OSError: the system cannot tell of writes, or not of more files.
    """

    def __init__(self, path: Path) -> None:
        if sys.platform != "linux":
            raise OSError("only Linux has inotify")
        self._name = os.fsencode(path.name)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            # the folder: the file itself is made anew at times, and is then another one
            watched = ctypes.c_char_p(os.fsencode(path.parent))
            self._checked(self._libc.inotify_add_watch(self._fd, watched, ctypes.c_uint32(_IN_MODIFY)))
        except OSError:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """What can be read from when there were some."""
        return self._fd

    def have_come(self) -> bool:
        """Whether there were any since this was last asked."""
        has_come = False
        with contextlib.suppress(BlockingIOError):
            while events := os.read(self._fd, _BUFFER_BYTES):
                has_come = has_come or self._name in events
        return has_come

    def close(self) -> None:
        os.close(self._fd)

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

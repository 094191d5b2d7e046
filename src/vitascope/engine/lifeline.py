"""A process that shall not outlive the one that started it. Knows nothing of torch."""

from __future__ import annotations

import signal
import sys


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, even while a library holds the interpreter.

    Elsewhere the closed pipe does it, at the next moment that the interpreter is free.
    """
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)

"""A further rank that fails where a test says so: `faulty_rank.py FILE FD`; the file has what it does before its next shared forward."""

from __future__ import annotations

import os
import signal
import sys
import weakref
from pathlib import Path

from vitascope.engine import denoising, following
from vitascope.engine.calls import Call

ORDER, FD = Path(sys.argv[1]), int(sys.argv[2])
UNSHARED = 2
"""Forwards of the first step, in which nobody knows yet what is asked for next."""

forward = denoising._Denoiser._run
counts: weakref.WeakKeyDictionary[denoising._Denoiser, int] = weakref.WeakKeyDictionary()


def faulty(self: denoising._Denoiser, calls: list[Call]) -> object:
    counts[self] = counts.get(self, 0) + 1
    if counts[self] > UNSHARED and ORDER.exists():
        order = ORDER.read_text()
        ORDER.unlink()
        if order == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if order == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        raise RuntimeError(order)
    return forward(self, calls)


denoising._Denoiser._run = faulty  # type: ignore[assignment,method-assign]
following.main(FD)

"""How a command ends: after everything that wants to be told, and without taking the interpreter apart.

Python would free each of the hundreds of thousands of objects that torch has brought, one by one; the system takes them all at once
(docs/experiments.md).
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from typing import NoReturn


class Ending:
    """Made before anything else registers itself for the end, so that it comes last.

    Threads that are waited for have ended by then, and what others registered has run.
    """

    def __init__(self) -> None:
        self._code: int | None = None
        atexit.register(self._end)

    def exit(self, code: int) -> NoReturn:
        """End the process with a code."""
        self._code = code
        sys.exit(code)

    def _end(self) -> None:
        if self._code is None:  # an error that nobody knew of
            return
        logging.shutdown()  # registered when Python started, so later than this
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            return  # nobody reads any more: Python says so, and by its code
        os._exit(self._code)

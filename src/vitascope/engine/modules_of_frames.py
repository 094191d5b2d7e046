"""Tells at once which module a frame belongs to, while torch is imported.

torch notes the line where an operator is defined, and Python's `inspect` looks for that line's module through the files of all that are
imported: a twentieth of the time that importing torch takes, for what the frame itself says.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def told_by_frames() -> Iterator[None]:
    """Ask frames for their modules, as long as this lasts; of anything else `inspect` finds them as ever."""
    look_for = inspect.getmodule

    def getmodule(object: Any, _filename: str | None = None) -> types.ModuleType | None:
        if isinstance(object, types.FrameType):
            return sys.modules.get(object.f_globals.get("__name__", ""))
        return look_for(object, _filename)

    inspect.getmodule = getmodule
    try:
        yield
    finally:
        inspect.getmodule = look_for

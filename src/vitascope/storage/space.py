"""How much room is left on the disks of this machine."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How long a look at the disk is good for: no request waits for one of its own."""


class Space:
    """The room in some folders, and whether it is too little for more.

    Args:
        folders: they may be on different disks, and need not exist yet.
        min_free_bytes: less than this is too little.
        clock: tells how old a look is.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        min_free_bytes: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.min_free_bytes = min_free_bytes
        self._folders = folders
        self._clock = clock
        self._looked_at = float("-inf")
        self._free_bytes: int | None = None
        self._was_low = False

    @property
    def free_bytes(self) -> int | None:
        """What is left for this process on the fullest of the disks, some seconds ago at most; None if nobody knows."""
        if self._clock() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = self._clock()
            found = [free for folder in self._folders if (free := _free_bytes(folder)) is not None]
            self._free_bytes = min(found, default=None)
        return self._free_bytes

    @property
    def is_low(self) -> bool:
        """Whether there is too little. Where nobody knows, what is written will tell."""
        free = self.free_bytes
        is_low = free is not None and free < self.min_free_bytes
        if is_low != self._was_low:
            self._was_low = is_low
            numbers = {"free_bytes": free, "min_free_bytes": self.min_free_bytes}
            if is_low:
                logger.warning("too little disk space is left: no new jobs are taken", extra=numbers)
            else:
                logger.info("there is enough disk space again", extra=numbers)
        return is_low


def _free_bytes(folder: Path) -> int | None:
    for existing in (folder, *folder.parents):
        try:
            return shutil.disk_usage(existing).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None

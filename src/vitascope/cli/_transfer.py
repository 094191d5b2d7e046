"""How a download or a check looks: a bar by bytes on a terminal, else a line for each file, or JSON lines for machines."""

from __future__ import annotations

import json
import sys
import time

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from vitascope.catalog import Progress as Transfer

from ._terminal import printable, stderr

JSON_SECONDS = 0.5
"""A line for machines comes at most so often, and at each change of what is done."""

_WORDS = {
    "waiting": "another process is at this model: waiting for it",
    "listing": "asking the hub",
    "downloading": "downloading",
    "checking": "comparing",
    "converting": "making safetensors",
}


class TransferLine:
    """Shows a transfer. To be called with each `Transfer`."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self._as_json = as_json
        self._quiet = quiet
        self._bar: Progress | None = None
        self._last: tuple[str, str] | None = None
        self._said_at = float("-inf")

    def __enter__(self) -> TransferLine:
        if not (self._as_json or self._quiet) and stderr.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=stderr,
                transient=True,
            )
            self._task = self._bar.add_task("starting", total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Transfer) -> None:
        what = (progress.stage, progress.file)
        is_new, self._last = what != self._last, what
        words = printable(f"{_WORDS.get(progress.stage, progress.stage)} {progress.file}").rstrip()
        if self._bar is not None:
            total = progress.total_bytes or None
            self._bar.update(self._task, description=words, completed=progress.num_bytes, total=total)
        elif self._as_json:
            if is_new or time.monotonic() - self._said_at > JSON_SECONDS:
                self._said_at = time.monotonic()
                event = {"event": progress.stage, "file": progress.file}
                sizes = {"num_bytes": progress.num_bytes, "total_bytes": progress.total_bytes}
                sys.stdout.write(json.dumps({**event, **sizes}) + "\n")
                sys.stdout.flush()
        elif is_new and not self._quiet:
            share = f" ({100 * progress.num_bytes // progress.total_bytes} %)" if progress.total_bytes else ""
            sys.stderr.write(f"{words}{share}\n")
            sys.stderr.flush()

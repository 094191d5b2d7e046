"""What all lanes of a worker have in common: its folders and limits, how it stops, and how it asks store and storage."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Protocol, TypeVar

from vitascope.domain.errors import StorageError, StoreUnavailable
from vitascope.storage import StoredFile
from vitascope.store import Store

from .heartbeat import STORE_RETRY_SECONDS
from .patience import StepTimes

logger = logging.getLogger(__name__)

T = TypeVar("T")

FORGET_SECONDS = 1.0
"""What removing files may take of the worker's time; it goes on beside its other work."""


class Files(Protocol):
    """What the worker needs of the storage."""

    def put(self, path: Path, key: str) -> None: ...

    def path_for(self, key: str) -> Path | None: ...

    def fetch(self, key: str, path: Path) -> None: ...

    def delete(self, key: str) -> None: ...

    def open(self, key: str) -> BinaryIO: ...

    def put_bytes(self, data: bytes, key: str) -> None: ...

    def files_in(self, folder: str) -> Iterator[StoredFile]: ...

    def key_for_new(self, key: str) -> str: ...

    def elsewhere(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class WorkerConfig:
    """See the worker's section of the settings."""

    worker_id: str
    work_folder: Path
    lease_seconds: float = 15.0
    poll_seconds: float = 0.25
    max_attempts: int = 3
    hang_seconds: float = 900.0
    drain_seconds: float = 30.0
    #: How long a storage that is away is waited for.
    patience_seconds: float = 900.0
    min_free_bytes: int = 0
    #: Jobs that may be open in the engine at a time; as many more may be written and stored meanwhile.
    slots: int = 4


class HandBack(Exception):
    """The worker stops: the job goes back to the queue."""


class Workplace:
    """Safe to use from several threads.

    Args:
        store: where jobs are.
        files: where finished videos go and inputs are.
        config: limits and folders.
    """

    def __init__(self, store: Store, files: Files, config: WorkerConfig) -> None:
        self.store = store
        self.files = files
        self.config = config
        self.step_times = StepTimes()
        self._stop_at: float | None = None

    def stop(self, seconds: float) -> None:
        """Claim nothing more; what runs has so long. Takes no lock: a signal may have come while this very thread held it."""
        self._stop_at = time.monotonic() + seconds

    @property
    def is_stopping(self) -> bool:
        return self._stop_at is not None

    @property
    def is_time_over(self) -> bool:
        """Whether what runs is to be given up: the worker stops."""
        return self._stop_at is not None and time.monotonic() > self._stop_at

    def check_time(self) -> None:
        """Raises HandBack once the time is over."""
        if self.is_time_over:
            raise HandBack

    def insist(self, ask: Callable[[], T]) -> T:
        """Ask the store until it answers: until then there is nothing else to do. A stopping worker gives up in time.

        Raises:
            StoreUnavailable: the time to stop is over.
        """
        while True:
            try:
                return ask()
            except StoreUnavailable as error:
                if self.is_time_over:
                    raise
                logger.warning("%s: asked again", error.message)
                time.sleep(STORE_RETRY_SECONDS)

    def forget(self, keys: Sequence[str]) -> None:
        """Remove files that nobody needs any more; one that stays behind has no row and is swept later.

        Waits a moment only: while a storage is away, whoever asks has other things to do.
        """

        def forget() -> None:
            with contextlib.suppress(StorageError):
                for key in keys:
                    self.files.delete(key)

        if keys:
            thread = threading.Thread(target=forget, name="forget", daemon=True)
            thread.start()
            thread.join(FORGET_SECONDS)


@contextlib.contextmanager
def work_folder(path: Path) -> Iterator[None]:
    """Have a folder for as long as the block; what killed workers left beside it is removed."""
    with _lock(path) as lock:
        path.mkdir(exist_ok=True)
        _remove_abandoned(path)
        try:
            yield
        finally:
            shutil.rmtree(path, ignore_errors=True)
        Path(lock.name).unlink(missing_ok=True)


def _lock(folder: Path) -> IO[bytes]:
    """Mark a work folder as in use for as long as this process lives. Kept beside it: the folder may be removed."""
    path = folder.with_name(f"{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # another worker took it for abandoned in between
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed workers left behind: folders whose lock nobody holds.

    Names and process ids would say nothing: workers in containers, and on machines that share the data folder, may have the same.
    """
    for path in folder.parent.glob("*.lock"):
        with contextlib.suppress(OSError), path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink()

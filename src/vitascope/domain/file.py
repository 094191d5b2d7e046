"""Files that clients upload once and name in later requests, and those that batches write for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

UPLOAD_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
"""What clients may say that a file is for. Only `batch` means anything here: such files are kept for a while only."""

BATCH_OUTPUT = "batch_output"
"""What a batch's results are for; nobody uploads such a file."""

MIN_FILE_SECONDS, MAX_FILE_SECONDS = 3600, 30 * 24 * 3600
"""How long a file may be asked to be kept, and how long those of batches are by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file in the storage that is its key's own, and no job's. All instants are aware UTC."""

    id: str
    #: Whose it is; empty where the server has no keys.
    key_id: str
    #: The client's own word for it. Nothing is opened, stored or logged by it.
    name: str
    purpose: str
    #: Where the storage has it.
    key: str
    num_bytes: int
    sha256: str
    created_at: datetime
    #: When it goes; None keeps it until it is deleted.
    expires_at: datetime | None = None

    @property
    def media_type(self) -> str:
        """What it is served as: its client's word for its kind is not believed, and no browser shows this."""
        return "application/octet-stream"


@dataclass(frozen=True, slots=True)
class FilePage:
    """Some files in order, and whether more follow."""

    files: tuple[File, ...]
    has_more: bool

"""An automatic choice and the reason for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen without the user's asking, and why; kept in the job's metadata and shown by `doctor`."""

    name: str
    value: str
    reason: str

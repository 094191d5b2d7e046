"""A finished file, as the store knows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """A video file in the storage. Its pixels and its name on disk are nobody's business but the storage's."""

    #: Where the storage has it.
    key: str
    media_type: str
    num_bytes: int
    sha256: str
    height: int
    width: int
    num_frames: int
    fps: int

    @property
    def duration_seconds(self) -> float:
        return self.num_frames / self.fps

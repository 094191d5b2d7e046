"""The gallery's answer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from vitascope.dialects import _http

from .requests import PAGE


class GalleryVideo(_http.Described):
    """A public video. Its addresses need no key until they expire."""

    #: Of its job, which only its owner can read.
    id: str
    #: Which of the job's videos.
    index: int
    prompt: str
    model: str
    video_url: str
    thumbnail_url: str | None
    spritesheet_url: str | None
    urls_expire_at: datetime
    media_type: str
    num_bytes: int
    height: int
    width: int
    num_frames: int
    fps: int
    duration_seconds: float
    created_at: datetime


class GalleryPage(_http.Described):
    """Public videos, the newest first."""

    videos: list[GalleryVideo]
    has_more: bool
    #: The next page's `after`; null on an empty page.
    last_id: str | None


GALLERY_PAGE: dict[str, Any] = {
    "parameters": [
        *(parameter for parameter in PAGE["parameters"] if parameter["name"] == "limit"),
        {
            "name": "after",
            "in": "query",
            "schema": {"type": "string"},
            "description": "`last_id` of the page before.",
        },
    ]
}

"""The gallery: finished videos whose clients let others see them. Tells nothing of whose they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from vitascope.domain.job import Job
from vitascope.domain.video import Variant, Video
from vitascope.store import Store

from .links import Link, Links


@dataclass(frozen=True, slots=True)
class Shown:
    """A video of the gallery."""

    #: Of its job, which only its owner can read.
    job_id: str
    #: Of the job's model, as its card has it.
    model: str
    #: What the video shows, in its client's words: of several shots one after the other.
    prompt: str
    video: Video
    created_at: datetime
    #: By variant; each can be fetched without a key for as long as it says.
    links: dict[Variant, Link]


@dataclass(frozen=True, slots=True)
class GalleryPage:
    """Some videos, the newest first, and whether there are older ones."""

    videos: tuple[Shown, ...]
    has_more: bool
    #: What the next page comes after.
    last_id: str | None


class Gallery:
    """What is public.

    Args:
        store: where jobs are.
        links: makes signed links.
        clock: tells what has expired.
    """

    def __init__(self, store: Store, links: Links, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._links = links
        self._clock = clock

    def page(self, *, after: str | None = None, limit: int = 20, base_url: str = "") -> GalleryPage:
        """List public videos that can be fetched, the newest first.

        Args:
            after: `last_id` of the page before.
            limit: jobs on a page; each shows all its videos.
            base_url: where who asks has reached this server: addresses begin so.

        Raises:
            InvalidParameter: `after` is no such id.
        """
        found = self._store.gallery(now=self._clock(), after=after, limit=limit)
        videos = tuple(self._shown(job, video, base_url) for job in found.jobs for video in job.videos)
        return GalleryPage(videos, found.has_more, found.jobs[-1].id if found.jobs else None)

    def _shown(self, job: Job, video: Video, base_url: str) -> Shown:
        # who made the video may have reached the server under a name that others do not
        here = dataclasses.replace(
            job, request=dataclasses.replace(job.request, base_url=base_url or job.request.base_url)
        )
        variants: list[Variant] = ["video"]
        variants += [name for name in ("thumbnail", "spritesheet") if video.variant(name) is not None]
        links = {name: self._links.make(here, base_url, video.index, name) for name in variants}
        return Shown(job.id, job.plan.model, job.plan.prompt, video, job.created_at, links)

"""From a job to its files: whether they are there, how they are read, and the links that lead to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from vitascope import media
from vitascope.domain.errors import (
    FileNotFound,
    InvalidParameter,
    JobNotFound,
    LinkNotFound,
    RequestError,
    StorageError,
    StorageUnavailable,
    VideoExpired,
    VideoFailed,
    VideoNotReady,
)
from vitascope.domain.file import File
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.provenance import Finding
from vitascope.domain.video import Picture, Variant, Video
from vitascope.storage import Storage
from vitascope.store import Store

from .links import Link, LinkedFile, Links

REDIRECT_SECONDS = 3600
"""How long the storage's own address is good for: a download that was begun, or broke off, can go on."""


@dataclass(frozen=True, slots=True)
class StoredVideo:
    """A finished file that is there, wherever that is: a video, or a picture of one."""

    media_type: str
    sha256: str
    num_bytes: int
    #: Aware UTC.
    written_at: datetime
    #: End of its name, with the dot; before it what tells it from others of its job.
    suffix: str
    #: Where clients are sent to fetch it themselves; None reads it for them.
    url: str | None
    #: Its bytes from a first one up to but without a last one, in pieces. Each may wait for a network.
    read: Callable[[int, int], Iterator[bytes]]
    #: Until it is given out no more: nobody on its way should keep it for longer. None for as long as its job.
    seconds_left: int | None = None


class Results:
    """The files of jobs.

    Args:
        store: where jobs are.
        storage: where files are.
        links: makes and reads signed links.
        sends_to_storage: whether clients fetch videos from the storage itself, if it has addresses.
        certificates: PEM, of the chain that this server's files are signed with; empty if they are not.
        clock: tells what has expired.
    """

    def __init__(
        self,
        store: Store,
        storage: Storage,
        links: Links,
        *,
        sends_to_storage: bool,
        certificates: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._storage = storage
        self._links = links
        self._sends_to_storage = sends_to_storage
        self._certificates = certificates
        self._clock = clock

    def provenance(self, job: Job, index: int = 0, variant: Variant = "video") -> Finding:
        """Read back what one of the job's files says of its origin, and whether it is still true. Takes a while.

        Raises what `open_video` raises, and:
            QueueFull: too many others are being read.
        """
        file = self._finished(job, index, variant)
        self._storage.stat(file.key)
        return media.verify(partial(self._storage.open, file.key), self._certificates)

    def open_video(self, job: Job, index: int = 0, variant: Variant = "video") -> StoredVideo:
        """Find one of a job's files. May wait for a network.

        Args:
            job: whose.
            index: which of its videos.
            variant: the video itself, or which picture of it.

        Raises:
            InvalidParameter: the job makes fewer videos.
            VideoNotReady: the job has not ended.
            VideoFailed: it has ended without this file.
            VideoExpired: it was kept for a while, which is over.
            StorageError: the file is gone.
            StorageUnavailable: the storage does not answer.
            JobNotFound: it was deleted meanwhile.
        """
        file = self._finished(job, index, variant)
        try:
            return self._opened(file, _suffix(job, file, index, variant), job.expires_at)
        except StorageUnavailable:
            raise
        except StorageError:
            self._finished(
                self._store.get(job.id), index, variant
            )  # no fault of ours if the job has gone since
            raise

    def open_file(self, file: File) -> StoredVideo:
        """Find what a client has uploaded, or a batch has written. May wait for a network.

        Raises:
            StorageError: it is gone.
            StorageUnavailable: the storage does not answer.
        """
        return self._opened(file, f".{file.key.rpartition('.')[2]}", file.expires_at)

    def _opened(self, what: Video | Picture | File, suffix: str, expires_at: datetime | None) -> StoredVideo:
        found = self._storage.stat(what.key)
        left = None if expires_at is None else max(1, int((expires_at - self._clock()).total_seconds()))
        url_seconds = min(REDIRECT_SECONDS, left or REDIRECT_SECONDS)
        url = self._storage.url_for(what.key, expires_seconds=url_seconds) if self._sends_to_storage else None
        return StoredVideo(
            media_type=what.media_type,
            sha256=what.sha256,
            num_bytes=found.num_bytes,
            written_at=found.written_at,
            suffix=suffix,
            url=url,
            read=partial(self._storage.read, what.key),
            seconds_left=left,
        )

    def _finished(self, job: Job, index: int, variant: Variant) -> Video | Picture:
        """Find out which file is meant, if it has been made and is still kept."""
        last = job.plan.num_videos - 1
        if not 0 <= index <= last:
            rule = (
                f"the videos of this job are counted from 0 to {last}"
                if last
                else "this job makes one video, 0"
            )
            raise InvalidParameter("index", index, rule, nearest=min(max(index, 0), last))
        if not job.status.is_terminal:
            raise VideoNotReady(f"the video is not ready yet: the job is {job.status} at {job.progress} %")
        if job.status is JobStatus.CANCELLED:
            raise VideoFailed("there is no video: the job was cancelled")
        if not job.videos:
            reason = job.error.message if job.error else "unknown"
            raise VideoFailed(f"there is no video: the job failed ({reason})")
        if job.is_expired(self._clock()):
            raise VideoExpired(_until(job))
        video = job.video_at(index)
        if video is None:
            error = job.failed_videos.get(index)
            reason = error.message if error else "unknown"
            raise VideoFailed(
                f"there is no video {index}: the job's others were made, this one failed ({reason})"
            )
        file = video.variant(variant)
        if file is None:
            raise VideoFailed(f"there is no {variant} of this video: it is from before there were any")
        return file

    def link_for(
        self,
        job: Job,
        base_url: str = "",
        output: int = 0,
        variant: Variant = "video",
        name: str | None = None,
    ) -> Link:
        """Make an address from which anyone can fetch a job's file for a while, an absolute one where a host is known.

        Args:
            job: whose file; it need not be there yet.
            base_url: where a client has reached this server now, for a job that was not made over HTTP.
            output: which of the job's videos.
            variant: the video itself, or which picture of it.
            name: with what the address ends, for clients that call the file so; it decides nothing.
        """
        return self._links.make(job, base_url, output, variant, name)

    def public_url_for(self, job: Job, output: int = 0, variant: Variant = "video") -> str | None:
        """Say where anyone can fetch a job's file without this server. May read the database.

        Returns:
            None if it is not in a bucket with a public address, was not made, or is not kept any more.
        """
        video = None if job.is_expired(self._clock()) else job.video_at(output)
        file = None if video is None else video.variant(variant)
        return None if file is None else self._storage.public_url_for(file.key)

    def link_for_file(self, file: File, base_url: str, suffix: str) -> Link:
        """Make an address from which anyone can fetch a file that a client has uploaded, for a while.

        Args:
            file: which.
            base_url: where a client has reached this server now.
            suffix: end of its name, without a dot, such as `png`.
        """
        return self._links.make_for_file(file, base_url, suffix)

    def open_linked(self, token: str) -> tuple[StoredVideo, str]:
        """Find the file that a signed link leads to, whoever has the link. May wait for a network.

        Returns:
            The file, and what it is called.

        Raises:
            LinkNotFound: the link is not ours, its time is over, or what it leads to is gone.
            StillMaking: a job makes it.
            and what `open_video` raises.
        """
        linked = self._links.read(token)
        if isinstance(linked, LinkedFile):
            file = self._linked_file(linked)
            return self.open_file(file), f"{file.id}.{linked.suffix}"
        try:
            job = self._store.get(linked.job_id)
        except JobNotFound:
            raise LinkNotFound from None
        video = job.video_at(linked.output)
        made = None if video is None else video.variant(linked.variant)
        is_of_job = linked.output < job.plan.num_videos
        if not is_of_job or (made is not None and not made.key.endswith(f".{linked.suffix}")):
            raise LinkNotFound
        try:
            stored = self.open_video(job, linked.output, linked.variant)
        except VideoNotReady as error:
            raise StillMaking(job, error.message) from None
        return stored, f"{job.id}{stored.suffix}"

    def _linked_file(self, linked: LinkedFile) -> File:
        try:
            return self._store.file(linked.file_id)
        except FileNotFound:
            raise LinkNotFound from None

    def read_own_link(self, url: str, max_bytes: int) -> bytes | None:
        """Read the file that an address leads to if that is a link of this server's, without a way over the network. May wait for a storage.

        Args:
            url: any address.
            max_bytes: of a larger file nothing is read.

        Returns:
            None if it is no link of ours that is good now.

        Raises:
            InvalidParameter: named `url`: its file is not there (yet), or too large.
        """
        token = self._links.token_in(url)
        if token is None:
            return None
        try:
            stored, _ = self.open_linked(token)
        except (StillMaking, RequestError, StorageError) as error:
            if isinstance(error, StorageUnavailable):
                raise
            raise InvalidParameter(
                "url", url, f"the file of this link cannot be used: {error.message}"
            ) from None
        if stored.num_bytes > max_bytes:
            raise InvalidParameter("url", url, f"its file has more than {max_bytes} bytes")
        return b"".join(stored.read(0, stored.num_bytes))


class StillMaking(Exception):
    """A link's file is being made; for whoever asks for it this is a VideoNotReady, with an estimate of when it will be.

    Args:
        job: that makes it.
        message: how far it is.
    """

    def __init__(self, job: Job, message: str) -> None:
        super().__init__(message)
        self.job = job
        self.message = message


def _suffix(job: Job, file: Video | Picture, index: int, variant: Variant) -> str:
    """Tell a file from the others of its job: people count from 1."""
    number = f"-{index + 1}" if job.plan.num_videos > 1 else ""
    what = "" if variant == "video" else f"-{variant}"
    return f"{number}{what}.{file.key.rpartition('.')[2]}"


def _until(job: Job) -> str:
    if job.expires_at is None:
        return ""
    return f"the video is not kept any more: it expired at {job.expires_at:%Y-%m-%d %H:%M:%S} UTC"

"""How a job leaves a worker: as a success with its files, as a failure, or back into the queue."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from vitascope.domain.cost import effort_of, measured
from vitascope.domain.errors import JobNotFound, LeaseLost
from vitascope.domain.job import JobError, Lease
from vitascope.domain.video import Video, stored_keys

from .aside import Aside
from .heartbeat import Heartbeat
from .messages import Message
from .transfer import insist
from .workplace import Files, Workplace

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 3
"""Files that are stored at the same time: a video and its pictures."""


class Leaving:
    """The end of one job at this worker.

    Args:
        place: the worker's.
        lease: the worker's right to the job.
    """

    def __init__(self, place: Workplace, lease: Lease) -> None:
        self._place = place
        self._store = place.store
        self._files = place.files
        self._lease = lease

    def keep(self, heartbeat: Heartbeat, ending: Message, folder: Path) -> None:
        """Put finished files into the storage, before the store is told: so a job with videos has their files.

        Afterwards the message has the keys that they are kept under.
        """
        videos = _videos_of(ending)
        putting = _Putting(self._files, folder, stored_keys(videos))
        patience, check_time = self._place.config.patience_seconds, self._place.check_time
        try:
            insist(putting.put, putting.undo, "store", heartbeat, patience, check_time)
        except BaseException:
            self._place.forget(list(putting.kept.values()))
            raise
        ending["videos"] = [asdict(video.with_keys(putting.kept)) for video in videos]

    def deliver(self, ending: Message, device: str) -> None:
        """End the job with its videos, whose files are kept by now."""
        videos, details, plan = _videos_of(ending), ending["details"], self._lease.job.plan
        is_whole = len(videos) == plan.num_videos  # else nobody knows how far the others came
        speed = measured(effort_of(plan), details["seconds"]) if is_whole else None
        is_told = self._settle(
            lambda: self._store.succeed(self._lease, videos, details, speed=speed, device=device)
        )
        # the store may have taken it down although its answer was lost; then the job has ended, and the files are its videos
        if not is_told and not self._place.insist(lambda: self._is_video(videos[0].key)):
            self._place.forget(stored_keys(videos))

    def _is_video(self, key: str) -> bool:
        try:
            video = self._store.get(self._lease.job.id).video
        except JobNotFound:
            return False
        return video is not None and video.key == key

    def fail(self, error: JobError, stood_seconds: float) -> None:
        """End the job without a video."""
        self._settle(lambda: self._store.fail(self._lease, error, stood_seconds=stood_seconds))

    def finish_cancelled(self, stood_seconds: float) -> None:
        """End the job because that was wished."""
        self._settle(lambda: self._store.finish_cancelled(self._lease, stood_seconds=stood_seconds))

    def hand_back(self, stood_seconds: float, *, count_attempt: bool) -> None:
        """Let the job be queued again; if that was wished it is cancelled, and after too many attempts it fails."""
        limit = self._place.config.max_attempts
        self._settle(
            lambda: self._store.release(
                self._lease, count_attempt=count_attempt, max_attempts=limit, stood_seconds=stood_seconds
            )
        )

    def _settle(self, end: Callable[[], Sequence[str]]) -> bool:
        """Write down how the job leaves, and remove what nobody needs any more.

        Returns:
            Whether the store has said so; if not, the job is another worker's, or the answer to an earlier try was lost.
        """
        try:
            unneeded = self._place.insist(end)
        except LeaseLost:
            logger.warning("lease lost", extra={"job_id": self._lease.job.id})
            return False
        self._place.forget(unneeded)
        return True


class _Putting:
    """Files on their way into the storage, at the same time: each waits for the disk or the network on its own."""

    def __init__(self, files: Files, folder: Path, keys: Sequence[str]) -> None:
        self._files = files
        self._folder = folder
        self._keys = keys
        #: Where each is kept by now.
        self.kept: dict[str, str] = {}
        self._tried: list[str] = []

    def put(self) -> None:
        """Put those that are not there yet."""
        left = [key for key in self._keys if key not in self.kept]
        for some in (left[at : at + MOST_AT_ONCE] for at in range(0, len(left), MOST_AT_ONCE)):
            puts = [Aside(functools.partial(self._put, key), "put") for key in some]
            for one in puts:
                one.start()
            for one in puts:
                one.join()
            for one in puts:  # all have ended: what is left behind is known
                one.result()

    def _put(self, key: str) -> None:
        """Put a file where new ones go at that moment: an operator may change that while the storage is away."""
        place = self._files.key_for_new(key)
        self._tried.append(place)
        self._files.put(self._folder / key.rpartition("/")[2], place)
        self.kept[key] = place

    def undo(self) -> None:
        for place in self._tried:
            self._files.delete(place)


def _videos_of(ending: Message) -> list[Video]:
    return [Video.from_dict(values) for values in ending["videos"]]

"""What a request handler finds on its desk: the service, and where its calls run."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

from starlette.requests import HTTPConnection, Request

from vitascope.domain.access import Caller
from vitascope.domain.character import Character
from vitascope.domain.errors import (
    InvalidParameter,
    QueueFull,
    StorageError,
    StorageLimitReached,
    StorageUnavailable,
    StoreUnavailable,
    VideoExpired,
)
from vitascope.domain.file import File
from vitascope.domain.job import Job
from vitascope.domain.once import RETRY_WINDOW, Once
from vitascope.domain.video import Variant
from vitascope.service import REFUSALS, Draft, Kept, NewCharacter, OfJob, Sent, Service, StoredVideo, Upload
from vitascope.service.inputs import SOURCE_GONE
from vitascope.service.outlook import Expectation
from vitascope.service.tail import Tail
from vitascope.store import JobNews

from .writer import GroupWriter

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 8
"""For databases over a network only. More would only queue there."""

STORING_THREADS = 4
"""For requests whose files are opened and stored. Not the threads that all others use: eight references of 50 megapixels take half
a minute, and six such requests kept the list of models waiting for as long. Twice as many as files are opened at once: with more,
each would wait so long for its turn that it is told to come later."""

MAX_STORING = 32
"""Such requests that are held in memory; one more must come later."""


@dataclass
class Desk:
    """The service and the lanes to it.

    Where the database is a file, quick reads run in the event loop and writes in one thread, many to a transaction; else both
    go through a few threads. Measured with SQLite at 1,000 pollers: p99 of a read 4.8 ms in the loop, 1.4 s through threads.
    """

    service: Service
    max_body_bytes: int
    has_quick_reads: bool
    #: Follows jobs for all streams.
    tail: Tail = field(init=False)
    _news: JobNews = field(init=False)
    _writer: GroupWriter = field(init=False)
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "store"))
    _storing: int = 0
    _storing_threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(STORING_THREADS, "inputs")
    )
    _background: set[asyncio.Future[None]] = field(default_factory=set)
    _looking: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._news = self.service.jobs.watch_jobs()
        self.tail = Tail(
            lambda cursors: self.read(self.service.jobs.events_after, cursors),
            self._news,
            lambda: self.read(self._news.has_come),
        )
        self._writer = GroupWriter(self.service.jobs.together)

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that only reads the store."""
        if self.has_quick_reads:
            return function(*args, **kwargs)
        return await self._in_thread(lambda: function(*args, **kwargs))

    async def write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that writes to the store and nowhere else; it is durable when this returns."""
        if self.has_quick_reads:
            return await self._writer.run(lambda: function(*args, **kwargs))
        return await self._in_thread(lambda: function(*args, **kwargs))

    async def find(self, caller: Caller, job_id: str) -> Job:
        """Read a job for its client, who therefore knows its id: later, an equal request is no repetition of this one's.

        Raises:
            JobNotFound: there is none, or none of the caller's.
        """
        return self._seen(await self.read(self.service.jobs.get, job_id, caller))

    async def find_numbered(self, caller: Caller, number: int) -> Job:
        """Read a job of which its client knows the number; else as `find`, and raises the same."""
        return self._seen(await self.read(self.service.jobs.numbered, number, caller))

    def _seen(self, job: Job) -> Job:
        if not job.is_read:
            self.note_read(self.service.jobs.mark_read, job.id, job.created_at)
        return job

    def note_read(self, mark: Callable[[str], None], its_id: str, created_at: datetime) -> None:
        """Write down, after the answer, that a client knows an id; who was made long ago is no retry's any more."""
        if datetime.now(UTC) - created_at < RETRY_WINDOW:
            noted = asyncio.ensure_future(self.write(mark, its_id))
            self._background.add(noted)
            noted.add_done_callback(self._noted)

    def _noted(self, noted: asyncio.Future[None]) -> None:
        self._background.discard(noted)
        if not noted.cancelled():
            noted.exception()  # it is no more than a note: the client has its answer

    async def admit(self, request: Request, once: Once | None = None) -> None:
        """Count an authenticated request that makes a job, and refuse quickly what there is no room for.

        What its key has left is noted with the request: every answer from here on tells it, whatever it says.

        Raises:
            RateLimitExceeded: the caller has sent too many.
            QueueFull: too many jobs wait.
            DiskFull: there is no room for its files.
        """
        caller: Caller = request.state.caller
        await self.count(request)
        if once is not None and (
            once.name is not None or once.is_retry
        ):  # those may be answered with a job that is there
            return
        self.service.condition.check_space()
        try:
            await self.read(self.service.check_room, caller)
        except QueueFull:
            self._look()  # for the Retry-After of the next ones: this one is not kept waiting
            raise

    async def count(self, request: Request) -> None:
        """Count an authenticated request that makes jobs, but needs no room in the queue now.

        Raises:
            RateLimitExceeded: the caller has sent too many.
        """
        caller: Caller = request.state.caller
        if caller.limits.requests_per_minute is not None:
            request.state.allowance = await self.write(self.service.count_request, caller)

    async def submit(
        self, caller: Caller, draft: Draft, once: Once | None = None, *, base_url: str = ""
    ) -> Job:
        """Fetch what a draft names by URL, store what came with it, then make the draft a job.

        Args:
            caller: whose job it will be.
            draft: what is to be made.
            once: by what a repetition of the request is known.
            base_url: where the client has reached this server (`base_url_of`): links that it gets later begin so.

        Raises:
            InvalidParameter: a picture or video cannot be fetched or read, or the webhook may not be called.
            QueueFull: too many jobs wait, or too many files are being fetched or read.
            IdempotencyConflict: the request's name was another request's.
            DiskFull: there is no room for its files.
            ContentRejected: its texts are not allowed here.
            ModerationUnavailable: nobody can say whether they are.
        """
        is_repeatable = draft.sent.has_urls or draft.sent.has_file_ids or draft.request.webhook is not None
        is_repeatable = (
            is_repeatable or self.service.drafts.has_loras(draft) or self.service.drafts.checks_texts
        )
        if once is not None and (is_repeatable or self.service.condition.is_disk_full):
            # looked for before the URL is: it may be good for one time only, a file or adapter be gone since, and a check say otherwise
            first = await self.write(self.service.jobs.made_before, once, caller)
            if first is not None:
                return first
        draft = await self.with_inputs(caller, draft, base_url)
        try:
            job = await self.write(self.service.enqueue, draft, caller, once)
        except REFUSALS:
            await asyncio.to_thread(self.service.drafts.drop_inputs, draft)
            raise
        if job.id != draft.job_id:
            await asyncio.to_thread(self.service.drafts.drop_inputs, draft)
        return job

    async def with_kept(self, caller: Caller, sent: Sent) -> Sent:
        """Find the videos of other jobs that are named beside what was sent.

        Raises:
            JobNotFound: there is no such job, or none of the caller's.
            VideoNotReady: it has not ended.
            VideoFailed: it has ended without a video.
            VideoExpired: it has none any more.
            InvalidParameter: its video is of a kind, or so large, that it cannot be read again.
        """
        found: dict[str, Any] = {}
        for name, content in sent.items():
            if isinstance(content, OfJob):
                job = await self.find(caller, content.job_id)
                try:
                    await self.open_video(job, content.output)
                except InvalidParameter as error:
                    raise InvalidParameter(name, error.value, error.rule, nearest=error.nearest) from None
                except StorageUnavailable:
                    raise
                except StorageError:  # its job was there a moment ago
                    raise VideoExpired(SOURCE_GONE) from None
                found[name] = self.service.kept_video(job, name, content.output)
        return dataclasses.replace(sent, **found) if found else sent

    async def with_inputs(self, caller: Caller, draft: Draft, base_url: str = "") -> Draft:
        """Fetch what a draft names by URL, and store what came with it; raises what `submit` does, before there is a job."""
        self.service.condition.check_space()
        if self.service.drafts.checks_texts:
            await self.service.drafts.check_texts(draft.request.texts)
        if draft.request.webhook is not None:
            await self.service.check_webhook(draft)
        if self.service.drafts.has_loras(draft):
            await asyncio.to_thread(self.service.drafts.check_loras, draft)
        if draft.sent.has_urls:
            draft = await self.service.drafts.fetch_inputs(draft)
        if any(draft.sent.items()):
            draft = await self._storing_lane(lambda: self._store_inputs(draft, caller))
        return dataclasses.replace(draft, request=dataclasses.replace(draft.request, base_url=base_url))

    async def with_measured_video(self, caller: Caller, draft: Draft) -> Draft:
        """Read a video that was sent for what it decides of the plan, and store nothing; raises what `with_inputs` raises."""
        sent = Sent(video=draft.sent.video, continues=draft.sent.continues)
        if all(isinstance(content, Kept) for _, content in sent.items()):
            return draft
        draft = dataclasses.replace(draft, sent=sent)
        if sent.has_urls:
            draft = await self.service.drafts.fetch_inputs(draft)

        def follow() -> Draft:
            known = self.service.drafts.look_up_inputs(draft, caller) if sent.has_file_ids else draft
            return self.service.drafts.follow(known)

        return await self._storing_lane(follow)

    async def open_video(self, job: Job, index: int = 0, variant: Variant = "video") -> StoredVideo:
        """Find one of a job's files; raises what the service's function of that name raises."""
        return await asyncio.to_thread(self.service.results.open_video, job, index, variant)

    def _store_inputs(self, draft: Draft, caller: Caller) -> Draft:
        if draft.sent.has_file_ids:
            draft = self.service.drafts.look_up_inputs(draft, caller)
        return self.service.drafts.store_inputs(draft)

    async def _storing_lane(self, function: Callable[[], T]) -> T:
        if self._storing >= MAX_STORING:
            raise QueueFull("too many files are being read", retry_after_seconds=10)
        self._storing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._storing_threads, function)
        finally:
            self._storing -= 1

    async def keep_file(self, caller: Caller, prepare: Callable[[], Upload]) -> File:
        """Check, store and make known a file that a client sends.

        Args:
            caller: whose it will be.
            prepare: checks it, which reads all of it.

        Raises:
            InvalidParameter: something of it is not legal.
            QueueFull: too many others are being stored.
            StorageLimitReached: the caller has no room for it.
            DiskFull: nor has the disk.
        """
        self.service.condition.check_space()
        files = self.service.files

        def put() -> Upload:
            upload = prepare()
            files.check_room(upload, caller)
            files.put(upload)
            return upload

        upload = await self._storing_lane(put)
        try:
            return await self.write(files.add, upload, caller)
        except StorageLimitReached:
            await asyncio.to_thread(files.drop, upload)
            raise

    async def is_unsafe(self, name: str, data: bytes) -> bool:
        """Look whether a picture is unsafe; raises what the service's function of that name raises."""
        return await self._storing_lane(lambda: self.service.pictures.is_unsafe(name, data))

    async def keep_character(
        self, caller: Caller, name: str, prepare: Callable[[], NewCharacter]
    ) -> Character:
        """Check, store and make known a character.

        Args:
            caller: whose it will be.
            name: its own.
            prepare: checks it, which reads all of what was sent.

        Raises:
            InvalidParameter: something of it is not legal, or the caller has as many as it may.
            QueueFull: too many files are being read.
            StorageLimitReached: the caller has no room for it.
            DiskFull: nor has the disk.
        """
        self.service.condition.check_space()
        await self.service.drafts.check_texts({"name": name})
        characters = self.service.characters

        def put() -> NewCharacter:
            new = prepare()
            characters.put(new)
            return new

        new = await self._storing_lane(put)
        try:
            return await self.write(characters.add, new, caller)
        except (StorageLimitReached, InvalidParameter):
            await asyncio.to_thread(characters.remove, new.character.key)
            raise

    async def delete_character(self, caller: Caller, character_id: str) -> None:
        """Delete a character; raises CharacterNotFound."""
        key = await self.write(self.service.characters.delete, character_id, caller)
        await asyncio.to_thread(self.service.characters.remove, key)

    async def delete_file(self, caller: Caller, file_id: str) -> None:
        """Delete a file; raises FileNotFound."""
        key = await self.write(self.service.files.delete, file_id, caller)
        await asyncio.to_thread(self.service.files.remove, key)

    async def open_file(self, file: File) -> StoredVideo:
        """Find what is in a file; raises what the service's function of that name raises."""
        return await asyncio.to_thread(self.service.results.open_file, file)

    async def read_much(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that only reads the store, but so much that it would keep all others waiting."""
        return await self._in_thread(lambda: function(*args, **kwargs))

    async def delete(self, caller: Caller, job_id: str) -> None:
        """Delete a job, then its files.

        Raises:
            JobNotFound: there is none, or none of the caller's.
        """
        keys = await self.write(self.service.jobs.delete, job_id, caller)
        await asyncio.to_thread(self.service.jobs.remove, keys)

    async def clear_queue(self) -> int:
        """Cancel all jobs that wait now, everybody's; returns how many. Others' writes come in between."""
        newest = await self.read(self.service.condition.newest_waiting)
        total = 0
        while cancelled := await self.write(self.service.condition.cancel_waiting, newest):
            total += cancelled
        return total

    async def queue_seconds(self) -> float:
        """Tell how long a job that came now would wait, as far as is known. Never fails."""
        await self._seen_queue()
        return self.service.outlook.newcomer_waits or 0.0

    async def expectation(self, job: Job) -> Expectation:
        """Tell where a job is in the queue and when it will be ready. Never fails: what was asked for has happened."""
        if job.status.is_terminal:
            return Expectation()
        await self._seen_queue()
        return self.service.outlook.of(job)

    async def _seen_queue(self) -> None:
        look = self._look()
        if look is not None and self.service.outlook.is_outdated:
            await asyncio.wait([look])

    async def newcomer_waits(self) -> float | None:
        """Tell how many seconds a job that came now would wait, from a fresh look; None if no worker lives, or nobody knows."""
        look = self._look()
        if look is not None:
            await asyncio.wait([look])
        waits = self.service.outlook.newcomer_waits
        return None if waits is None else round(waits, 1)

    def _look(self) -> asyncio.Task[None] | None:
        """Begin a look at the queue if the last one is too old. One at a time: meanwhile answers come from the last one."""
        if not self.service.outlook.is_stale:
            return None
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look_once())
        return self._looking

    async def _look_once(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # then nothing is told of waiting times
            await self._in_thread(self.service.outlook.refresh)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def close(self) -> None:
        """Finish what has begun."""
        await self._writer.close()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._looking is not None:
            await asyncio.wait([self._looking])
        self._threads.shutdown()
        self._news.close()
        self._storing_threads.shutdown()


def desk_of(request: HTTPConnection) -> Desk:
    """Return the desk that the app's lifespan has set up."""
    desk: Desk = request.state.desk
    return desk

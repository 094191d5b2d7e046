"""Takes batches from a file of requests to a file of results. Any number of web processes may do so.

What is one transaction, and what a `kill -9` between two of them leaves:

1. *create*: the batch's row. Before it nothing is known, and the client asks again; after it the batch goes on without its client.
2. *validate*: the file is read in one go. Wrong lines end the batch (its status and the errors, one transaction). Good ones are added some
   hundreds at a time, and one more transaction lets the batch run. Killed in between, the next feeder removes what was added and reads the
   file anew: while a batch is validated none of its lines can be a job.
3. *feed*: one line, its job and that the one is the other's: one transaction. Killed before it, the line is no job, and what was stored for
   it has no row (workers sweep it); killed after it, the line is a job and never looked at again. So each line is one job, once. A line that
   cannot be carried out gets its refusal in one transaction.
4. *a job ends*: that is the worker's transaction, and knows nothing of batches. Feeders look for ended jobs and count them: the lines'
   outcomes, the batch's counts and, with the last one, that results can be written: one transaction. Killed before it, the next look counts
   them; counted twice is none, because only lines without an outcome are.
5. *finish*: the results are written to files of this process and put into the storage under new names; the two files' rows and the batch's
   end are one transaction. Killed before it, files without rows are left (swept), and the next feeder writes new ones; killed after it, the
   batch has ended. So a batch has its results once, and never an end without them.
6. *cancel*, and the end of the window: a mark on the batch's row. From then on no line becomes a job (`feed` looks at the mark in its
   transaction); what is no job gets its outcome and the jobs are cancelled in one transaction, again and again until all have ended.
   Then 4 and 5 follow.
7. *lines of ended batches* are removed some at a time, when nothing else is to be done.

One process at a time has a batch: by a lease of a minute on the database's clock (PostgreSQL: rows that another has locked are skipped;
SQLite: one writer at a time). Each of the transactions above checks the token of the claim: a process that was paused for longer than its
lease, and comes back, writes nothing (LeaseLost). So two web processes, or one that stands still in the middle, change nothing of the above.

Jobs of batches go last: their priority is below what is asked for directly, few of them wait at a time, and they use half of the queue at most, and
half of their key's part of it. They count toward nobody's requests a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from vitascope.domain.access import Caller
from vitascope.domain.batch import Batch, BatchLease, BatchStatus, Line, LineError, NewLine
from vitascope.domain.errors import (
    DiskFull,
    FileNotFound,
    InsufficientCredits,
    InternalError,
    InvalidApiKey,
    InvalidParameter,
    LeaseLost,
    ModerationUnavailable,
    QueueFull,
    StorageError,
    StorageLimitReached,
    StorageUnavailable,
    StoreUnavailable,
    VitascopeError,
)
from vitascope.domain.file import BATCH_OUTPUT, File
from vitascope.domain.job import Job
from vitascope.store import Store

from .drafts import Draft
from .service import Service

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 1.0
"""How often there is a look for batches that are due."""

PAUSE_SECONDS = 2.0
"""How long a batch rests between two looks at its jobs."""

AWAY_SECONDS = 10.0
"""How long it rests when the storage is away, or something unforeseen has happened."""

FEED_SECONDS = 10.0
"""How long one batch is fed before others have their turn."""

KEEP_SECONDS = 15.0
"""How often a feeder says that it is alive while it waits for something: a quarter of its lease."""

PRUNE_SECONDS = 60.0
"""How often there is a look for lines that nobody needs any more."""

LINES_AT_ONCE = 200
"""Lines that are added, or whose results are written, in one go."""

STOP_SECONDS = 5.0
"""What a feeder may take to end, when its process does; what it has begun is done by whoever comes next."""

FULL = (errno.ENOSPC, errno.EDQUOT)

WAIT = (QueueFull, DiskFull, StorageUnavailable, StoreUnavailable, ModerationUnavailable)
"""What passes: the line is tried again."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file of requests that was read: all its lines, or what is wrong with some of them."""

    lines: Sequence[NewLine] = ()
    errors: Sequence[LineError] = ()
    #: That all lines name.
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A draft of a batch's request."""

    draft: Draft
    #: Says an error about one of the draft's parameters in the words of the request.
    in_clients_words: Callable[[InvalidParameter], InvalidParameter]


class _Closing(Exception):
    """This process ends."""


class BatchFormat(Protocol):
    """How a dialect reads and answers the requests of one endpoint. Its methods are called in threads."""

    def parse(self, data: bytes) -> Parsed:
        """Read a file of requests."""

    def prepare(self, body: str, caller: Caller) -> Prepared:
        """Make a draft of a request's body; raises VitascopeError in the request's words."""

    def refusal(self, error: VitascopeError) -> dict[str, Any]:
        """Make the answer of a request that is refused, as plain JSON values."""

    def result(self, batch: Batch, line: Line, job: Job | None) -> tuple[bytes, bool]:
        """Make the line of a request's result, and tell whether it belongs to the errors."""


class Run(Protocol):
    """Where the store is called, which may block."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]: ...


class Feeder:
    """Takes batches further, one at a time.

    Args:
        service: makes drafts, and jobs of them.
        store: where batches are.
        formats: how requests are read and answered, by their endpoint.
        with_inputs: fetches and stores what a draft needs.
        read: calls what only reads the store.
        write: calls what writes to it.
    """

    def __init__(
        self,
        service: Service,
        store: Store,
        formats: Mapping[str, BatchFormat],
        with_inputs: Callable[[Caller, Draft, str], Awaitable[Draft]],
        *,
        read: Run = asyncio.to_thread,
        write: Run = asyncio.to_thread,
    ) -> None:
        self._service = service
        self._store = store
        self._formats = formats
        self._with_inputs = with_inputs
        self._read = read
        self._write = write
        self._closing = asyncio.Event()
        self._prune_at = 0.0

    async def run(self) -> None:
        """Feed until closed."""
        feeding = asyncio.create_task(self._feed_all())
        await self._closing.wait()
        await asyncio.wait([feeding], timeout=STOP_SECONDS)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)

    async def _feed_all(self) -> None:
        while not self._closing.is_set():
            has_more = False
            try:
                has_more = await self.advance() or await self._prune()
            except StoreUnavailable as error:
                logger.warning("batches were not looked for: %s", error.message)
            except Exception:
                logger.exception("batches were not looked for")  # no other task would do it: it goes on
            if not has_more:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), POLL_SECONDS)

    def close(self) -> None:
        """Let `run` end, after the request that it is at, or soon."""
        self._closing.set()

    async def _prune(self) -> bool:
        if time.monotonic() < self._prune_at:
            return False
        has_more = await self._write(self._store.prune_lines)
        self._prune_at = time.monotonic() + (0.0 if has_more else PRUNE_SECONDS)
        return has_more

    async def advance(self) -> bool:
        """Take the batch that has waited longest as far as it goes now. Returns whether there was one.

        Raises:
            StoreUnavailable: it will be taken from where it is.
        """
        if not await self._read(self._store.has_due_batches):
            return False
        lease = await self._write(self._store.claim_batch)
        if lease is None:
            return False
        pause = AWAY_SECONDS
        try:
            async with self._kept(lease):
                pause = await self._take_further(lease)
        except LeaseLost:  # another process has it: it keeps it. Or its client has just cancelled it: that is not kept waiting
            pause = 0.0
        except (StorageError, QueueFull, DiskFull, ModerationUnavailable) as error:
            logger.warning("a batch waits: %s", error.message, extra={"batch_id": lease.batch.id})
        except _Closing:
            pause = 0.0
        except StoreUnavailable:
            raise
        except Exception:
            logger.exception("a batch could not be taken further", extra={"batch_id": lease.batch.id})
        await self._write(lambda: self._store.release_batch(lease, pause))
        return True

    @asynccontextmanager
    async def _kept(self, lease: BatchLease) -> AsyncIterator[None]:
        """Renew the lease while something slow is done; who has lost it finds out by its next write."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(KEEP_SECONDS)
                with contextlib.suppress(StoreUnavailable):
                    await self._write(lambda: self._store.keep_batch(lease))

        keeping = asyncio.create_task(keep())
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _take_further(self, lease: BatchLease) -> float:
        """Do what is to be done for a batch; returns how long it may rest then."""
        batch, form = lease.batch, self._formats[lease.batch.endpoint]
        if batch.stop is not None and batch.status is not BatchStatus.FINISHING:
            batch = await self._write(lambda: self._store.stop_lines(lease))
        elif batch.status is BatchStatus.VALIDATING:
            batch = await self._validate(lease, form)
        if batch.status is BatchStatus.RUNNING:
            batch = await self._write(lambda: self._store.settle_lines(lease))
        if batch.status is BatchStatus.RUNNING and batch.stop is None:
            await self._feed(lease, form)
        if batch.status is BatchStatus.FINISHING:
            await self._finish(lease, batch, form)
        return PAUSE_SECONDS

    def _go_on(self) -> None:
        if self._closing.is_set():
            raise _Closing

    # validating

    async def _validate(self, lease: BatchLease, form: BatchFormat) -> Batch:
        try:
            parsed = await asyncio.to_thread(self._parsed, lease.batch, form)
        except StorageUnavailable:
            raise
        except (FileNotFound, InvalidApiKey, StorageError) as error:
            missing = LineError(error.code, error.message, param="input_file_id")
            return await self._write(lambda: self._store.fail_batch(lease, [missing]))
        if parsed.errors:
            return await self._write(lambda: self._store.fail_batch(lease, parsed.errors))
        await self._write(lambda: self._store.clear_lines(lease))
        for start in range(0, len(parsed.lines), LINES_AT_ONCE):
            self._go_on()
            some = parsed.lines[start : start + LINES_AT_ONCE]
            await self._write(lambda lines=some: self._store.add_lines(lease, lines))  # type: ignore[misc]
        return await self._write(lambda: self._store.begin_batch(lease, parsed.model))

    def _parsed(self, batch: Batch, form: BatchFormat) -> Parsed:
        files = self._service.files
        caller = self._service.keys.caller(batch.key_id)
        return form.parse(files.read_own(batch.input_file_id, caller))

    # feeding

    async def _feed(self, lease: BatchLease, form: BatchFormat) -> None:
        """Make jobs of requests, in their order, as long as there is room."""
        until = time.monotonic() + FEED_SECONDS
        while (line := await self._read(lambda: self._store.next_line(lease))) is not None:
            try:
                await self._feed_line(lease, line, form)
            except (QueueFull, DiskFull):
                return
            if time.monotonic() >= until or self._closing.is_set():
                return

    async def _feed_line(self, lease: BatchLease, line: Line, form: BatchFormat) -> None:
        try:
            caller = await self._read(lambda: self._service.keys.caller(lease.batch.key_id))
            await self._read(lambda: self._service.check_feed_room(lease, caller))
            draft = await self._drafted(lease, line, form, caller)
            await self._made(lease, line, draft, caller)
        except (*WAIT, LeaseLost):
            raise
        except VitascopeError as error:
            if _is_full(error):
                raise
            refusal = form.refusal(error)
        except Exception:
            logger.exception("a request of a batch failed", extra={"batch_id": lease.batch.id})
            refusal = form.refusal(InternalError())
        else:
            return
        await self._write(lambda: self._store.refuse_line(lease, line.number, refusal))

    async def _drafted(self, lease: BatchLease, line: Line, form: BatchFormat, caller: Caller) -> Draft:
        prepared = await asyncio.to_thread(form.prepare, line.body, caller)
        try:
            return await self._with_inputs(caller, prepared.draft, lease.batch.base_url)
        except InvalidParameter as error:
            raise prepared.in_clients_words(error) from None

    async def _made(self, lease: BatchLease, line: Line, draft: Draft, caller: Caller) -> None:
        try:
            await self._write(lambda: self._service.feed(lease, line.number, draft, caller))
        except (
            LeaseLost,
            QueueFull,
            StorageLimitReached,
            InsufficientCredits,
        ):  # after these there certainly is no job
            await asyncio.to_thread(self._service.drafts.drop_inputs, draft)
            raise

    # finishing

    async def _finish(self, lease: BatchLease, batch: Batch, form: BatchFormat) -> None:
        output, errors = await asyncio.to_thread(self._write_results, lease, batch, form)
        try:
            await self._write(lambda: self._store.end_batch(lease, output, errors))
        except LeaseLost:
            for file in (output, errors):
                if file is not None:
                    await asyncio.to_thread(self._service.files.remove, file.key)
            raise
        logger.info("batch ended", extra={"batch_id": batch.id, "num_requests": batch.num_lines})

    def _write_results(
        self, lease: BatchLease, batch: Batch, form: BatchFormat
    ) -> tuple[File | None, File | None]:
        with tempfile.TemporaryDirectory(prefix="vitascope-batch-") as folder:
            paths = Path(folder) / "output", Path(folder) / "errors"
            with paths[0].open("wb") as output, paths[1].open("wb") as errors:
                self._render(lease, batch, form, output, errors)
            taken = self._taken(batch, paths[0], "output")
            try:
                return taken, self._taken(batch, paths[1], "error")
            except StorageError:  # it is tried again and again: on a full disk each try would leave one more
                if taken is not None:
                    self._service.files.remove(taken.key)
                raise

    def _render(
        self, lease: BatchLease, batch: Batch, form: BatchFormat, output: BinaryIO, errors: BinaryIO
    ) -> None:
        last = 0
        while some := self._store.line_results(lease, last, LINES_AT_ONCE):
            self._go_on()
            for line, job in some:
                text, is_error = form.result(batch, line, job)
                (errors if is_error else output).write(text + b"\n")
                last = line.number

    def _taken(self, batch: Batch, path: Path, kind: str) -> File | None:
        if path.stat().st_size == 0:
            return None
        name = f"batch_{batch.id}_{kind}.jsonl"
        files = self._service.files
        return files.take_over(path, name, BATCH_OUTPUT, batch.key_id, batch.output_seconds)


def _is_full(error: VitascopeError) -> bool:
    """Whether the disk had no room for a file, although there was enough when it was last looked at: that passes too."""
    cause = error.__cause__
    return isinstance(error, StorageError) and isinstance(cause, OSError) and cause.errno in FULL

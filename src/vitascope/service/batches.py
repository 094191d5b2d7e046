"""Batches as their clients see them: making, reading, listing and cancelling them. `feeding` makes their jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from vitascope.domain.access import Caller
from vitascope.domain.batch import MAX_OPEN_BATCHES, WINDOW, Batch, BatchPage, BatchStatus
from vitascope.domain.errors import BatchNotFound, FileNotFound, InvalidParameter
from vitascope.domain.file import MAX_FILE_SECONDS
from vitascope.domain.once import Once
from vitascope.store import Store

from . import ids
from .files import NO_SUCH_FILE, Files, checked_seconds
from .inputs import FileId


class Batches:
    """Batches of keys. Another's is an unknown one, but to operators.

    Args:
        store: where they are.
        files: what clients have uploaded.
        clock: the time now.
    """

    def __init__(self, store: Store, files: Files, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._files = files
        self._clock = clock

    def create(
        self,
        file: FileId,
        endpoint: str,
        caller: Caller,
        *,
        metadata: Mapping[str, Any],
        output_seconds: int | None = None,
        base_url: str = "",
        once: Once | None = None,
    ) -> Batch:
        """Begin a batch. When this returns, it is durable; its file is read later.

        Args:
            file: the caller's file of requests.
            endpoint: what they are for.
            caller: whose jobs they will be.
            metadata: given back unchanged.
            output_seconds: how long its results are kept; None for 30 days.
            base_url: where the client has reached this server.
            once: by what a repetition of the request is known.

        Returns:
            The new batch, or the one that the request has made before.

        Raises:
            InvalidParameter: the caller has no such file, or it is not for batches.
            QueueFull: as many batches of the caller's are open as may be.
            StorageLimitReached: the caller has no room for its requests.
            IdempotencyConflict: the request's name was another request's.
        """
        now = self._clock()
        batch = Batch(
            id=ids.new_id(),
            key_id=caller.key_id,
            status=BatchStatus.VALIDATING,
            endpoint=endpoint,
            input_file_id=file.id,
            created_at=now,
            expires_at=now + WINDOW,
            metadata=metadata,
            output_seconds=checked_seconds(output_seconds) or MAX_FILE_SECONDS,
            base_url=base_url,
        )
        first = None if once is None else self._store.batch_made_before(once, caller.key_id)
        if first is not None:  # before its file is looked for, which may have been deleted since
            return first
        self._check(file, caller)
        return self._store.add_batch(batch, MAX_OPEN_BATCHES, once, caller.limits.max_storage_bytes)

    def _check(self, file: FileId, caller: Caller) -> None:
        try:
            purpose = self._files.get(file.id, caller).purpose
        except FileNotFound:
            raise InvalidParameter("input_file_id", file.shown, NO_SUCH_FILE) from None
        if purpose != "batch":
            rule = f"it must be a file with the purpose batch, and this one's is {purpose}"
            raise InvalidParameter("input_file_id", file.shown, rule)

    def get(self, batch_id: str, caller: Caller) -> Batch:
        """Return a batch, or raise BatchNotFound."""
        if not ids.is_id(batch_id):
            raise BatchNotFound
        return self._store.batch(batch_id, caller.owner)

    def mark_read(self, batch_id: str) -> None:
        """Note that the batch's client knows its id: later, an equal request is no repetition of this one's."""
        self._store.mark_batch_read(batch_id)

    def page(self, caller: Caller, *, after: str | None = None, limit: int = 20) -> BatchPage:
        """List batches, the newest first.

        Raises:
            InvalidParameter: no batch has the id `after`.
        """
        return self._store.batch_page(after=after, limit=limit, owner=caller.owner)

    def cancel(self, batch_id: str, caller: Caller) -> Batch:
        """Let a batch end: its jobs are cancelled, and what is none yet becomes none.

        Raises:
            BatchNotFound: there is none of that id.
            BatchConflict: it has ended otherwise, or nothing is left to cancel.
        """
        if not ids.is_id(batch_id):
            raise BatchNotFound
        return self._store.cancel_batch(batch_id, caller.owner)

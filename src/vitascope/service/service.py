"""The service: from a request to a stored job, and from a job to its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vitascope import media
from vitascope.catalog import Allowed
from vitascope.domain.access import Allowance, Caller, Use
from vitascope.domain.added import WITH_VAE
from vitascope.domain.batch import BATCH_PRIORITY, BatchLease
from vitascope.domain.choice import Choice
from vitascope.domain.errors import (
    IdempotencyConflict,
    InsufficientCredits,
    InvalidParameter,
    QueueFull,
    RateLimitExceeded,
    StorageLimitReached,
    UnknownModel,
)
from vitascope.domain.job import Job
from vitascope.domain.marks import MarkRules
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.money import Quote
from vitascope.domain.once import Once
from vitascope.domain.request import GenerationRequest
from vitascope.outbound import Outbound
from vitascope.storage import Space, Storage
from vitascope.store import Charge, Store

from .additions import Additions
from .availability import Availability
from .batches import Batches
from .buckets import Buckets
from .characters import Characters
from .commands import Commands
from .condition import Condition
from .credits import Credits
from .drafts import NO_RULES, Draft, Drafts, Models, OperatorRules, Sources
from .files import Files
from .gallery import Gallery
from .inputs import NOTHING, Kept, Sent
from .jobs import Jobs
from .keys import Keys
from .links import PURPOSE, Links
from .outlook import Outlook
from .pictures import Pictures
from .results import Results
from .syncing import Syncing
from .webhooks import Webhooks

if TYPE_CHECKING:
    from vitascope.moderation import PromptCheck

ALLOWED = Allowed()

LINK_SECONDS = 24 * 3600.0


REFUSALS = (QueueFull, StorageLimitReached, IdempotencyConflict, InsufficientCredits)
"""What `enqueue` raises after which there certainly is no job."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Service:
    """What the server can do.

    Args:
        store: where jobs are.
        models: the catalog.
        files: where inputs and videos are.
        max_queued: jobs that may wait.
        max_queued_per_key: jobs of one key that may wait; None is no limit beside the other.
        worker_silence_seconds: a worker that was not seen for so long counts as dead.
        outbound: the way to URLs that users give; None refuses them.
        max_fetched_bytes: the largest file that is fetched from them.
        unknown_model_falls_back: whether vendors' clients get the default model for a name that nobody knows.
        sends_to_storage: whether clients fetch videos from the storage itself, if it has addresses.
        public_url: where clients reach this server; None is where each has.
        link_seconds: how long signed links are good for.
        rules: what the operator decides of requests.
        certificates: PEM, of the chain that this server's files are signed with; empty if they are not.
        space: the disk's; None takes jobs however full it is.
        prompt_check: looks at requests' texts; None lets all pass.
        prices: the operator's own: see `credits`.
        allowed: where models may come from that are added.
        peers: URL and key of each server whose added models may be taken over.
        unsafe_from: score from which on a picture is unsafe to whoever asks.
        clock: tells what has expired.
    """

    def __init__(
        self,
        store: Store,
        models: Models,
        files: Storage,
        *,
        max_queued: int = 1000,
        max_queued_per_key: int | None = None,
        worker_silence_seconds: float = 30.0,
        outbound: Outbound | None = None,
        max_fetched_bytes: int = 20 * 1024 * 1024,
        unknown_model_falls_back: bool = True,
        sends_to_storage: bool = False,
        public_url: str | None = None,
        link_seconds: float = LINK_SECONDS,
        rules: OperatorRules = NO_RULES,
        certificates: str = "",
        space: Space | None = None,
        prompt_check: PromptCheck | None = None,
        prices: Mapping[str, float] | None = None,
        allowed: Allowed = ALLOWED,
        peers: Sequence[tuple[str, str | None]] = (),
        unsafe_from: float = 0.8,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._store = store
        self._models = models
        self._max_queued = max_queued
        self._max_queued_per_key = max_queued_per_key
        self._unknown_model_falls_back = unknown_model_falls_back
        self.links = Links(lambda: store.derived_keys(PURPOSE), public_url, link_seconds)
        self.results = Results(
            store,
            files,
            self.links,
            sends_to_storage=sends_to_storage,
            certificates=certificates,
            clock=clock,
        )
        self.files = Files(store, files, clock)
        self.characters = Characters(store, files, clock)
        self.jobs = Jobs(store, files, clock)
        self.drafts = Drafts(
            models,
            files,
            Sources(self.files, self.characters, self.results),
            rules=rules,
            prompt_check=prompt_check,
            expected_seconds=lambda plan: store.expected_seconds(plan, worker_silence_seconds),
            outbound=outbound,
            max_fetched_bytes=max_fetched_bytes,
            clock=clock,
        )
        self.condition = Condition(store, space, worker_silence_seconds)
        self.keys = Keys(store)
        self.commands = Commands(store, worker_silence_seconds)
        self.webhooks = Webhooks(store, outbound)
        self.buckets = Buckets(store, outbound)
        self.batches = Batches(store, self.files, clock)
        self.credits = Credits(store, prices or {})
        self.gallery = Gallery(store, self.links, clock)
        self.pictures = Pictures(
            self.files, self.drafts.fetched, link_seconds=link_seconds, threshold=unsafe_from
        )
        self.additions = Additions(store, models, self.commands, allowed)
        self.syncing = Syncing(self.additions, peers)
        self.availability = Availability(
            lambda: store.models_on_workers(worker_silence_seconds), lambda spec: models.is_here(spec)
        )
        self.outlook = Outlook(lambda: store.situation(worker_silence_seconds))

    def models(self, caller: Caller) -> list[ModelSpec]:
        """Return all models that the caller may use, the default one first."""
        return [spec for spec in self._models.all() if caller.may_use(spec.id)]

    def spec(self, name: str | None) -> ModelSpec:
        """Find a model by any of its names; None is the default.

        Raises:
            UnknownModel: there is none of that name.
        """
        return self._models.resolve(name)

    def spec_of_vendor(
        self, name: str | None, vae: str | None = None
    ) -> tuple[ModelSpec, tuple[Choice, ...]]:
        """Find a model by a name that a vendor's client sends.

        One that no card has is the default model, if settings allow, and so is one whose files are on no worker and not here.

        Args:
            name: of the model; none is the default.
            vae: an autoencoder that was added. One that is not there or does not fit is left out, which is told.

        Returns:
            The model, and the choice to keep with the job if it is not the one that was named.

        Raises:
            UnknownModel: there is none of that name, and the setting `server.unknown_model_falls_back` is off.
        """
        spec, choices = self._spec_or_default(name)
        if not vae:
            return spec, choices
        try:
            return self._models.resolve(f"{spec.id}{WITH_VAE}{vae}"), choices
        except UnknownModel as error:
            return spec, (*choices, Choice("vae", "the model's own", error.message))

    def _spec_or_default(self, name: str | None) -> tuple[ModelSpec, tuple[Choice, ...]]:
        try:
            spec = self._models.resolve(name)
        except UnknownModel as error:
            if not self._unknown_model_falls_back:
                raise
            spec = self._models.resolve(None)
            return spec, (Choice("model", spec.id, f"{error.message} here"),)
        if not name or not self._unknown_model_falls_back:
            return spec, ()
        default = self._models.resolve(None)
        if spec.id == default.id or self.availability.has(spec) or not self.availability.has(default):
            return spec, ()
        return default, (Choice("model", default.id, f"the files of `{spec.id}` are on no machine here"),)

    @property
    def marks(self) -> MarkRules:
        """What the operator wants of all files."""
        return self.drafts.rules.marks

    def loras_of(self, spec: ModelSpec) -> tuple[list[str], str | None]:
        """Name the operator's adapters that requests for a model may name, and what is wrong with its card's. Looks at files."""
        return self._models.loras.of(spec), self._models.loras.problem_of_card(spec)

    async def check_webhook(self, draft: Draft) -> None:
        """Find out whether the draft's webhook may be called, while its client can still be told.

        Raises:
            InvalidParameter: it may not, or its host has no address.
        """
        if draft.request.webhook is not None:
            await self.webhooks.check(draft.request.webhook.url)

    def count_request(self, caller: Caller) -> Allowance | None:
        """Count a request that makes a job.

        Returns:
            What the caller has left; None where it has no such limit, and nothing is counted.

        Raises:
            RateLimitExceeded: there were as many in this minute as the caller may send.
        """
        limit = caller.limits.requests_per_minute
        if limit is None:
            return None
        remaining = self._store.count_request(caller.key_id, limit)
        seconds = self._store.seconds_to_next_minute()
        if remaining < 0:
            message = f"this API key may make {limit} jobs a minute"
            raise RateLimitExceeded(message, limit=limit, retry_after_seconds=seconds)
        return Allowance(limit, remaining, seconds)

    def check_room(self, caller: Caller) -> None:
        """Find out quickly whether the queue is full, before any work is done for a request; `enqueue` looks again.

        Raises:
            QueueFull: too many jobs wait.
        """
        try:
            self._store.check_room(caller.key_id, self._max_queued, self._max_queued_of(caller))
        except QueueFull as error:
            raise self._in_time(error) from None

    def _max_queued_of(self, caller: Caller) -> int | None:
        return caller.limits.max_queued or self._max_queued_per_key

    def enqueue(self, draft: Draft, caller: Caller, once: Once | None = None) -> Job:
        """Make the draft a job. When this returns, the job is durable.

        Of a draft that did not become a job, by these errors or as a repetition, the inputs are to be dropped (`drop_inputs`).

        Args:
            draft: what `prepare` made; its inputs are stored.
            caller: whose job it will be.
            once: by what a repetition of the request is known.

        Returns:
            The new job; or the one that the request has made before, whose id is not the draft's.

        Raises:
            QueueFull: too many jobs wait; nothing was stored.
            StorageLimitReached: the caller's videos take as much space as they may; nothing was stored.
            IdempotencyConflict: the request's name was another request's; nothing was stored.
            InsufficientCredits: the caller has not enough credits; nothing was stored.
        """
        try:
            return self._store.create(
                draft.job_id,
                draft.request,
                draft.plan,
                self._max_queued,
                key_id=caller.key_id,
                max_queued_per_key=self._max_queued_of(caller),
                max_storage_bytes=caller.limits.max_storage_bytes,
                once=once,
                charge=self._charge(draft, caller),
            )
        except QueueFull as error:
            raise self._in_time(error) from None

    def kept_video(self, job: Job, name: str = "video", output: int = 0) -> Kept:
        """Name the video of a job that has one, to make another one from it; `results.open_video` says whether it has.

        Raises:
            InvalidParameter: it is of a kind, or so large, that it cannot be read again.
        """
        (video,) = (video for video in job.videos if video.index == output)  # as it was opened first
        if video.media_type != "video/mp4":
            hint = "make it again as MP4"
            raise InvalidParameter(name, job.id, "it is a GIF, and only MP4 videos can be used", hint=hint)
        if video.width * video.height > media.MAX_VIDEO_PIXELS:
            rule = f"only videos of at most {media.MAX_VIDEO_PIXELS} pixels can be used, such as 3840x2160"
            hint = "make it again, smaller"
            raise InvalidParameter(name, f"{video.width}x{video.height}", rule, hint=hint)
        return Kept(video.key, video, job.id, job.plan.watermark, job.plan.fit == "pad")

    def check_feed_room(self, lease: BatchLease, caller: Caller) -> None:
        """Find out quickly whether one more job of a batch may wait; `feed` looks again.

        Raises:
            QueueFull: as many wait as may.
            DiskFull: there is no room for its files.
        """
        self.condition.check_space()
        self._store.check_feed_room(lease, *self._batch_share(caller))

    def feed(self, lease: BatchLease, line_number: int, draft: Draft, caller: Caller) -> Job:
        """Make the draft of a batch's request a job, once. Its inputs are stored.

        Raises:
            LeaseLost: the batch is another process's, or shall end; there is no job, and its inputs are to be dropped.
            QueueFull: as many wait as may; likewise.
            StorageLimitReached: the caller's videos take as much space as they may; likewise.
            InsufficientCredits: the caller has not enough credits; likewise.
        """
        max_queued, max_queued_per_key = self._batch_share(caller)
        return self._store.feed_line(
            lease,
            line_number,
            draft.job_id,
            dataclasses.replace(draft.request, priority=BATCH_PRIORITY),
            draft.plan,
            max_queued=max_queued,
            max_queued_per_key=max_queued_per_key,
            max_storage_bytes=caller.limits.max_storage_bytes,
            charge=self._charge(draft, caller),
        )

    def _charge(self, draft: Draft, caller: Caller) -> Charge | None:
        return self.credits.charge(draft.plan, self._models.resolve(draft.request.model), caller)

    def quote(self, draft: Draft) -> Quote:
        """Tell what a draft costs who is counted."""
        return self.credits.quote(draft.plan, self._models.resolve(draft.request.model))

    def use_of(self, caller: Caller) -> Use:
        """Tell what a caller has of the server now."""
        return self._store.use_of(caller.key_id)

    def _batch_share(self, caller: Caller) -> tuple[int, int | None]:
        own = self._max_queued_of(caller)
        return max(1, self._max_queued // 2), None if own is None else max(1, own // 2)

    def _in_time(self, error: QueueFull) -> QueueFull:
        return QueueFull(error.message, retry_after_seconds=self.outlook.retry_seconds())

    def submit(self, request: GenerationRequest, caller: Caller, sent: Sent = NOTHING) -> Job:
        """Do the three steps in one."""
        draft = self.drafts.prepare(request, caller, sent)
        if self.drafts.has_loras(draft):
            self.drafts.check_loras(draft)
        return self._finish_submit(self.drafts.store_inputs(draft), caller)

    def _finish_submit(self, draft: Draft, caller: Caller) -> Job:
        try:
            return self.enqueue(draft, caller)
        except REFUSALS:
            self.drafts.drop_inputs(draft)
            raise

    def retry(self, job_id: str, caller: Caller) -> Job:
        """Make a new job of an ended one's request and seed; raises what `get` and the steps raise."""
        draft = self.drafts.store_inputs(self.drafts.prepare_again(self.jobs.get(job_id, caller), caller))
        return self._finish_submit(draft, caller)

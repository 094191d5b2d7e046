"""The service: from a request to a stored job, and from a job to its file."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Protocol

from vitascope import media
from vitascope.catalog import Allowed
from vitascope.domain import improved_sampling, prompting, speed_levels
from vitascope.domain.access import Allowance, Caller, Use
from vitascope.domain.added import WITH_VAE
from vitascope.domain.batch import BATCH_PRIORITY, BatchLease
from vitascope.domain.choice import Choice
from vitascope.domain.errors import (
    DiskFull,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidParameter,
    JobConflict,
    JobNotFound,
    PermissionDenied,
    QueueFull,
    RateLimitExceeded,
    StorageError,
    StorageLimitReached,
    StorageUnavailable,
    StoreUnavailable,
    UnknownModel,
    VitascopeError,
)
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.marks import MarkRules
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.money import Quote
from vitascope.domain.once import Once
from vitascope.domain.plan import DEFAULT_RULES, Plan, plan
from vitascope.domain.prompting import NO_PROMPT_RULES, PromptRules
from vitascope.domain.request import GenerationRequest, Lora
from vitascope.domain.speed_levels import SpeedLevel
from vitascope.domain.webhook import Backlog
from vitascope.outbound import Outbound
from vitascope.storage import Space, Storage
from vitascope.store import Charge, Event, JobNews, Page, QueueStats, Store

from . import ids, inputs
from .additions import Additions
from .availability import Availability
from .batches import Batches
from .buckets import Buckets
from .characters import Characters
from .commands import Commands
from .credits import Credits
from .files import Files
from .gallery import Gallery
from .inputs import NOTHING, Kept, Sent
from .keys import Keys
from .links import PURPOSE, Links
from .outlook import Outlook
from .pictures import Pictures
from .results import Results
from .syncing import Syncing
from .webhooks import Webhooks

if TYPE_CHECKING:
    from vitascope.moderation import PromptCheck

SEED_BITS = 32
"""Drawn seeds stay small enough that JavaScript reads them exactly."""


def _drawn_seed() -> int:
    return secrets.randbits(SEED_BITS)


ALLOWED = Allowed()

LINK_SECONDS = 24 * 3600.0


REFUSALS = (QueueFull, StorageLimitReached, IdempotencyConflict, InsufficientCredits)
"""What `enqueue` raises after which there certainly is no job."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Loras(Protocol):
    """What the service needs of the operator's adapters."""

    def check(self, asked: Sequence[Lora], spec: ModelSpec) -> None:
        """Find out whether they are there and fit. Raises InvalidParameter."""

    def of(self, spec: ModelSpec) -> list[str]:
        """Name those that fit a model."""

    def problem_of_card(self, spec: ModelSpec) -> str | None:
        """Say what is wrong with those that the model's card names."""


class Models(Protocol):
    """What the service needs of the catalog."""

    def all(self) -> list[ModelSpec]: ...

    def resolve(self, name: str | None) -> ModelSpec:
        """Find a model; None is the default. Raises UnknownModel."""

    def is_here(self, spec: ModelSpec) -> bool:
        """Whether this machine has its files."""

    def look_soon(self) -> None:
        """Look anew at what was added."""

    @property
    def loras(self) -> Loras: ...


@dataclass(frozen=True, slots=True)
class Draft:
    """A checked request that has an id, but is not a job yet: nothing is stored and nothing is promised."""

    job_id: str
    request: GenerationRequest
    plan: Plan
    #: Pictures and videos that came with it; `request` has the keys under which they will be stored.
    sent: Sent = NOTHING
    #: What its dialect decided.
    choices: tuple[Choice, ...] = ()


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
        marks: what the operator wants of all files.
        certificates: PEM, of the chain that this server's files are signed with; empty if they are not.
        expire_seconds: how long files are kept whose request does not say; None for as long as their job.
        space: the disk's; None takes jobs however full it is.
        prompt_rules: whether prompts are written out.
        prompt_check: looks at requests' texts; None lets all pass.
        shows_previews: whether what is not finished may be seen.
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
        marks: MarkRules = DEFAULT_RULES,
        improved_sampling_iterations: int = improved_sampling.DEFAULT_ITERATIONS,
        speed: SpeedLevel = "lossless",
        certificates: str = "",
        expire_seconds: int | None = None,
        space: Space | None = None,
        prompt_rules: PromptRules = NO_PROMPT_RULES,
        prompt_check: PromptCheck | None = None,
        shows_previews: bool = True,
        prices: Mapping[str, float] | None = None,
        allowed: Allowed = ALLOWED,
        peers: Sequence[tuple[str, str | None]] = (),
        unsafe_from: float = 0.8,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._store = store
        self._models = models
        self._files = files
        self._max_queued = max_queued
        self._max_queued_per_key = max_queued_per_key
        self._worker_silence_seconds = worker_silence_seconds
        self.keys = Keys(store)
        self.commands = Commands(store, worker_silence_seconds)
        self.webhooks = Webhooks(store, outbound)
        self.buckets = Buckets(store, outbound)
        self.files = Files(store, files, clock)
        self.characters = Characters(store, files, clock)
        self.batches = Batches(store, self.files, clock)
        self.credits = Credits(store, prices or {})
        self._outbound = outbound
        self._max_fetched_bytes = max_fetched_bytes
        self._unknown_model_falls_back = unknown_model_falls_back
        self.links = Links(lambda: store.derived_keys(PURPOSE), public_url, link_seconds)
        self.gallery = Gallery(store, self.links, clock)
        self.results = Results(
            store,
            files,
            self.links,
            sends_to_storage=sends_to_storage,
            certificates=certificates,
            clock=clock,
        )
        self.pictures = Pictures(self.files, self._fetched, link_seconds=link_seconds, threshold=unsafe_from)
        self._marks = marks
        self._improved_sampling_iterations = improved_sampling_iterations
        self._speed = speed
        self._expire_seconds = expire_seconds
        self._space = space
        self._prompt_rules = prompt_rules
        self._prompt_check = prompt_check
        self._shows_previews = shows_previews
        self.additions = Additions(store, models, self.commands, allowed)
        self.syncing = Syncing(self.additions, peers)
        self._clock = clock
        self.availability = Availability(
            lambda: store.models_on_workers(worker_silence_seconds), lambda spec: models.is_here(spec)
        )
        self.outlook = Outlook(lambda: store.situation(worker_silence_seconds))

    # models

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
        return self._marks

    def loras_of(self, spec: ModelSpec) -> tuple[list[str], str | None]:
        """Name the operator's adapters that requests for a model may name, and what is wrong with its card's. Looks at files."""
        return self._models.loras.of(spec), self._models.loras.problem_of_card(spec)

    # submitting: prepare is quick and pure, fetch_inputs waits for other servers, store_inputs reads pictures and videos,
    # enqueue writes to the database

    def prepare(
        self,
        request: GenerationRequest,
        caller: Caller,
        sent: Sent = NOTHING,
        choices: Sequence[Choice] = (),
    ) -> Draft:
        """Check and plan a request.

        Args:
            request: what is asked for; missing seeds are drawn here.
            caller: who asks.
            sent: pictures and videos that came with it. The request's fields for them are then set.
            choices: what the dialect decided on its own; kept with the job.

        Raises:
            UnknownModel: there is no such model.
            PermissionDenied: the caller may not use it.
            InvalidParameter: it asks for something that cannot be made.
        """
        job_id = ids.new_id()
        if request.seed is None:
            request = dataclasses.replace(request, seed=_drawn_seed(), is_seed_drawn=True)
        request = improved_sampling.drawn(request, self._improved_sampling_iterations, _drawn_seed)
        request = speed_levels.settled(request, self._speed)
        if request.expires_in_seconds is None:
            request = dataclasses.replace(request, expires_in_seconds=self._expire_seconds)
        request = inputs.named(request, sent, job_id)
        spec = self._models.resolve(request.model)
        if not caller.may_use(spec.id):
            raise PermissionDenied(f"this API key may not use the model `{spec.id}`")
        request, followed = inputs.following_kept(request, sent, spec.fps)
        request, told = prompting.settled(request, spec, self._prompt_rules)
        request, hidden = self._with_previews(request)
        choices = (*choices, *followed, *told, *hidden)
        return Draft(job_id, request, self._planned(request, spec, choices), sent, tuple(choices))

    def _with_previews(self, request: GenerationRequest) -> tuple[GenerationRequest, tuple[Choice, ...]]:
        if self._shows_previews or not request.preview_every:
            return request, ()
        reason = "this server looks at frames before anybody sees them, and previews come before that"
        return dataclasses.replace(request, preview_every=0), (Choice("preview_every", "0", reason),)

    def _planned(self, request: GenerationRequest, spec: ModelSpec, choices: Sequence[Choice]) -> Plan:
        planned = plan(request, spec, self._marks)
        return dataclasses.replace(planned, choices=(*choices, *planned.choices)) if choices else planned

    def prepare_plan(self, request: GenerationRequest, caller: Caller, sent: Sent = NOTHING) -> Draft:
        """Do what `prepare` does for who asks for the plan only, and tell what it does not know yet; raises the same."""
        draft = self.prepare(request, caller, sent)
        choices = (*inputs.not_followed(draft.request), *draft.plan.choices)
        return dataclasses.replace(draft, plan=dataclasses.replace(draft.plan, choices=choices))

    @property
    def expire_seconds(self) -> int | None:
        """How long files are kept whose request does not say; None for as long as their job."""
        return self._expire_seconds

    def is_expired(self, job: Job) -> bool:
        """Whether the job's files are given out no more."""
        return job.is_expired(self._clock())

    def expected_seconds(self, draft: Draft) -> float | None:
        """Estimate how long a draft would take once it runs, from measured speeds; None if nobody knows."""
        return self._store.expected_seconds(draft.plan, self._worker_silence_seconds)

    def made_before(self, once: Once, caller: Caller) -> Job | None:
        """Find the job of a repeated request before anything slow is done for it; `enqueue` looks again.

        Raises:
            IdempotencyConflict: the request's name was another request's.
        """
        return self._store.made_before(once, key_id=caller.key_id)

    def has_loras(self, draft: Draft) -> bool:
        """Whether adapters are applied, which `check_loras` is to look at."""
        return bool(draft.request.loras) or any(spec.loras for spec in self._specs_of(draft))

    def check_loras(self, draft: Draft) -> None:
        """Find out whether the draft's adapters are there and were made for its model. Looks at files.

        Raises:
            InvalidParameter: one is not there, not whole, a pickle, or made for another architecture; or one of a card.
        """
        first, *second = self._specs_of(draft)
        self._models.loras.check(draft.request.loras, first)
        for spec in second:
            self._models.loras.check((), spec)

    def _specs_of(self, draft: Draft) -> list[ModelSpec]:
        """Return the draft's model, and the one of its second pass if that is another."""
        spec = self._models.resolve(draft.request.model)
        return [spec] if draft.plan.upscale is None or spec.second is None else [spec, spec.second]

    @property
    def checks_texts(self) -> bool:
        return self._prompt_check is not None

    async def check_texts(self, texts: Mapping[str, str]) -> None:
        """Find out whether texts, by the names of their parameters, are allowed here. May wait for another server.

        Raises:
            ContentRejected: one of them is not.
            ModerationUnavailable: nobody can say.
        """
        if self._prompt_check is not None:
            await self._prompt_check.check(texts)

    async def check_webhook(self, draft: Draft) -> None:
        """Find out whether the draft's webhook may be called, while its client can still be told.

        Raises:
            InvalidParameter: it may not, or its host has no address.
        """
        if draft.request.webhook is not None:
            await self.webhooks.check(draft.request.webhook.url)

    async def fetch_inputs(self, draft: Draft) -> Draft:
        """Fetch what the draft names by URL, so that nothing later depends on that.

        Raises:
            InvalidParameter: a URL is not one that is fetched, or there is no file of a bearable size.
            QueueFull: too many are being fetched.
        """
        return dataclasses.replace(draft, sent=await self._fetched(draft.sent))

    async def _fetched(self, sent: Sent) -> Sent:
        return await inputs.fetched(sent, self._outbound, self._max_fetched_bytes, self.results.read_own_link)

    def look_up_inputs(self, draft: Draft, caller: Caller) -> Draft:
        """Read what the draft names by ids of uploaded files. May wait for a network.

        Raises:
            InvalidParameter: the caller has no such file or character.
        """
        sent = self.characters.looked_up(self.files.looked_up(draft.sent, caller), caller)
        return dataclasses.replace(draft, sent=sent)

    def store_inputs(self, draft: Draft) -> Draft:
        """Check the draft's pictures and video and store them. A video that was sent may decide size and length.

        Raises:
            InvalidParameter: one of them cannot be read, or its video asks for something that cannot be made.
            QueueFull: too many are being read.
        """
        draft = self.follow(draft)
        try:
            inputs.store(draft.sent, draft.request, draft.plan, self._files)
        except VitascopeError:
            self.drop_inputs(draft)  # those that came before the wrong one: no job has this id yet
            raise
        return draft

    def follow(self, draft: Draft) -> Draft:
        """Take from the video that was sent, which is measured, what it decides; nothing is stored.

        Raises:
            InvalidParameter: it cannot be read, or asks for something that cannot be made.
        """
        sent, spec = draft.sent, self._models.resolve(draft.request.model)
        if isinstance(sent.video, bytes):
            request, choices = inputs.following(draft.request, inputs.measured(sent.video), spec.fps)
        elif isinstance(sent.continues, bytes):
            measured = inputs.measured(sent.continues, "continues")
            request, choices = inputs.continuing(draft.request, measured)
        else:
            return draft
        if not choices:  # as of a job that is made again: its plan says what was taken from the video
            return draft
        choices = (*draft.choices, *choices)
        return dataclasses.replace(draft, request=request, plan=self._planned(request, spec, choices))

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

    def check_space(self) -> None:
        """Find out, without a look at the disk for each request, whether there is room for another job's files.

        Raises:
            DiskFull: there is not.
        """
        if self.is_disk_full:
            raise DiskFull

    @property
    def is_disk_full(self) -> bool:
        return self._space is not None and self._space.is_low

    @property
    def free_bytes(self) -> int | None:
        """What is left on the disk; None if nobody knows."""
        return None if self._space is None else self._space.free_bytes

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

    # batches: what is asked for directly has the other half of the queue, and of its key's part of it

    def check_feed_room(self, lease: BatchLease, caller: Caller) -> None:
        """Find out quickly whether one more job of a batch may wait; `feed` looks again.

        Raises:
            QueueFull: as many wait as may.
            DiskFull: there is no room for its files.
        """
        self.check_space()
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

    def drop_inputs(self, draft: Draft) -> None:
        """Remove the stored inputs of a draft that did not become a job. May wait for a network.

        After any error but those that `enqueue` names the job may be stored all the same: then its inputs must stay.
        """
        if any(draft.sent.items()):
            self.remove(draft.request.inputs)

    def _in_time(self, error: QueueFull) -> QueueFull:
        return QueueFull(error.message, retry_after_seconds=self.outlook.retry_seconds())

    def submit(self, request: GenerationRequest, caller: Caller, sent: Sent = NOTHING) -> Job:
        """Do the three steps in one."""
        draft = self.prepare(request, caller, sent)
        if self.has_loras(draft):
            self.check_loras(draft)
        return self._finish_submit(self.store_inputs(draft), caller)

    def _finish_submit(self, draft: Draft, caller: Caller) -> Job:
        try:
            return self.enqueue(draft, caller)
        except REFUSALS:
            self.drop_inputs(draft)
            raise

    def prepare_again(self, job: Job, caller: Caller) -> Draft:
        """Plan a job's request anew, with the seed that it had and inputs of its own. Reads the inputs.

        Raises:
            JobConflict: the job has not ended, or its inputs are not kept any more.
            UnknownModel: its model is not there any more.
            InvalidParameter: its model no longer makes this.
        """
        if not job.status.is_terminal:
            message = f"the job is {job.status}: only one that has ended can be made again"
            raise JobConflict(message, hint="cancel it first, or send its request a second time")
        # what was decided of its prompt stays, whatever the operator wants by now
        request = dataclasses.replace(
            job.request,
            enhance_prompt=job.plan.enhance_prompt,
            enhanced_prompts=job.enhanced_prompts,
            is_seed_drawn=False,  # who makes a video again wants its seed
        )
        draft = self.prepare(request, caller, self._sent_with(job))
        own = draft.plan.choices
        if job.plan.choices[len(job.plan.choices) - len(own) :] != own:
            return draft
        # planned as before, so what its dialect had decided is true of this one too
        return dataclasses.replace(draft, plan=dataclasses.replace(draft.plan, choices=job.plan.choices))

    def retry(self, job_id: str, caller: Caller) -> Job:
        """Make a new job of an ended one's request and seed; raises what `get` and the steps raise."""
        draft = self.store_inputs(self.prepare_again(self.get(job_id, caller), caller))
        return self._finish_submit(draft, caller)

    def _sent_with(self, job: Job) -> Sent:
        request = job.request
        if not request.inputs:
            return NOTHING
        what = "its first frame is" if request.inputs == (request.image,) else "what was sent with it is"
        message = f"the job cannot be made again: {what} not kept any more"
        if job.is_expired(self._clock()):
            raise JobConflict(message, hint="send its request and its files again")

        def read(key: str | None) -> bytes | None:
            if key is None:
                return None
            with self._files.open(key) as file:
                return file.read()

        try:
            references = [read(key) for key in request.references]
            return Sent(
                image=read(request.image),
                last_image=read(request.last_image),
                video=read(request.video),
                continues=read(request.continues),
                references=tuple(content for content in references if content is not None),
                watermark=read(None if request.watermark is None else request.watermark.image),
            )
        except StorageUnavailable:
            raise
        except StorageError as error:
            raise JobConflict(message, hint="send its request and its files again") from error

    # jobs

    def get(self, job_id: str, caller: Caller) -> Job:
        """Return a job.

        Raises:
            JobNotFound: there is none of the caller's; malformed ids and others' jobs are no other case.
        """
        if not ids.is_id(job_id):
            raise JobNotFound
        return self._store.get(job_id, caller.owner)

    def numbered(self, number: int, caller: Caller) -> Job:
        """Return the job of a number.

        Raises:
            JobNotFound: there is none of the caller's.
        """
        return self._store.numbered(number, caller.owner)

    def page(
        self,
        caller: Caller,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        statuses: Collection[JobStatus] = (),
        user: str | None = None,
    ) -> Page:
        """List jobs by arrival; of some statuses only, or of all if none is named; of one end user, or of all.

        Raises:
            InvalidParameter: no job has the id `after`.
        """
        return self._store.page(
            after=after, limit=limit, order=order, statuses=statuses, owner=caller.owner, user=user
        )

    def cancel(self, job_id: str, caller: Caller) -> Job:
        """Cancel a queued job at once, ask a running one to stop, leave an ended one as it is.

        Raises:
            JobNotFound: there is none.
        """
        if not ids.is_id(job_id):
            raise JobNotFound
        return self._store.request_cancel(job_id, caller.owner)

    def mark_read(self, job_id: str) -> None:
        """Note that the job's client knows its id."""
        self._store.mark_read(job_id)

    def delete(self, job_id: str, caller: Caller) -> Sequence[str]:
        """Hide a job for good and stop it if it has not ended.

        Returns:
            Keys of files that nobody needs any more: hand them to `remove` once the deletion is durable.

        Raises:
            JobNotFound: there is none.
        """
        if not ids.is_id(job_id):
            raise JobNotFound
        return self._store.delete(job_id, caller.owner)

    def remove(self, keys: Sequence[str]) -> None:
        """Remove files that nobody needs any more."""
        for key in keys:
            # what stays behind has no row any more: it is swept later, and the client's wish is fulfilled
            with contextlib.suppress(StorageError):
                self._files.delete(key)

    def events(self, job_id: str, after: int = 0) -> list[Event]:
        """Return what happened to a job after the event of that number, oldest first."""
        return self._store.events(job_id, after)

    def events_after(self, cursors: Mapping[str, int]) -> list[Event]:
        """Return what happened to several jobs, for the reader that serves all streams."""
        return self._store.events_after(cursors)

    def watch_jobs(self) -> JobNews:
        """Hear of jobs that have ended, for that reader."""
        return self._store.watch_jobs()

    def together(self) -> AbstractContextManager[None]:
        """Make one transaction of what this thread writes in the block, where that saves waiting for the disk."""
        return self._store.together()

    # operators

    def why_not_ready(self) -> str | None:
        """Say why jobs are not being made now; None if they are."""
        try:
            alive = self._store.live_workers(self._worker_silence_seconds)
        except StoreUnavailable:
            return "the database does not answer"
        if not alive:
            return "no worker is running"
        return None

    def why_no_jobs(self) -> str | None:
        """Say why new jobs are refused while all else works; None if they are not. A full queue is no such reason: it moves."""
        if self._space is not None and self._space.is_low:
            return f"the disk is nearly full: fewer than {self._space.min_free_bytes} bytes are free"
        return None

    def live_workers(self) -> int:
        return self._store.live_workers(self._worker_silence_seconds)

    def deployment_id(self) -> str:
        """Return the name that all processes on this database share."""
        return self._store.deployment_id()

    def count_overdue(self) -> int:
        """Count jobs whose files should be gone by now and are not known to be."""
        return self._store.count_overdue()

    def queue_stats(self) -> QueueStats:
        return self._store.queue_stats()

    def newest_waiting(self) -> int:
        """Return the number of the last job that waits; 0 if none does."""
        return self._store.newest_waiting()

    def cancel_waiting(self, newest: int) -> int:
        """Cancel some of the jobs that wait, whosever they are, up to this number; returns how many, 0 where there are none left."""
        return self._store.cancel_waiting(newest)

    def webhook_backlog(self) -> Backlog:
        return self._store.webhook_backlog()
